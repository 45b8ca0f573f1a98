"""What ResNet-50 on ImageNet would take: shares of peak measured here, peaks published.

python benchmarks/scaling.py [--figure FILE] [--out FILE]
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from matplotlib.figure import Figure
from report import Report
from torch.utils.flop_counter import FlopCounterMode

from eigenscope.planning import format_seconds

# Shares of this machine's sgemm (184 GFLOP/s on two quiet threads), from the results:
# ResNet-20's input Jacobian, a Gram matrix from disk, ResNet-20's tangent kernel.
PASSES, GRAM, PAIRS = 462 / 2.93 / 184, 154 / 184, 221 / 3.486 / 184
# Numbers read for the eigenvalues of 10,000 rows, n³/6, in 48 s.
HOST_BANDWIDTH = 8 * 10_000**3 / 6 / 48
ITEM = 4


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peaks without sparsity; docs/concepts/scaling.md says where from."""

    name: str
    tf32: float
    fp32: float
    bandwidth: float
    memory: float


DEVICES = (
    Device(
        name="A100 80GB", tf32=156e12, fp32=19.5e12, bandwidth=2.039e12, memory=80e9
    ),
    Device(
        name="H100 SXM", tf32=494.7e12, fp32=66.9e12, bandwidth=3.35e12, memory=80e9
    ),
)
NETWORK = 50e9  # bytes/s of one 400 Gb/s port for each device
DISK = 5e9  # bytes/s of one NVMe disk


@dataclass(frozen=True, kw_only=True)
class Work:
    """A part of a job: what it takes of each resource in all."""

    name: str
    flops: float = 0.0
    share: float = PASSES
    is_tf32: bool = True
    traffic: float = 0.0
    sent: float = 0.0
    stored: float = 0.0
    host: float = 0.0

    def seconds(self, device: Device, num_devices: int) -> dict[str, float]:
        """Return the time that each resource needs by itself."""
        peak = device.tf32 if self.is_tf32 else device.fp32
        return {
            "arithmetic": self.flops / (self.share * peak * num_devices),
            "device memory": self.traffic / (device.bandwidth * num_devices),
            "network": self.sent / NETWORK,
            "disk": self.stored / (DISK * num_devices),
            "host memory": self.host / HOST_BANDWIDTH,
        }


def resnet50() -> tuple[float, float, int]:
    """Return flops and activations of one forward pass, and parameters."""
    with torch.device("meta"):
        model = torchvision.models.resnet50().eval()
        x = torch.empty(1, 3, 224, 224)
    sizes: list[int] = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *found: sizes.append(found[2].numel()))
    with FlopCounterMode(display=False) as counted:
        model(x)
    count = sum(parameter.numel() for parameter in model.parameters())
    return float(counted.get_total_flops()), float(sum(sizes)), count


def jobs(n: int, k: int, num_vectors: int) -> Iterator[tuple[str, list[Work]]]:
    flops, activations, num_params = resnet50()
    rows = n * k * 3 * 224 * 224
    once = 2 * activations * ITEM  # every activation is written and read
    passes = Work(
        name="k backward passes to the inputs",
        flops=n * k * flops,
        traffic=n * k * once,
        stored=rows * ITEM,
    )
    gram = Work(
        name="Gram matrix n × n",
        flops=float(n) * rows,
        share=GRAM,
        is_tf32=False,
        stored=rows * ITEM,
    )
    solve = Work(name="its eigenvalues, on the host", host=8 * n**3 / 6)
    yield f"input Jacobian, {n:,} × {k:,} outputs", [passes, gram, solve]
    gradients = Work(
        name="k backward passes, gradients",
        flops=2 * n * k * flops,
        traffic=n * k * (2 * once + num_params * ITEM),
        stored=float(n) * k * num_params * ITEM,
    )
    pairs = Work(
        name="products of pairs, trace",
        flops=float(n) ** 2 * k * num_params,
        share=PAIRS,
        is_tf32=False,
        stored=float(n) * k * num_params * ITEM,
    )
    yield f"trace NTK, {n:,} × {k:,} outputs", [gradients, pairs, solve]
    many = 10**6
    products = Work(
        name=f"{num_vectors} Hessian products",
        flops=num_vectors * many * 6 * flops,
        traffic=num_vectors * many * 6 * once,
        sent=num_vectors * 2 * num_params * ITEM,
    )
    yield f"Hessian density, {many:,} samples", [products]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    report = Report()
    found = dict(jobs(50_000, 1000, 100 + 8 * 48))
    report.table("job", "part", "devices", "time", "set by", "next", "on disk")
    for title, parts in found.items():
        for device in DEVICES:
            for count in (1, 64):
                for part in parts:
                    times = part.seconds(device, count)
                    first, second = sorted(times, key=lambda name: -times[name])[:2]
                    report.row(
                        title,
                        part.name,
                        f"{count} × {device.name}",
                        format_seconds(times[first]),
                        first,
                        f"{second}, {format_seconds(times[second])}",
                        f"{part.stored / 1e12:.3g} TB" if part.stored else "–",
                    )
    if chosen.out:
        chosen.out.write_text("\n".join(report.lines) + "\n")
    if chosen.figure:
        draw(found, chosen.figure)


def draw(found: dict[str, list[Work]], path: Path) -> None:
    """Draw the time of each job against the number of devices."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True)
    counts = [2**power for power in range(9)]
    for ax, (title, parts) in zip(axes, found.items(), strict=True):
        for part in parts:
            hours = [
                max(part.seconds(DEVICES[1], count).values()) / 3600 for count in counts
            ]
            ax.loglog(counts, hours, marker="o", markersize=3, label=part.name)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("H100 devices")
        ax.grid(visible=True, alpha=0.3)
        ax.legend(fontsize=7)
    axes[0].set_ylabel("hours")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
