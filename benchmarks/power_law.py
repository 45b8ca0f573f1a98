"""Power-law fits: the scan for xmin against the package powerlaw, and its growth.

    python benchmarks/power_law.py

Prints two Markdown tables. Every ratio is of two times from the same run; ours is the
best of several, the package's a single one (it takes seconds).
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import powerlaw

from eigenscope.analysis.power_law import PowerLaw, fit_power_law


def pareto(size: int, generator: np.random.Generator) -> np.ndarray:
    return (1 - generator.random(size)) ** (-1 / 1.5)


def lognormal(size: int, generator: np.random.Generator) -> np.ndarray:
    return np.exp(2 * generator.standard_normal(size))


def gram(size: int, generator: np.random.Generator) -> np.ndarray:
    """Values spread like those of a Jacobian's Gram matrix: lognormal, heavy tail."""
    bulk, tail = lognormal(size, generator) ** 0.3, 3 * pareto(size, generator)
    return np.where(generator.random(size) < 0.85, bulk, tail)


def log_spaced(size: int, generator: np.random.Generator) -> np.ndarray:
    """All tails alike: the hardest to tell apart."""
    return generator.permutation(np.geomspace(1e-6, 1e3, size))


LAWS = (pareto, lognormal, gram, log_spaced)


def best_time(call: Callable[[], PowerLaw], repeats: int) -> tuple[float, PowerLaw]:
    seconds, result = np.inf, call()
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds, result


def compare(size: int) -> None:
    print(f"\n{size:,} values, free xmin below α = 3 (the package's limit)\n")
    print("| values | eigenscope | powerlaw | ratio | same xmin | Δα | ΔD |")
    print("|---|---|---|---|---|---|---|")
    for law in LAWS:
        values = law(size, np.random.default_rng(0))
        seconds, fit = best_time(lambda v=values: fit_power_law(v, max_alpha=3.0), 5)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = powerlaw.Fit(values, verbose=0).power_law
        peer_seconds = time.perf_counter() - start
        print(
            f"| {law.__name__} | {seconds * 1e3:.2f} ms | {peer_seconds:.2f} s "
            f"| {peer_seconds / seconds:.0f} | {fit.xmin == peer.xmin} "
            f"| {abs(fit.alpha - peer.alpha):.0e} "
            f"| {abs(fit.ks_distance - peer.D):.0e} |"
        )


def grow(sizes: tuple[int, ...]) -> None:
    print("\nGrowth: seconds of a fit with free xmin and no limit on α\n")
    print("| values | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for law in LAWS:
        cells: list[str] = []
        for size in sizes:
            values = law(size, np.random.default_rng(0))
            seconds, _ = best_time(lambda v=values: fit_power_law(v), 2)
            cells.append(f"{seconds:.4f}")
        print(f"| {law.__name__} | " + " | ".join(cells) + " |")


def bootstrap(size: int, num_replicas: int) -> None:
    values = pareto(size, np.random.default_rng(0))
    fit = fit_power_law(values)
    start = time.perf_counter()
    result = fit.goodness_of_fit(num_replicas=num_replicas)
    seconds = time.perf_counter() - start
    print(
        f"\np-value of {size:,} values from {num_replicas:,} replicas, each scanned: "
        f"{seconds:.2f} s (p = {result.p_value:.2f} ± {result.stderr:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=1_000_000)
    options = parser.parse_args()
    compare(options.size)
    grow((options.largest // 100, options.largest // 10, options.largest))
    bootstrap(options.size, 1000)


if __name__ == "__main__":
    main()
