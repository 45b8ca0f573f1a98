"""Curvature against what users have today: products, quadrature, eigenpairs, layers.

    python benchmarks/curvature.py PART... [--quick] [--threads N] [--output FILE]

PART is "products-lenet", "products-resnet", "quadrature", "eigenpairs" or "layers".
curvlinops, hessian-eigenthings and PyHessian take part (dependency group `peers`); the
ResNet-20, with random weights and running statistics, needs the extra `vision`.
"""

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import curvlinops
import hessian_eigenthings as eigenthings
import numpy as np
import torch
from pyhessian import hessian as PyHessian  # noqa: N812
from pytorchcv.model_provider import get_model
from report import Report, medians
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

import eigenscope as es

Way = Callable[[Tensor], Tensor]

PARTS = ("products-lenet", "products-resnet", "quadrature", "eigenpairs", "layers")
TOLERANCE = 1e-4
MEANS = 0.5  # of the length of noise: classes overlap


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
    """Return one graph of the gradient, one pass for a vector."""
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
        parts = vector.split([p.numel() for p in params.values()])
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


def by_curvlinops(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    leaves = [p for p in model.parameters() if p.requires_grad]
    return curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), leaves, [(x, y)], check_deterministic=False
    )


def by_eigenthings(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return eigenthings.HessianOperator(
        model, [(x, y)], eigenthings.supervised_loss(nn.functional.cross_entropy)
    )


def by_pyhessian(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it leaves a graph in .grad
        return PyHessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False)


def pyhessian_products(model: nn.Module, x: Tensor, y: Tensor) -> Way:
    """Return the products of its power iteration, for flat vectors."""
    made = by_pyhessian(model, x, y)

    def one(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in made.params])
        shaped = [v.view_as(p) for v, p in zip(parts, made.params, strict=True)]
        found = torch.autograd.grad(
            made.gradsH, made.params, shaped, only_inputs=True, retain_graph=True
        )
        return torch.cat([part.flatten() for part in found])

    return lambda block: torch.stack([one(v) for v in block.T], 1)


def eigenthings_products(model: nn.Module, x: Tensor, y: Tensor) -> Way:
    operator = by_eigenthings(model, x, y)
    return lambda block: torch.stack([operator.matvec(v) for v in block.T], 1)


def ours(model: nn.Module, x: Tensor, y: Tensor) -> es.Hessian:
    return es.Hessian(es.Problem(model, (x, y), loss=nn.CrossEntropyLoss()))


def through(make: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor) -> Way:
    operator = make(model, x, y)
    return lambda block: operator @ block


LIBRARIES: dict[str, Callable[..., Way]] = {
    "curvlinops": partial(through, by_curvlinops),
    "hessian-eigenthings": eigenthings_products,
    "PyHessian": pyhessian_products,
}
WAYS: dict[str, Callable[..., Way]] = {
    "`vmap(jvp(grad))`, hand-written": forward_over_reverse,
    "kept graph, hand-written": kept_graph,
    **LIBRARIES,
    "**eigenscope**": partial(through, ours),
}


def products(report: Report, name: str, model: nn.Module, x: Tensor, rounds: int):
    y = torch.arange(len(x)) % 10
    size = sum(p.numel() for p in model.parameters())
    block = torch.randn(size, 8, generator=torch.Generator().manual_seed(1))
    made = {label: make(model, x, y) for label, make in WAYS.items()}
    expected = made["kept graph, hand-written"](block[:, :1])
    for label, way in made.items():
        error = float((way(block[:, :1]) - expected).norm() / expected.norm())
        if error > 1e-4:
            raise SystemExit(f"{label} is off by {error:.1e}")
    calls = {label: partial(way, block[:, :1]) for label, way in made.items()}
    first = gradient(model, x, y)
    one = medians({"a gradient": partial(first, block), **calls}, max(2, rounds))
    blocks = {label: partial(way, block) for label, way in made.items()}
    # Everybody is warm by now.
    several = (
        medians(blocks, rounds) if rounds else {k: seconds(blocks[k]) for k in blocks}
    )
    report.add(f"### Products, {name}, n = {len(x)}, P = {size}\n")
    report.table("", "one vector", "in gradients", "eight", "in gradients")
    unit = one["a gradient"]
    report.row("a gradient", f"{unit:.3f} s", "1.00", "", "")
    for label in made:
        alone, eight = one[label], several[label]
        ratios = f"{alone / unit:.2f}", f"{eight / unit:.2f}"
        report.row(label, f"{alone:.3f} s", ratios[0], f"{eight:.3f} s", ratios[1])
    for word, found in (("one", one), ("eight", several)):
        ratio = min(found[label] for label in LIBRARIES) / found["**eigenscope**"]
        report.add(f"\nFastest library over eigenscope, {word}: {ratio:.2f} ×")
    report.add()


def restricted(model: nn.Module, name: str | None) -> nn.Module:
    """Return a copy whose one parameter, or all, require gradients: libraries look."""
    copied = deepcopy(model)
    for own, parameter in copied.named_parameters():
        parameter.requires_grad_(name is None or own == name)
    return copied


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def slq_of_curvlinops(model: nn.Module, x: Tensor, y: Tensor, *sizes: int) -> None:
    probes, steps = sizes
    linear, ends = by_curvlinops(model, x, y), (-1.0, 30.0)
    runs = curvlinops.LanczosApproximateSpectrumCached(linear, steps, ends)
    runs.approximate_spectrum(num_repeats=probes, num_points=100)


def slq_of_eigenthings(model: nn.Module, x: Tensor, y: Tensor, *sizes: int) -> None:
    operator = by_eigenthings(model, x, y)
    options = dict(zip(("num_runs", "lanczos_steps"), sizes, strict=True))
    eigenthings.spectral_density(operator, seed=0, **options)


def slq_of_pyhessian(model: nn.Module, x: Tensor, y: Tensor, *sizes: int) -> None:
    """Run it with what it misses in today's torch."""

    def eig(matrix: Tensor, **_: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    probes, steps = sizes
    with mock.patch.object(torch, "eig", eig, create=True):
        by_pyhessian(model, x, y).density(iter=steps, n_v=probes)


QUADRATURES: dict[str, Callable[..., None]] = {
    "curvlinops": slq_of_curvlinops,
    "hessian-eigenthings": slq_of_eigenthings,
    "PyHessian": slq_of_pyhessian,
}


def quadrature(report: Report, x: Tensor, probes: int, steps: int) -> None:
    """Time SLQ of everything and of each weight, all by their own functions."""
    model, y = lenet(), torch.arange(len(x)) % 10
    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    report.add(f"### SLQ, {probes} probes of {steps} steps, LeNet, n = {len(x)}\n")
    report.table("operator", "size", "eigenscope", "or", "by", *QUADRATURES)
    operator = ours(model, x, y)
    blocks = {None: operator, **es.layer_blocks(operator)}
    options: Any = {"tolerance": 0, "max_probes": probes, "max_steps": steps}
    slq = partial(es.spectrum, method="slq", num_outer=0, **options)
    options = {"tolerance": 0, "max_probes": 4, "max_steps": 10, "num_outer": 60}
    slq(blocks[names[-1]])  # warms up
    totals = np.zeros(2 + len(QUADRATURES))
    for name in [None, *names]:
        block, kept = blocks[name], list[es.Spectrum]()
        own = seconds(partial(slq, block))
        whole = partial(es.spectrum, block, **options)
        auto = seconds(lambda w=whole, k=kept: k.append(w()))
        made = kept[0].provenance
        how = f"{made['num_matvecs']} products" if "num_matvecs" in made else "exact"
        alone = restricted(model, name)
        others = [
            seconds(partial(way, alone, x, y, probes, steps))
            for way in QUADRATURES.values()
        ]
        totals += (taken := [own, auto, *others])
        cells = [f"{value:.2f} s" for value in taken]
        size = str(block.shape[0])
        report.row(name or "everything", size, *cells[:2], how, *cells[2:])
    cells = [f"{total:.2f} s" for total in totals]
    report.row("together", "", *cells[:2], "", *cells[2:])
    ratios = totals[2:].min() / totals[:2]
    words = "Fastest library over the same number of products", "over the other way"
    report.add(f"\n{words[0]}: {ratios[0]:.1f} ×; {words[1]}: {ratios[1]:.1f} ×\n")


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad()


def by_eigenscope(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Any]:
    pairs = es.top_eigenpairs(ours(model, x, y), 10, tolerance=TOLERANCE)
    return pairs.values, pairs.vectors


def by_scipy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Any]:
    linear = by_curvlinops(model, x, y).to_scipy()
    return eigsh(linear, k=10, which="LA", tol=TOLERANCE)


def by_lanczos(steps: int, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Any]:
    operator, options = by_eigenthings(model, x, y), {"which": "LA", "seed": 0}
    pairs = eigenthings.lanczos(
        operator, k=10, max_iter=steps, tol=TOLERANCE, reorthogonalize=True, **options
    )
    return pairs.eigenvalues, pairs.eigenvectors.T


def by_power(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Any]:
    made = by_pyhessian(model, x, y)
    values, vectors = made.eigenvalues(maxIter=100, tol=TOLERANCE, top_n=10)
    columns = [torch.cat([v.flatten() for v in own]) for own in vectors]
    return values, torch.stack(columns, 1)


def eigenpairs(report: Report, x: Tensor) -> None:
    """Time the ten largest eigenpairs; residuals are measured by one and the same H."""
    model = lenet()
    means = torch.randn(10, *x.shape[1:], generator=torch.Generator().manual_seed(7))
    y = torch.arange(len(x)) % 10
    x = x + MEANS * means[y]
    trained(model, x, y, 30)
    exact = kept_graph(model, x, y)
    ways: dict[str, Callable[..., tuple[Any, Any]]] = {
        "curvlinops, SciPy's `eigsh`": by_scipy,
        "PyHessian, at most 100 steps a pair": by_power,
        "**eigenscope**": by_eigenscope,
    }
    for steps in (30, 40, 60):
        ways[f"hessian-eigenthings, {steps} steps"] = partial(by_lanczos, steps)
    by_eigenscope(model, x, y)  # warms up
    report.add(f"### Ten largest eigenpairs to {TOLERANCE}, LeNet, n = {len(x)}\n")
    report.table("", "seconds", "largest residual / λ_max", "/ its own λ")
    for label, way in ways.items():
        start = time.perf_counter()
        found = way(model, x, y)
        taken = time.perf_counter() - start
        values, vectors = (torch.as_tensor(part).float() for part in found)
        gaps = (exact(vectors) - vectors * values).norm(dim=0)
        worst = float(gaps.max() / values.max()), float((gaps / values).max())
        report.row(label, f"{taken:.2f}", f"{worst[0]:.1e}", f"{worst[1]:.1e}")
    report.add()


def layers(report: Report, x: Tensor) -> None:
    """Time the exact spectra of all weights, as in 100 examples of ten classes."""
    start = time.perf_counter()
    operator = ours(lenet(), x, torch.arange(len(x)) % 10)
    blocks = es.layer_blocks(operator)
    report.add(f"### Exact spectra of all layers of LeNet, n = {len(x)}\n")
    report.table("block", "dimension", "seconds")
    for name, block in blocks.items():
        if name.endswith("weight"):
            taken = seconds(partial(es.spectrum, block, method="exact"))
            report.row(name, str(block.shape[0]), f"{taken:.2f}")
    report.row("together", "", f"{time.perf_counter() - start:.2f}")
    report.add()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quick, report, source = arguments.quick, Report(), torch.Generator().manual_seed(3)
    digits = torch.randn(32 if quick else 512, 1, 32, 32, generator=source)
    images = torch.randn(8 if quick else 256, 3, 32, 32, generator=source)
    few = digits[:100]
    threads = f"{torch.get_num_threads()} thread(s)"
    report.add(f"torch {torch.__version__}, {threads}, {platform.machine()}\n")
    probes, steps = (2, 4) if quick else (8, 32)
    for part in arguments.parts:
        torch.default_generator.manual_seed(0)
        if part == "products-lenet":
            products(report, "LeNet", lenet(), digits, 3)
        elif part == "products-resnet":
            products(report, "ResNet-20", resnet20(), images, 0)
        elif part == "quadrature":
            quadrature(report, few, probes, steps)
        elif part == "eigenpairs":
            eigenpairs(report, few)
        else:
            layers(report, few)
    if arguments.output is not None:
        arguments.output.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
