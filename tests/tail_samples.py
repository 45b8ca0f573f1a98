"""Samples with tails of many kinds, an obvious scan of them, and the peer's fit."""

import numpy as np
import pytest


def pareto(size, alpha=2.5, seed=0):
    uniform = np.random.default_rng(seed).random(size)
    return (1 - uniform) ** (-1 / (alpha - 1))


def squared_singular_values(law, seed=0):
    generator = np.random.default_rng(seed)
    matrix = (
        generator.standard_normal((300, 200))
        if law == "normal"
        else generator.standard_t(2.2, (300, 200))
    )
    return np.linalg.svd(matrix, compute_uv=False) ** 2


RNG = np.random.default_rng(1)
SAMPLES = {
    "pareto": pareto(800),
    "lognormal": np.exp(RNG.standard_normal(800)),
    "wide lognormal": np.exp(3 * RNG.standard_normal(800)),
    "ties": 0.37 * np.floor(pareto(800, alpha=2.1)),
    "light spectrum": squared_singular_values("normal"),
    "heavy spectrum": squared_singular_values("t"),
    "arithmetic": np.arange(1.0, 500.0),
    "geometric": np.exp(np.arange(500) / 40),
}


def distances(values, xmax=None):
    """Exponent and distance from every distinct value but the largest, one by one."""
    ordered = np.sort(values)
    starts = np.unique(ordered)[:-1]
    alphas, gaps = [], []
    for xmin in starts:
        tail = ordered[ordered >= xmin]
        alpha = 1 + len(tail) / np.log(tail / xmin).sum()
        cdf = 1 - (tail / xmin) ** (1 - alpha)
        if xmax is not None:
            cdf /= 1 - (xmax / xmin) ** (1 - alpha)
        below = np.searchsorted(tail, tail) / len(tail)
        alphas.append(alpha)
        gaps.append(np.abs(cdf - below).max())
    return starts, np.array(alphas), np.array(gaps)


peer_warns = pytest.mark.filterwarnings("ignore")  # it warns of much


def peer_fit(values, **options):
    powerlaw = pytest.importorskip("powerlaw")
    return powerlaw.Fit(values, verbose=0, **options)
