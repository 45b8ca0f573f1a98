"""Full and trace tangent kernels against torch.func and other libraries.

    python benchmarks/ntk.py [--quick] [--output FILE]

Every ratio is of medians of interleaved repetitions in one run. Needs the extra
`vision` (a ResNet-20 with random weights and running statistics); nngeometry is timed
where it is installed (group `peers`).
"""

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import eigenscope as es

Kernel = Callable[[nn.Module, Tensor], Tensor]


@dataclass
class Report:
    """Markdown that is printed as it grows and written at the end."""

    lines: list[str] = field(default_factory=list)

    def add(self, text: str = "") -> None:
        print(text, flush=True)
        self.lines.append(text)

    def table(self, *header: str) -> None:
        self.add("| " + " | ".join(header) + " |")
        self.add("|" + "---|" * len(header))

    def row(self, *cells: str) -> None:
        self.add("| " + " | ".join(cells) + " |")


def lenet() -> tuple[nn.Module, tuple[int, ...]]:
    model = nn.Sequential(
        *[nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
        *[nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()],
        nn.Linear(84, 10),
    )
    return model, (1, 28, 28)


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    layers: list[nn.Module] = [nn.Linear(3072, 512), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10)), (3072,)


def resnet20() -> tuple[nn.Module, tuple[int, ...]]:
    from pytorchcv.model_provider import get_model

    model = get_model("resnet20_cifar10")
    source = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=source)
            module.running_var.uniform_(0.5, 1.5, generator=source)
    return model, (3, 32, 32)


class Encoder(nn.Module):
    """Two transformer layers of width 64 with 4 heads, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


def encoder() -> tuple[nn.Module, tuple[int, ...]]:
    return Encoder(), (16, 64)


MODELS = {"LeNet": lenet, "3×512 MLP": mlp, "ResNet-20": resnet20, "encoder": encoder}


def torch_func(model: nn.Module, x: Tensor) -> Tensor:
    """Contract per-sample Jacobians, as the torch.func tutorial does."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def single(p: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, p, sample.unsqueeze(0)).squeeze(0)

    rows = torch.func.vmap(torch.func.jacrev(single), (None, 0))(params, x)
    return torch.stack(
        [
            torch.einsum("icp,jep->ijce", J.flatten(2), J.flatten(2))
            for J in rows.values()
        ]
    ).sum(0)


def nngeometry(model: nn.Module, x: Tensor) -> Tensor:
    from nngeometry.generator.jacobian import Jacobian
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object.fspace import FMatDense as Dense

    loader = [(x, torch.zeros(len(x), dtype=torch.long))]
    layers = LayerCollection.from_model(model)
    generator = Jacobian(model=model, function=lambda *d: model(d[0]), n_output=10)
    found = Dense(layers, generator, examples=loader).get_dense_tensor()
    return found.permute(1, 3, 0, 2)


def ours(model: nn.Module, x: Tensor) -> Tensor:
    return es.ntk(model, x)


def timed(kernels: dict[str, Kernel], model: nn.Module, x: Tensor, r: int) -> Any:
    """Return median seconds by name; what fails is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    reference = None
    for name, kernel in list(kernels.items()):
        try:
            found = kernel(model, x).detach()
        except Exception as error:  # another library may do anything
            print(f"{name} cannot: {type(error).__name__}: {str(error)[:100]}")
            del seconds[name]
            continue
        reference = found if reference is None else reference
        error = float((found - reference).abs().max() / reference.abs().max())
        if error > 1e-3:
            print(f"{name} differs from eigenscope by {error:.2g} of the largest entry")
    for _ in range(r):
        for name, times in seconds.items():
            start = time.perf_counter()
            kernels[name](model, x)
            times.append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def speed(report: Report, sizes: list[tuple[str, int]], repetitions: int) -> None:
    report.add("\n### Full NTK, k = 10\n")
    peers: dict[str, Kernel] = {"eigenscope": ours, "torch.func": torch_func}
    if importlib.util.find_spec("nngeometry"):
        peers["nngeometry"] = nngeometry
    report.table("model", "n", *(f"{name}, s" for name in peers), "torch.func / ours")
    for name, n in sizes:
        model, shape = MODELS[name]()
        model = model.eval()
        x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))
        found = timed(peers, model, x, repetitions)
        cells = [f"{found[p]:.3f}" if p in found else "–" for p in peers]
        ratio = found.get("torch.func", float("nan")) / found["eigenscope"]
        report.row(name, str(n), *cells, f"{ratio:.1f}")


def growth(report: Report, repetitions: int) -> None:
    report.add("\n### How the cost grows, LeNet and MLPs of three widths\n")
    report.table("model", "n", "k", "P", "full, s", "trace, s", "pseudo, s")
    rows: list[tuple[int, int, int]] = []
    rows += [(n, 10, 128) for n in (64, 128, 256)]
    rows += [(128, k, 128) for k in (1, 100)]
    rows += [(128, 10, width) for width in (32, 512)]
    for n, k, width in rows:
        layers = [nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width)]
        model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, k))
        x = torch.randn(n, 256, generator=torch.Generator().manual_seed(1))
        cells: list[str] = []
        for outputs in ("full", "trace", "pseudo"):
            times: list[float] = []
            for _ in range(repetitions + 1):
                start = time.perf_counter()
                es.ntk(model, x, outputs=outputs)
                times.append(time.perf_counter() - start)
            cells.append(f"{statistics.median(times[1:]):.3f}")
        P = sum(p.numel() for p in model.parameters())
        report.row(f"256-{width}-{width}-{k}", str(n), str(k), f"{P:,}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    report = Report()
    threads = torch.get_num_threads()
    report.add(f"torch {torch.__version__}, {threads} threads, {platform.machine()}")
    if options.quick:
        speed(report, [("LeNet", 64), ("encoder", 32)], 1)
    else:
        sizes = [("LeNet", 128), ("LeNet", 512), ("ResNet-20", 64)]
        sizes += [("3×512 MLP", 512), ("encoder", 128)]
        speed(report, sizes, options.repetitions)
        growth(report, options.repetitions)
    if options.output:
        options.output.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
