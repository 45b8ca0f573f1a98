"""Products of the Hessian and exact spectra of layers, against what users have today.

    python benchmarks/curvature.py [--quick] [--output FILE]

Ratios are of medians of interleaved repetitions in one run. curvlinops takes part if it
is installed (dependency group `peers`); the ResNet-20, with random weights and running
statistics, needs the extra `vision`.
"""

import argparse
import importlib
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

import eigenscope as es

Way = Callable[[Tensor], Tensor]


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def resnet20() -> nn.Module:
    model = get_model("resnet20_cifar10").eval()
    source = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=source)
            module.running_var.uniform_(0.5, 1.5, generator=source)
    return model


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Way:
    leaves = list(model.parameters())

    def once(_: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(model(x), y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, leaves)])

    return once


def kept_graph(model: nn.Module, x: Tensor, y: Tensor) -> Way:
    """Return what PyHessian does: one graph of the gradient, one pass for a vector."""
    leaves = list(model.parameters())
    value = nn.functional.cross_entropy(model(x), y)
    first = torch.autograd.grad(value, leaves, create_graph=True)
    flat = torch.cat([g.flatten() for g in first])

    def multiply(block: Tensor) -> Tensor:
        columns: list[Tensor] = []
        for vector in block.T:
            found = torch.autograd.grad(flat, leaves, vector, retain_graph=True)
            columns.append(torch.cat([g.flatten() for g in found]))
        return torch.stack(columns, 1)

    return multiply


def forward_over_reverse(model: nn.Module, x: Tensor, y: Tensor) -> Way:
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(own: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, own, (x,)), y)

    def one(vector: Tensor) -> Tensor:
        sizes = [p.numel() for p in params.values()]
        parts = vector.split(sizes)
        tangents = {
            name: part.view_as(p)
            for (name, p), part in zip(params.items(), parts, strict=True)
        }
        _, found = jvp(grad(loss), (params,), (tangents,))
        return torch.cat([part.flatten() for part in found.values()])

    def multiply(block: Tensor) -> Tensor:
        with torch.no_grad():
            if block.shape[1] == 1:
                return one(block[:, 0]).unsqueeze(1)
            return vmap(one, in_dims=1, out_dims=1)(block)

    return multiply


def peer(model: nn.Module, x: Tensor, y: Tensor) -> Way | None:
    try:
        curvlinops: Any = importlib.import_module("curvlinops")
    except ImportError:
        return None
    leaves = list(model.parameters())
    operator = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), leaves, [(x, y)], check_deterministic=False
    )
    return lambda block: operator @ block


def ours(model: nn.Module, x: Tensor, y: Tensor) -> Way:
    operator = es.Hessian(es.Problem(model, (x, y), loss=nn.CrossEntropyLoss()))
    return lambda block: operator @ block


def gauss_newton(model: nn.Module, x: Tensor, y: Tensor) -> Way:
    operator = es.GaussNewton(es.Problem(model, (x, y), loss=nn.CrossEntropyLoss()))
    return lambda block: operator @ block


WAYS: dict[str, Callable[..., Way | None]] = {
    "a gradient": gradient,
    "`vmap(jvp(grad))`, hand-written": forward_over_reverse,
    "kept graph, hand-written": kept_graph,
    "curvlinops": peer,
    "**eigenscope**, Hessian": ours,
    "**eigenscope**, Gauss-Newton": gauss_newton,
}


def timed(ways: dict[str, Way], block: Tensor, repeats: int) -> dict[str, float]:
    """Return the median of interleaved repetitions, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(block)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def products(name: str, model: nn.Module, x: Tensor, repeats: int) -> list[str]:
    y = torch.arange(len(x)) % 10
    made = {label: make(model, x, y) for label, make in WAYS.items()}
    ways = {label: way for label, way in made.items() if way is not None}
    size = sum(p.numel() for p in model.parameters())
    source = torch.Generator().manual_seed(1)
    block = torch.randn(size, 8, generator=source)
    expected = ways["kept graph, hand-written"](block[:, :1])
    for label in set(ways) - {"a gradient", "**eigenscope**, Gauss-Newton"}:
        found = ways[label](block[:, :1])
        error = float((found - expected).norm() / expected.norm())
        if error > 1e-4:
            raise SystemExit(f"{label} is off by {error:.1e}")
    one, eight = timed(ways, block[:, :1], repeats), timed(ways, block, repeats)
    lines = [f"### {name}, n = {len(x)}, P = {size}", ""]
    lines += ["| | one vector | in gradients | eight | in gradients |"]
    lines += ["|---|---|---|---|---|"]
    unit = one["a gradient"]
    for label in ways:
        cells = [label, f"{one[label]:.3f} s", f"{one[label] / unit:.2f}"]
        if label != "a gradient":
            cells += [f"{eight[label]:.3f} s", f"{eight[label] / unit:.2f}"]
        else:
            cells += ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def layers(num_samples: int) -> list[str]:
    """Time the exact spectra of all weights, as in 100 examples of ten classes."""
    source = torch.Generator().manual_seed(2)
    x = torch.randn(num_samples, 1, 32, 32, generator=source)
    problem = es.Problem(
        lenet(), (x, torch.arange(num_samples) % 10), loss=nn.CrossEntropyLoss()
    )
    start = time.perf_counter()
    operator = es.Hessian(problem)
    blocks = es.layer_blocks(operator)
    lines = [f"### Exact spectra of all layers of LeNet, n = {num_samples}", ""]
    lines += ["| block | dimension | seconds |", "|---|---|---|"]
    for name, block in blocks.items():
        if name.endswith("weight"):
            before = time.perf_counter()
            found = es.spectrum(block, method="exact")
            seconds = time.perf_counter() - before
            lines.append(f"| {name} | {found.dimension} | {seconds:.2f} |")
    total = time.perf_counter() - start
    return [*lines, f"| together | | {total:.2f} |", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        small, large = lenet(), resnet20()
    source = torch.Generator().manual_seed(3)
    digits = torch.randn(64 if arguments.quick else 512, 1, 32, 32, generator=source)
    images = torch.randn(16 if arguments.quick else 64, 3, 32, 32, generator=source)
    repeats = 2 if arguments.quick else 3
    threads = f"{torch.get_num_threads()} thread(s)"
    lines = [f"torch {torch.__version__}, {threads}, {platform.machine()}", ""]
    lines += products("LeNet", small, digits, repeats)
    lines += products("ResNet-20", large, images, repeats)
    lines += layers(20 if arguments.quick else 100)
    print("\n".join(lines))
    if arguments.output is not None:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
