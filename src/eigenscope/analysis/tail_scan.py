"""Power laws from every possible start of a tail, and the start that fits best.

With u = log(x / xmin), a power law is an exponential law in u with slope α − 1. The
Kolmogorov-Smirnov distance of a start is the largest gap, over the distinct values x
of its tail, between the law's cdf and the share of the tail below x.
"""

from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from jaxtyping import Float, Int

from eigenscope.analysis.tail_values import Sample

Likelihood = Literal["unbounded", "bounded"]

SEED_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
ROUNDING = 1e-15
SERIES_RADIUS = 0.02


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Starts:
    """Candidate starts of a tail, each with the law fitted from there.

    Attributes:
        index: Position of each start among the distinct values.
        log_start: Logarithm of that value.
        slope: α − 1.
        mass: What the law without an upper end puts up to xmax; 1 without xmax.
        below: How many values stand below the start.
        at_least: How many stand in the tail.
    """

    index: Int[np.ndarray, " start"]
    log_start: Float[np.ndarray, " start"]
    slope: Float[np.ndarray, " start"]
    mass: Float[np.ndarray, " start"]
    below: Float[np.ndarray, " start"]
    at_least: Float[np.ndarray, " start"]

    @classmethod
    def of(cls, sample: Sample, xmax: float | None, likelihood: Likelihood) -> "Starts":
        """Fit the tail from every distinct value but the largest, in O(n).

        Returns:
            The starts, in the order of the values.
        """
        logs = np.log(sample.values)
        steps = sample.at_least[1:] * log_ratios(sample.values)
        mean_logs = np.cumsum(steps[::-1])[::-1] / sample.at_least[:-1]
        spans = np.inf if xmax is None else np.log(xmax) - logs[:-1]
        spans = np.broadcast_to(spans, mean_logs.shape)
        slope = tail_slope(mean_logs, spans if likelihood == "bounded" else np.inf)
        return cls(
            index=np.arange(len(slope)),
            log_start=logs[:-1],
            slope=slope,
            mass=-np.expm1(-slope * spans),
            below=sample.below[:-1],
            at_least=sample.at_least[:-1],
        )

    def __len__(self) -> int:
        return len(self.index)

    def where(self, kept: np.ndarray | slice) -> "Starts":
        """Some of the starts.

        Returns:
            Those of a mask or a slice.
        """
        return replace(
            self, **{name: getattr(self, name)[kept] for name in self.__slots__}
        )

    def gaps(
        self, log_value: float | np.ndarray, below: float | np.ndarray
    ) -> Float[np.ndarray, " start"]:
        """Cdf of each start's law at one value minus the share of its tail below.

        Returns:
            The gaps; all are at most the start's distance in modulus.
        """
        cdf = -np.expm1(self.slope * (self.log_start - log_value)) / self.mass
        return cdf - (below - self.below) / self.at_least


def fit_tail(
    tail: Sample, xmin: float, xmax: float | None, likelihood: Likelihood
) -> tuple[float, float]:
    """Fit a tail from `xmin`, which need not be one of its values.

    Returns:
        The slope α − 1 and the distance between law and tail.
    """
    logs = log_excess(tail.values, xmin)
    span = np.inf if xmax is None else float(np.log(xmax / xmin))
    mean_log = float(tail.counts @ logs) / tail.size
    slope = float(tail_slope(mean_log, span if likelihood == "bounded" else np.inf))
    cdf = np.expm1(-slope * logs) / np.expm1(-slope * span)
    return slope, float(np.abs(cdf - tail.below / tail.size).max())


def slope_stderr(
    slope: float, size: float, xmin: float, xmax: float | None, likelihood: Likelihood
) -> float:
    """Standard error of a fitted slope.

    Returns:
        1 / √(n I) with the Fisher information I of one value.
    """
    if likelihood == "unbounded" or xmax is None:
        return slope / size**0.5
    span = float(np.log(xmax / xmin))
    half = abs(slope * span) / 2
    if half < SERIES_RADIUS:
        variance = 1 / 12 - half**2 / 60
    else:
        falloff = np.exp(-2 * half)
        variance = 1 / (4 * half**2) - falloff / (1 - falloff) ** 2
    return 1 / (span * (size * variance) ** 0.5)


def log_excess(values: Float[np.ndarray, "*value"], xmin: float) -> np.ndarray:
    """log(x / xmin), also where the ratio itself overflows.

    Returns:
        The logarithms, 0 at xmin.
    """
    with np.errstate(over="ignore"):
        ratios = values / xmin
    finite = np.isfinite(ratios)
    if finite.all():
        return np.asarray(np.log(ratios))
    return np.where(finite, np.log(ratios), np.log(values) - np.log(xmin))


def log_ratios(values: Float[np.ndarray, " distinct"]) -> np.ndarray:
    """log(x_{i+1} / x_i), accurate for neighbors however close or far.

    Returns:
        One logarithm less than there are values.
    """
    with np.errstate(over="ignore"):
        growth = np.diff(values) / values[:-1]
    return np.where(growth < 1, np.log1p(growth), np.diff(np.log(values)))


def tail_slope(
    mean_log: float | np.ndarray, span: float | np.ndarray
) -> Float[np.ndarray, "*start"]:
    """Maximum-likelihood a of the density ∝ exp(−a u) on [0, span] from the mean of u.

    Without an end (span = ∞), a = 1 / mean. With one, 1/t − 1/(eᵗ − 1) = mean / span
    for t = a · span, which is L(t/2) = 1 − 2 mean / span for the Langevin function
    L(y) = coth y − 1/y.

    Returns:
        The slope; with an end it may be negative, but it is never exactly 0.
    """
    mean_log, span = np.broadcast_arrays(mean_log, span)
    if not np.isfinite(span).all():
        return np.asarray(1.0 / mean_log)
    t = 2 * _inverse_langevin(1 - 2 * mean_log / span)
    return np.asarray(np.where(np.abs(t) < ROUNDING, ROUNDING, t) / span)


def best_start(
    sample: Sample,
    xmax: float | None,
    likelihood: Likelihood,
    *,
    max_slope: float = np.inf,
    better_than: float = np.inf,
) -> tuple[int, float] | None:
    """Distinct value from which the tail is nearest to its law, by branch and bound.

    The gap at any one value bounds a start's distance from below. Gaps at a few
    shares of each tail come first; then the start with the least bound is evaluated
    in full, and where its own gap is widest, all others are bounded again, at that
    value and at that share of their tails. What is not below the best distance so
    far is ruled out, and the rest goes on until nothing is left: the result is the
    exact minimum, the smallest start if several share it.

    Args:
        sample: The values.
        xmax: Upper end of the law, or None.
        likelihood: Of the law up to xmax or of the one without end.
        max_slope: Starts whose slope is not below this one are no candidates.
        better_than: Stop at the first start whose distance is below this one.

    Returns:
        Index of the start and its distance; None if there is no candidate or none
        is nearer than `better_than`.

    Cost:
        O(n) for the bounds and O(n) for each start evaluated in full, usually fewer
        than ten; at worst all of them are.
    """
    starts = Starts.of(sample, xmax, likelihood)
    if max_slope < np.inf:
        starts = starts.where(starts.slope < max_slope)
    logs, last = np.log(sample.values), len(sample.values) - 1
    bounds = np.zeros(len(starts))
    best, found = better_than, None
    for share in SEED_SHARES:
        points = starts.index + ((last - starts.index) * share).astype(np.intp)
        gaps = np.abs(starts.gaps(logs[points], sample.below[points]))
        np.maximum(bounds, gaps, out=bounds)
    while True:
        alive = bounds <= best + ROUNDING
        starts, bounds = starts.where(alive), bounds[alive]
        if not len(starts):
            return found
        chosen = int(bounds.argmin())
        index = int(starts.index[chosen])
        gaps = _tail_gaps(starts.where(slice(chosen, chosen + 1)), sample, logs, index)
        widest = index + int(np.abs(gaps).argmax())
        distance = float(np.abs(gaps).max())
        if distance < best or (found and distance == best and index < found[0]):
            best, found = distance, (index, distance)
            if better_than < np.inf:
                return found
        opposite = index + int((gaps * -np.sign(gaps[widest - index])).argmax())
        for point in (widest, opposite):
            _raise_bounds(bounds, starts, sample, logs, point)
        bounds[chosen] = np.inf
        share = (widest - index) / (last - index)
        alive = bounds <= best + ROUNDING
        starts, bounds = starts.where(alive), bounds[alive]
        points = starts.index + np.rint((last - starts.index) * share).astype(np.intp)
        gaps = np.abs(starts.gaps(logs[points], sample.below[points]))
        np.maximum(bounds, gaps, out=bounds)


def _tail_gaps(
    start: Starts, sample: Sample, logs: np.ndarray, index: int
) -> Float[np.ndarray, " distinct"]:
    return start.gaps(logs[index:], sample.below[index:])


def _raise_bounds(
    bounds: np.ndarray, starts: Starts, sample: Sample, logs: np.ndarray, point: int
) -> None:
    reach = slice(0, int(np.searchsorted(starts.index, point, side="right")))
    gaps = np.abs(starts.where(reach).gaps(logs[point], sample.below[point]))
    np.maximum(bounds[reach], gaps, out=bounds[reach])


def _inverse_langevin(level: float | np.ndarray) -> float | np.ndarray:
    # The y with coth y − 1/y = level, by Newton's method from a start 5 % off.
    y = level * (3 - level**2) / (1 - level**2)
    for _ in range(6):
        near = np.abs(y) < SERIES_RADIUS
        safe = np.where(near, 1.0, y)
        series = y / 3 - y**3 / 45 + 2 * y**5 / 945
        value = np.where(near, series, 1 / np.tanh(safe) - 1 / safe)
        falloff = np.exp(-2 * np.abs(safe))
        squared_csch = 4 * falloff / (1 - falloff) ** 2
        series = 1 / 3 - y**2 / 15 + 2 * y**4 / 189
        slope = np.where(near, series, 1 / safe**2 - squared_csch)
        y = y - (value - level) / slope
    return y
