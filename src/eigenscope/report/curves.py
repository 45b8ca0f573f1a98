"""Spectra as compact numbers for a page: densities on short grids, values by rank."""

import base64
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from eigenscope.report.contents import Curve
from eigenscope.spectra import Density, Spectrum

MOST_VALUES: Final = 800_000  # eigenvalues in a report, of all spectra together
FEWEST_VALUES: Final = 256  # eigenvalues of one spectrum that are always kept
_WIDTHS: Final = 200  # kernel widths over the range of a family, as in the figures
_POINTS_PER_WIDTH: Final = 2
_REACH: Final = 4.0  # kernel widths shown beyond the extreme eigenvalues
_LOG_POINTS: Final = 384


def values_each(num_spectra: int) -> int:
    """Return how many eigenvalues of each spectrum a page keeps.

    Args:
        num_spectra: On the page.

    Returns:
        The number; spectra with more are thinned by `thinned`.
    """
    return max(FEWEST_VALUES, MOST_VALUES // max(num_spectra, 1))


def encoded(numbers: Float[np.ndarray, " number"]) -> str:
    """Return numbers in single precision, little-endian, as base64.

    Args:
        numbers: Of any precision.

    Returns:
        Text of about 5.3 characters for each.

    Example:
        >>> encoded(np.array([1.0, 2.0]))
        'AACAPwAAAEA='
    """
    return base64.b64encode(np.asarray(numbers, dtype="<f4").tobytes()).decode()


def thinned(
    spectrum: Spectrum, most: int
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """Return at most `most` values, and how many of the D eigenvalues each stands for.

    The outer quarter at either end is kept as it is; what lies between is averaged in
    groups of neighbors, so that counts add up to D and the trace stays.

    Args:
        spectrum: The spectrum.
        most: At least 8.

    Returns:
        Values, ascending, and counts.

    Example:
        >>> spectrum = Spectrum.from_eigenvalues(np.arange(100.0))
        >>> values, counts = thinned(spectrum, 20)
        >>> len(values), float(counts.sum()), round(float(values @ counts), 9)
        (20, 100.0, 4950.0)
    """
    values, counts = spectrum.values, spectrum.weights * spectrum.dimension
    if len(values) <= most:
        return values, counts
    outer = most // 4
    starts = np.linspace(outer, len(values) - outer, most - 2 * outer + 1)
    starts = np.rint(starts[:-1]).astype(int)
    inner = slice(outer, len(values) - outer)
    sums = np.add.reduceat((values * counts)[inner], starts - outer)
    sizes = np.add.reduceat(counts[inner], starts - outer)
    plain = np.add.reduceat(values[inner], starts - outer)
    lengths = np.diff(np.append(starts, len(values) - outer))
    means = np.divide(sums, sizes, out=plain / lengths, where=sizes > 0)
    ends = slice(0, outer), slice(len(values) - outer, None)
    return (
        np.concatenate([values[ends[0]], means, values[ends[1]]]),
        np.concatenate([counts[ends[0]], sizes, counts[ends[1]]]),
    )


def frames_of(curves: Sequence[Curve], most: int) -> list[list[dict[str, Any]]]:
    """Return the frames of a family's curves, one for each recording.

    All curves of one run and recording are smoothed on the linear axis by one
    Gaussian, 1/200 of their common range, so that their heights compare.

    Args:
        curves: Of one family.
        most: Eigenvalues of a spectrum to keep.

    Returns:
        For each curve its frames, ready for JSON.
    """
    extents: dict[tuple[str, int | None], tuple[float, float]] = {}
    for curve in curves:
        for number, found in curve.spectra.items():
            low, high = float(found.values[0]), float(found.values[-1])
            old = extents.get((curve.run, number), (low, high))
            extents[curve.run, number] = min(old[0], low), max(old[1], high)
    return [
        [
            _frame(number, found, np.ptp(extents[curve.run, number]) / _WIDTHS, most)
            for number, found in curve.spectra.items()
        ]
        for curve in curves
    ]


def _frame(
    number: int | None, found: Spectrum, bandwidth: float, most: int
) -> dict[str, Any]:
    values, counts = thinned(found, most)
    is_single = bool(np.allclose(counts, 1.0, rtol=1e-9))
    return {
        "number": number,
        "linear": _linear(found, float(bandwidth)),
        "log": _logarithmic(found),
        "negative": _logarithmic(_mirrored(found)),
        "values": encoded(values),
        "counts": None if is_single else encoded(counts),
        "floor": found.noise_floor,
    }


def _linear(found: Spectrum, bandwidth: float) -> dict[str, Any]:
    modulus = float(np.abs(found.values).max())
    own = float(found.values[-1] - found.values[0])
    if bandwidth <= 1e-9 * modulus or bandwidth == 0.0:
        return _grid(found, found.density())
    points = math.ceil(_POINTS_PER_WIDTH * (own / bandwidth + 18))
    try:
        return _grid(found, found.density(bandwidth=bandwidth, num_points=points))
    except ValueError:  # its moments resolve no more than its own bandwidth
        return _grid(found, found.density())


def _logarithmic(found: Spectrum) -> dict[str, Any] | None:
    """Return the density over log10 λ, or None where nothing is above the floor."""
    if found.values[-1] <= found.noise_floor:
        return None
    return _grid(found, found.density(scale="log", num_points=_LOG_POINTS))


def _mirrored(found: Spectrum) -> Spectrum:
    """Return the spectrum of -A, without what single probes say."""
    return Spectrum(
        values=-found.values[::-1],
        weights=found.weights[::-1],
        dimension=found.dimension,
        exact=found.exact,
        noise_floor=found.noise_floor,
    )


def _grid(found: Spectrum, density: Density) -> dict[str, Any]:
    """Return a density as start, step and heights, cut where it is far from all."""
    inside = found.values
    if density.scale == "log":
        inside = np.log10(inside[inside > found.noise_floor])
    reach = _REACH * density.bandwidth
    chosen = (density.grid >= inside[0] - reach) & (density.grid <= inside[-1] + reach)
    grid: dict[str, Any] = {
        "start": float(density.grid[chosen][0]),
        "step": density.spacing,
        "heights": encoded(density.heights[chosen]),
        "width": density.bandwidth,
        "omitted": density.omitted_weight,
        "least": 1 / (found.dimension * density.bandwidth),
    }
    if density.lower is not None and density.upper is not None:
        grid["lower"] = encoded(density.lower[chosen])
        grid["upper"] = encoded(density.upper[chosen])
    return grid
