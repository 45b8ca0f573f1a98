"""Where a tail starts: by scan, at the peak of the histogram, or where told."""

from typing import Literal, get_args

import numpy as np

from eigenscope.analysis.tail_scan import Likelihood, best_start
from eigenscope.analysis.tail_values import Sample

XminRule = Literal["scan", "peak"]
XminOrigin = Literal["scan", "peak", "given"]
PeakEdge = Literal["left", "right"]


def scan_start(
    sample: Sample, xmax: float | None, likelihood: Likelihood, max_alpha: float | None
) -> float:
    """The start whose tail is nearest to its law.

    Returns:
        xmin, in units of the values.

    Raises:
        ValueError: If no tail has an exponent below `max_alpha`.
    """
    found = best_start(sample, xmax, likelihood, max_slope=max_slope(max_alpha))
    if found is None:
        raise ValueError(
            f"max_alpha must be above the exponent of some tail; got {max_alpha}, and "
            f"from no start is there a smaller one. Raise it, or pass max_alpha=None."
        )
    return float(sample.values[found[0]])


def max_slope(max_alpha: float | None) -> float:
    """What `max_alpha` means for the slope α − 1.

    Returns:
        The bound, infinite for None.
    """
    return np.inf if max_alpha is None else max_alpha - 1


def peak_start(sample: Sample, bins: int, edge: PeakEdge) -> float:
    """10 to an edge of the fullest bin of the histogram of log10(values).

    Returns:
        xmin, in units of the values.
    """
    heights, edges = np.histogram(
        np.log10(sample.values), bins=bins, weights=sample.counts
    )
    return float(10 ** edges[int(heights.argmax()) + (edge == "right")])


def require_consistent(
    xmin: object, xmax: float | None, likelihood: Likelihood, bins: int
) -> None:
    """Check options that need no values.

    Raises:
        ValueError: If xmin is neither rule nor positive number, or options contradict.
    """
    rules = get_args(XminRule)
    number = None if isinstance(xmin, str) else _positive_number(xmin)
    if number is None and xmin not in rules:
        listed = ", ".join(repr(rule) for rule in rules)
        raise ValueError(
            f"xmin must be one of {listed} or a positive number; got {xmin!r}."
        )
    if number is not None and xmax is not None and xmax <= number:
        raise ValueError(
            f"xmax must be above xmin={number:g}; got xmax={xmax:g}. Raise it, or pass "
            f"xmax=None for a tail without end."
        )
    if likelihood == "bounded" and xmax is None:
        raise ValueError(
            "likelihood='bounded' needs xmax, where the law ends; got xmax=None."
        )
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}.")


def _positive_number(value: object) -> float | None:
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
    return number if 0 < number < np.inf else None


def require_tail(tail: Sample, sample: Sample, start: float) -> None:
    """Check that a tail has a slope.

    Raises:
        ValueError: If it has fewer than two distinct values.
    """
    if len(tail.values) < 2:
        raise ValueError(
            f"a tail needs at least 2 distinct values at or above xmin={start:g}; "
            f"{len(tail.values)} of {len(sample.values)} are, the largest value is "
            f"{sample.values[-1]:g}. Choose a smaller xmin, or xmin='scan'."
        )
