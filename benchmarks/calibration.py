# pyright: basic
"""Do estimates miss the truth as rarely as their stated errors say?

Spectra are planted; the probes of SLQ and KPM are uniform on spheres, so a diagonal
operator stands for every matrix with its eigenvalues. Traces and diagonals under sign
probes are taken of a rotated matrix.

python benchmarks/calibration.py --seeds 200 --out calibration.md
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import Report

import eigenscope as es
from eigenscope.operators import SymmetricOperator
from eigenscope.progress import progress

SIZE = 600
BANDWIDTH = 0.02  # of the range of all eigenvalues
SETTINGS: dict[str, dict[str, Any]] = {
    "as by default": {},
    "8 probes": {"tolerance": 0.1, "max_probes": 8, "num_outer": 30},
    "4 probes of 16 steps": {
        "tolerance": 0.0,
        "max_probes": 4,
        "max_steps": 16,
        "num_outer": 0,
    },
}


class Planted(SymmetricOperator):
    """diag(values), of which nothing but products can be had."""

    def __init__(self, values: Any) -> None:
        self.values = torch.from_numpy(values)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values), len(self.values)

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    def multiply(self, block: torch.Tensor) -> torch.Tensor:
        return self.values[:, None] * block

    def dense(self) -> torch.Tensor:
        return self.values.diag()

    def diagonal(self) -> torch.Tensor:
        return self.values


def families() -> dict[str, Any]:
    draw = np.random.default_rng(5)
    tops = [20.0, 11.0, 6.0, 3.0, 2.0, 1.5, 1.0, 0.8, -0.9, -0.6]
    decades = 10.0 ** np.linspace(1.5, -6, 200)
    return {
        "outliers over a bulk": np.concatenate([draw.normal(0, 0.05, SIZE - 10), tops]),
        "uniform": np.linspace(-1.0, 2.0, SIZE),
        "heavy tail": draw.pareto(1.5, SIZE),
        "low rank": np.concatenate([draw.exponential(size=80), np.zeros(SIZE - 80)]),
        "four atoms": np.repeat([-1.0, 0.0, 0.5, 4.0], SIZE // 4),
        "like a Hessian": np.concatenate(
            [decades, -0.1 * decades[::4], np.zeros(SIZE - 250)]
        ),
        "two bulks": np.concatenate(
            [draw.normal(0, 0.1, SIZE // 2), draw.normal(3, 0.3, SIZE // 2)]
        ),
    }


def smoothed(values: Any, grid: Any, bandwidth: float) -> Any:
    shapes = np.exp(-0.5 * ((grid[:, None] - values) / bandwidth) ** 2)
    return shapes.mean(1) / (bandwidth * np.sqrt(2 * np.pi))


def one_spectrum(
    values: Any, method: str, seed: int, options: Mapping[str, Any]
) -> dict[str, float]:
    """Return what one seed's estimate says and whether it is so."""
    found = es.spectrum(
        Planted(values),
        method=method,  # pyright: ignore[reportArgumentType] - one of the two
        generator=torch.Generator().manual_seed(seed),
        **options,
    )
    quadrature = found.quadrature
    assert quadrature is not None
    error = es.wasserstein(found, values)
    total = found.sum(np.square)
    low, high = (float(end) for end in total.interval())
    truth_of_sum, rounding = float((values**2).sum()), 1e-9 * float(total.value)
    width = max(BANDWIDTH * float(np.ptp(values)), quadrature.kernel_width)
    density = found.density(bandwidth=width)
    assert density.lower is not None
    assert density.upper is not None
    truth = smoothed(values, density.grid, density.bandwidth)
    # Cells of a grid against points of it.
    slack = 2e-3 * truth.max()
    inside = (density.lower - slack <= truth) & (truth <= density.upper + slack)
    seen = truth > 1e-2 * truth.max()
    return {
        # Where everything is found one by one both are rounding.
        "within": error <= found.error + 1e-12 * float(np.abs(values).max()),
        "ratio": found.error / max(error, 1e-12),
        "sum within": low - rounding <= truth_of_sum <= high + rounding,
        "band": float(inside[seen].mean()),
        "converged": found.converged,
    }


def report_spectra(report: Report, num_seeds: int) -> None:
    report.table(
        "method",
        "probes",
        "spectrum",
        "W1 within `error`",
        "`error` / W1, median",
        "Σλ² within",
        "band covers",
        "converged",
    )
    for method in ("slq", "kpm"):
        for setting, options in SETTINGS.items():
            # A hundred times as many products.
            count = num_seeds if options else num_seeds // 10
            for family, values in families().items():
                seeds = progress(range(count), label=f"{method}, {family}", total=count)
                rows = [one_spectrum(values, method, seed, options) for seed in seeds]
                column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
                report.row(
                    method,
                    setting,
                    family,
                    f"{column['within'].mean():.1%}",
                    f"{np.median(column['ratio']):.1f}",
                    f"{column['sum within'].mean():.1%}",
                    f"{column['band'].mean():.1%}",
                    f"{column['converged'].mean():.0%}",
                )


def report_probing(report: Report, num_seeds: int) -> None:
    report.table("estimate", "spectrum", "within `interval()`", "mean of z")
    cases: list[tuple[str, Callable[..., es.Estimate], dict[str, Any]]] = [
        ("trace, Hutchinson", es.trace, {"method": "hutchinson"}),
        ("trace, Hutch++", es.trace, {"method": "hutch++"}),
        ("trace, XTrace", es.trace, {"method": "xtrace"}),
        ("diagonal, Hutchinson", es.diagonal, {"method": "hutchinson"}),
        ("diagonal, Hutch++", es.diagonal, {"method": "hutch++"}),
    ]
    for name, function, options in cases:
        for family, values in families().items():
            matrix = rotated(values)
            is_trace = function is es.trace
            truth = matrix.trace() if is_trace else matrix.diagonal()
            within: list[float] = []
            scores: list[float] = []
            for seed in range(num_seeds if is_trace else num_seeds // 5):
                found = function(
                    matrix,
                    num_matvecs=60,
                    generator=torch.Generator().manual_seed(seed),
                    **options,
                )
                low, high = map(torch.as_tensor, found.interval())
                gap = torch.as_tensor(found.value) - truth
                error = torch.as_tensor(found.stderr)
                rounding = 1e-9 * matrix.norm()
                hits = (low - rounding <= truth) & (truth <= high + rounding)
                within.append(float(hits.double().mean()))
                scores.append(float((gap / (error + rounding)).double().mean()))
            report.row(
                name, family, f"{np.mean(within):.1%}", f"{np.mean(scores):+.2f}"
            )


def rotated(values: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    turn = torch.eye(len(values), dtype=torch.float64)
    for _ in range(3):
        axis = torch.randn(len(values), generator=source, dtype=torch.float64)
        axis /= axis.norm()
        turn -= 2 * torch.outer(axis, axis @ turn)
    return (turn * torch.from_numpy(values)) @ turn.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = Report()
    report_probing(report, arguments.seeds)
    report.add()
    report_spectra(report, arguments.seeds)
    if arguments.out:
        arguments.out.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
