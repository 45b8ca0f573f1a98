"""Error of a density (W1 to the exact spectrum) against the number of products.

    python benchmarks/density_error.py [--out FOLDER]

A small LeNet's Hessian, its exact spectrum by dense products, and estimates of it by
SLQ and KPM with and without outer pairs, each as this package makes them, and by the
plain scheme of other packages: one Gauss rule per probe, nothing projected off.

The probes are uniform on the sphere, so an estimate from the Hessian and one from the
diagonal matrix of its eigenvalues have the same distribution: the latter is sampled.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import final

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from typing_extensions import override

import eigenscope as es
from eigenscope.operators import SymmetricOperator

PRODUCTS = [100, 200, 400, 800, 1600]
SEEDS = 9


def small_lenet() -> nn.Module:
    """LeNet with fewer channels: 4,098 parameters on 16 × 16 images."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 12, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 60),
        nn.ReLU(),
        nn.Linear(60, 10),
    )


def data(num_samples: int) -> tuple[Tensor, Tensor]:
    """Ten smooth templates with noise: a task that is learned in a minute."""
    generator = torch.Generator().manual_seed(0)
    templates = torch.randn(10, 1, 4, 4, generator=generator)
    templates = nn.functional.interpolate(templates, size=16, mode="bicubic")
    classes = torch.arange(num_samples) % 10
    noise = torch.randn(num_samples, 1, 16, 16, generator=generator)
    return (templates[classes] + 0.7 * noise).double(), classes


def trained() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the network after some steps of SGD, and its data."""
    model = small_lenet().double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        scale = (2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.0
        parameter.data.copy_(scale * drawn)
    inputs, targets = data(300)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), (inputs, targets)


@final
class Diagonal(SymmetricOperator):
    """The diagonal matrix of some eigenvalues."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = torch.from_numpy(values.copy())

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return len(self._values), len(self._values)

    @property
    @override
    def dtype(self) -> torch.dtype:
        return torch.float64

    @property
    @override
    def device(self) -> torch.device:
        return torch.device("cpu")

    @override
    def multiply(self, block: Tensor) -> Tensor:
        return self._values[:, None] * block

    @override
    def dense(self) -> Tensor:
        return torch.diag(self._values)

    @override
    def diagonal(self) -> Tensor:
        return self._values


def estimate(
    method: str, num_outer: int, most: int, seed: int, matrix: SymmetricOperator
):
    """Return a spectrum from about `most` products: half of them more steps."""
    rest = most - num_outer
    probes = max(2, round((rest / 6) ** 0.5))
    return es.spectrum(
        matrix,
        method=method,  # pyright: ignore[reportArgumentType]
        tolerance=0.0,
        max_probes=probes,
        max_steps=max(2, rest // probes),
        num_outer=num_outer,
        generator=torch.Generator().manual_seed(seed),
    )


def plain(
    most: int, seed: int, matrix: SymmetricOperator
) -> tuple[np.ndarray, np.ndarray]:
    """Return one Gauss rule per probe with nothing projected off."""
    generator = torch.Generator().manual_seed(seed)
    probes = max(2, round((most / 6) ** 0.5))
    nodes, weights = [], []
    for _ in range(probes):
        v = torch.randn(matrix.shape[0], generator=generator, dtype=torch.float64)
        basis = [v / v.norm()]
        diagonal: list[float] = []
        beside: list[float] = []
        for _ in range(most // probes):
            w = matrix @ basis[-1]
            diagonal.append(float(w @ basis[-1]))
            rows = torch.stack(basis)
            for _ in range(2):
                w = w - rows.T @ (rows @ w)
            beside.append(float(w.norm()))
            basis.append(w / beside[-1])
        tridiagonal = np.diag(diagonal)
        tridiagonal += np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        nodes.append(values)
        weights.append(vectors[0] ** 2)
    return np.concatenate(nodes), np.concatenate(weights)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().out
    model, batch = trained()
    problem = es.Problem(model, batch, loss=nn.CrossEntropyLoss())
    hessian = es.Hessian(problem)
    dense = hessian.dense()
    exact = es.spectrum((dense + dense.T) / 2, method="exact")
    matrix = Diagonal(exact.values)
    mean = float(np.abs(exact.values) @ exact.weights)
    ways: dict[str, Callable[[int, int], object]] = {
        "SLQ, outer pairs first": lambda n, s: estimate("slq", 50, n, s, matrix),
        "KPM, outer pairs first": lambda n, s: estimate("kpm", 50, n, s, matrix),
        "SLQ, no outer pairs": lambda n, s: estimate("slq", 0, n, s, matrix),
        "plain SLQ": lambda n, s: plain(n, s, matrix),
    }
    print(
        f"P = {matrix.shape[0]}, mean |λ| = {mean:.4g}, λ_max = {exact.values[-1]:.4g}"
    )
    print("W1 / mean |λ|, median of", SEEDS, "seeds")
    print(f"{'products':>24}" + "".join(f"{n:>9}" for n in PRODUCTS))
    mpl.rcParams["svg.hashsalt"] = "eigenscope"
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for label, make in ways.items():
        errors = [
            np.median([es.wasserstein(make(n, s), exact) for s in range(SEEDS)]) / mean
            for n in PRODUCTS
        ]
        print(f"{label:>24}" + "".join(f"{error:9.4f}" for error in errors))
        axes.loglog(PRODUCTS, errors, "o-", label=label)
    axes.axhline(0.02, color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="products", ylabel="W1 to the exact spectrum / mean |λ|")
    axes.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "density_error.svg", metadata={"Date": None})
    figure.savefig(folder / "density_error.png", dpi=150)


if __name__ == "__main__":
    main()
