"""The density of a spectrum on a linear or a logarithmic axis."""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from eigenscope._types import require_choice
from eigenscope.spectra.quadrature import Quadrature, confidence_factor

DensityScale = Literal["linear", "log"]
DensityKind = Literal["smooth", "histogram"]

KERNEL_REACH = 9.0  # bandwidths; beyond them the normal tail is below 1e-18
BLOCK = 512  # atoms smoothed at once
MOST_BINS = 10_000_000
_DAMPED_RATIO = 1.5  # of errors of damped moments to the change from half of them


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Density:
    """Average density of a spectrum over the cells of a uniform grid.

    `heights[j]` is the weight that falls into the cell of width `spacing` around
    `grid[j]`, divided by `spacing`, so `sum(heights) * spacing` is 1 minus
    `omitted_weight` however narrow the peaks are.

    Attributes:
        grid: Centers of the cells: eigenvalues λ (scale "linear") or log10 λ
            (scale "log").
        heights: Weight per unit of the axis.
        bandwidth: Standard deviation of the Gaussian kernel (kind "smooth") or
            width of a bin (kind "histogram"), in units of the axis.
        scale: "linear" for an axis of λ, "log" for an axis of log10 λ.
        kind: "smooth" or "histogram".
        omitted_weight: Weight that the axis cannot show: on a log axis that of
            the values at or below max(0, noise floor).
        lower: Lower end of a 95 % confidence band, point by point: spread between
            probes, and half the steps against all. None for exact spectra.
        upper: Its upper end.

    Example:
        >>> from eigenscope.spectra import Spectrum
        >>> density = Spectrum.from_eigenvalues(np.arange(1.0, 101.0)).density()
        >>> mass = density.heights.sum() * density.spacing
        >>> bool(abs(mass + density.omitted_weight - 1) < 1e-6)
        True
    """

    grid: Float[np.ndarray, "point"]
    heights: Float[np.ndarray, "point"]
    bandwidth: float
    scale: DensityScale
    kind: DensityKind
    omitted_weight: float
    lower: Float[np.ndarray, "point"] | None = None
    upper: Float[np.ndarray, "point"] | None = None

    @property
    def spacing(self) -> float:
        """Distance of neighboring grid points."""
        return float(self.grid[1] - self.grid[0])


def density(
    values: Float[np.ndarray, "eig"],
    weights: Float[np.ndarray, "eig"],
    *,
    threshold: float,
    scale: DensityScale,
    kind: DensityKind,
    bandwidth: float | None,
    num_points: int,
    num_bins: int,
    quadrature: Quadrature | None = None,
    dimension: int = 1,
) -> Density:
    """Σ_i w_i K(x - x_i) on a grid; `Spectrum.density` documents the options.

    Args:
        values: Eigenvalues, ascending.
        weights: Their weights.
        threshold: A log axis shows the values above it.
        scale: "linear" or "log".
        kind: "smooth" or "histogram".
        bandwidth: In units of the axis, or None for the default rule.
        num_points: Points of a smooth density.
        num_bins: Bins of a histogram.
        quadrature: What the probes of an estimate say.
        dimension: D of an estimate.

    Returns:
        The density, with a band for an estimate.

    Raises:
        ValueError: If an option is out of its range, or nothing is above the
            threshold on a log axis.
    """
    require_choice("scale", scale, DensityScale)
    require_choice("kind", kind, DensityKind)
    if bandwidth is not None and not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth must be positive and finite; got {bandwidth}.")
    for name, count in (("num_points", num_points), ("num_bins", num_bins)):
        if count < 2:
            raise ValueError(f"{name} must be at least 2; got {count}.")
    positions, shown, omitted = _on_axis(values, weights, threshold, scale)
    finest = max(_resolution(positions), float(np.ptp(positions)) / MOST_BINS)
    if bandwidth is not None and bandwidth < finest:
        raise ValueError(
            f"bandwidth must be at least {finest:.3g} for values up to "
            f"{np.abs(positions).max():.3g} on this axis; got {bandwidth}."
        )
    widened = _kernel_width(quadrature, scale)
    if bandwidth is not None and bandwidth < widened:
        raise ValueError(
            f"bandwidth must be at least {widened:.3g}, the width that damped "
            f"Chebyshev moments give every eigenvalue; got {bandwidth}. Take more "
            "steps, or method='slq'."
        )
    if kind == "histogram":
        grid, heights, width = histogram_cells(
            positions, shown, bandwidth=bandwidth, num_bins=num_bins
        )
    else:
        width = bandwidth or max(silverman_bandwidth(positions, shown), widened)
        grid, heights = smooth_cells(
            positions, shown, bandwidth=width, num_points=num_points
        )
    bare = Density(
        grid=grid,
        heights=heights,
        bandwidth=width,
        scale=scale,
        kind=kind,
        omitted_weight=omitted,
    )
    if quadrature is None:
        return bare
    return _with_band(bare, quadrature, dimension, threshold)


def _with_band(
    bare: Density, quadrature: Quadrature, dimension: int, threshold: float
) -> Density:
    """The density with t standard errors over probes and the resolution around it."""
    edges = bare.grid[0] + bare.spacing * (np.arange(len(bare.grid) + 1) - 0.5)

    def heights(
        measure: tuple[Float[np.ndarray, "eig"], Float[np.ndarray, "eig"]],
    ) -> Float[np.ndarray, "point"]:
        values, weights = measure
        if bare.scale == "log":
            shown = values > threshold
            values, weights = np.log10(values[shown]), weights[shown]
        if bare.kind == "histogram":
            return np.histogram(values, edges, weights=weights)[0] / bare.spacing
        return smooth_heights(values, weights, bandwidth=bare.bandwidth, edges=edges)

    half = np.abs(bare.heights - heights(quadrature.measure(dimension, coarse=True)))
    half *= _DAMPED_RATIO if quadrature.kernel_width else 1.0
    if quadrature.num_probes > 1:
        rows = [heights(part) for part in quadrature.single_measures(dimension)]
        spread = np.std(rows, axis=0, ddof=1) / quadrature.num_probes**0.5
        half += confidence_factor(quadrature.num_probes) * spread
    lower = np.maximum(bare.heights - half, 0.0)
    return replace(bare, lower=lower, upper=bare.heights + half)


def _kernel_width(quadrature: Quadrature | None, scale: DensityScale) -> float:
    """The width of a node on the axis; on a logarithmic one it has none to name."""
    if quadrature is None or scale == "log":
        return 0.0
    return quadrature.kernel_width


def silverman_bandwidth(
    positions: Float[np.ndarray, "eig"], weights: Float[np.ndarray, "eig"]
) -> float:
    """0.9 · min(σ, IQR/1.34) · N^(-1/5), and at least 1/500 of the range.

    σ and the interquartile range IQR are weighted, N is the number of atoms. σ alone
    is used where IQR = 0. The lower bound lets 1024 points resolve every kernel. Atoms
    that agree to twelve digits get 1 % of their modulus, or 0.01 at zero.

    Args:
        positions: Places of the atoms on the axis, ascending.
        weights: Their weights.

    Returns:
        The bandwidth in units of the axis.

    References:
        Silverman (1986), Density Estimation for Statistics and Data Analysis, 3.31.
    """
    extent = float(positions[-1] - positions[0])
    if extent <= _resolution(positions):
        return 0.01 * _modulus(positions)
    share = weights / weights.sum()
    deviation = float(np.sqrt(share @ (positions - share @ positions) ** 2))
    lower, upper = np.searchsorted(np.cumsum(share), [0.25, 0.75])
    last = len(positions) - 1
    quartiles = float(positions[min(upper, last)] - positions[min(lower, last)])
    width = min(deviation, quartiles / 1.34) if quartiles > 0 else deviation
    return max(0.9 * width * len(positions) ** -0.2, extent / 500)


def smooth_cells(
    positions: Float[np.ndarray, "eig"],
    weights: Float[np.ndarray, "eig"],
    *,
    bandwidth: float,
    num_points: int,
) -> tuple[Float[np.ndarray, "point"], Float[np.ndarray, "point"]]:
    """Average over uniform cells of Σ_i w_i N(x; x_i, bandwidth²).

    The cells reach nine bandwidths beyond the outermost atoms.

    Args:
        positions: Places x_i of the atoms on the axis, ascending.
        weights: Their weights w_i.
        bandwidth: Standard deviation of the kernel.
        num_points: Number of cells.

    Returns:
        Centers of the cells and the heights over them.
    """
    reach = KERNEL_REACH * bandwidth
    edges = np.linspace(positions[0] - reach, positions[-1] + reach, num_points + 1)
    return (edges[:-1] + edges[1:]) / 2, smooth_heights(
        positions, weights, bandwidth=bandwidth, edges=edges
    )


def smooth_heights(
    positions: Float[np.ndarray, "eig"],
    weights: Float[np.ndarray, "eig"],
    *,
    bandwidth: float,
    edges: Float[np.ndarray, "edge"],
) -> Float[np.ndarray, "point"]:
    """Average over given cells of Σ_i w_i N(x; x_i, bandwidth²).

    Args:
        positions: Places x_i of the atoms on the axis, ascending.
        weights: Their weights w_i.
        bandwidth: Standard deviation of the kernel.
        edges: Edges of the cells, ascending.

    Returns:
        The height over each cell.
    """
    reach = KERNEL_REACH * bandwidth
    mass = np.zeros(len(edges) - 1)
    for start in range(0, len(positions), BLOCK):
        atoms = positions[start : start + BLOCK]
        low = max(int(np.searchsorted(edges, atoms[0] - reach, side="right")) - 1, 0)
        high = int(np.searchsorted(edges, atoms[-1] + reach)) + 1
        below = ndtr((edges[low:high] - atoms[:, None]) / bandwidth)
        share = np.diff(below, axis=1)
        mass[low : low + share.shape[1]] += weights[start : start + BLOCK] @ share
    return mass / np.diff(edges)


def histogram_cells(
    positions: Float[np.ndarray, "eig"],
    weights: Float[np.ndarray, "eig"],
    *,
    bandwidth: float | None,
    num_bins: int,
) -> tuple[Float[np.ndarray, "point"], Float[np.ndarray, "point"], float]:
    """Weight per unit of the axis in equal bins from the least to the largest atom.

    Args:
        positions: Places of the atoms on the axis, ascending.
        weights: Their weights.
        bandwidth: Width of a bin; it replaces `num_bins`.
        num_bins: Number of bins; around atoms that agree to twelve digits they
            reach half their modulus (at zero 0.5) to either side.

    Returns:
        Centers of the bins, heights over them and the width of a bin.
    """
    low, high = float(positions[0]), float(positions[-1])
    if bandwidth is not None:
        num_bins = max(int((high - low) / bandwidth) + 1, 2)
        high = low + num_bins * bandwidth
    elif high - low <= _resolution(positions):
        margin = _modulus(positions) / 2
        low, high = low - margin, high + margin
    mass, edges = np.histogram(
        positions, bins=num_bins, range=(low, high), weights=weights
    )
    centers = (edges[:-1] + edges[1:]) / 2
    return centers, mass / np.diff(edges), (high - low) / num_bins


def _modulus(positions: Float[np.ndarray, "eig"]) -> float:
    """Largest modulus, or 1 where that is so small that its inverse overflows."""
    largest = float(np.abs(positions).max())
    return largest if largest > 1e-280 else 1.0


def _resolution(positions: Float[np.ndarray, "eig"]) -> float:
    """Distance below which places on the axis count as one."""
    return 1e-12 * _modulus(positions)


def _on_axis(
    values: Float[np.ndarray, "eig"],
    weights: Float[np.ndarray, "eig"],
    threshold: float,
    scale: DensityScale,
) -> tuple[Float[np.ndarray, "shown"], Float[np.ndarray, "shown"], float]:
    """Places and weights of the atoms on an axis, and the weight left out."""
    if scale == "linear":
        return values, weights, 0.0
    shown = values > threshold
    if not bool(shown.any()):
        raise ValueError(
            f"a density over log10 λ needs an eigenvalue above the noise floor, "
            f"{threshold:.3g}; the largest is {values[-1]:.3g}. Use scale='linear'."
        )
    return np.log10(values[shown]), weights[shown], float(weights[~shown].sum())
