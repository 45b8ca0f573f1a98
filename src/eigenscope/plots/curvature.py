"""Spectra with negative eigenvalues, whole and layer by layer."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eigenscope.plots.style import INK, PALETTE, new_figure, write_legend
from eigenscope.spectra import Spectrum

CURVATURE_EIGENVALUE: Final = "eigenvalue λ, loss/parameter²"

_RESOLUTION: Final = 200  # kernel widths over the range of all eigenvalues
_COLUMNS: Final = 4
_GRAY: Final = "#B0B0B0"


def plot_moduli(ax: Axes, spectrum: Spectrum, *, quantity: str) -> Axes:
    """Show |λ| against its rank, the positive and the negative eigenvalues apart.

    Of an estimate a node of weight w stands for w · D eigenvalues. A dotted line marks
    the noise floor.

    Args:
        ax: Where to draw.
        spectrum: The spectrum.
        quantity: Label of the axis of λ.

    Returns:
        `ax`.

    Example:
        >>> ax = plot_moduli(
        ...     Figure().subplots(),
        ...     Spectrum.from_eigenvalues([-1.0, 2.0, 3.0]),
        ...     quantity="λ",
        ... )
        >>> tuple(text.get_text() for text in ax.get_legend().get_texts())
        ('positive', 'negative')
    """
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel=f"modulus of {quantity}")
    floor, drawn = spectrum.noise_floor, False
    signs = {"positive": (1, PALETTE[0]), "negative": (-1, PALETTE[1])}
    for name, (sign, color) in signs.items():
        sizes = sign * spectrum.values
        chosen = sizes > max(floor, np.finfo(float).tiny)
        order = np.argsort(-sizes[chosen])
        if not len(order):
            continue
        counts = (spectrum.weights[chosen] * spectrum.dimension)[order]
        ranks = np.maximum(np.cumsum(counts), 1e-3)
        ax.plot(ranks, sizes[chosen][order], color=color, marker=".", ms=4, label=name)
        drawn = True
    if floor > 0 and drawn:
        ax.axhline(floor, color=INK, ls=":", lw=1.0, label="noise floor")
    if drawn:
        write_legend(ax, loc="center left")
    return ax


def plot_log_density(
    ax: Axes, spectra: Mapping[str, Spectrum], *, bandwidth: float, colors: list[str]
) -> Axes:
    """Overlay smoothed densities over λ, on a logarithmic density axis.

    Estimates are shaded by their 95 % confidence bands.

    Args:
        ax: Where to draw.
        spectra: By label.
        bandwidth: Standard deviation of the kernel, in units of λ.
        colors: One for each.

    Returns:
        `ax`.
    """
    for (label, found), color in zip(spectra.items(), colors, strict=True):
        density = found.density(bandwidth=bandwidth)
        lowest = 0.05 / (found.dimension * bandwidth)
        heights = np.where(density.heights > lowest, density.heights, np.nan)
        ax.plot(density.grid, heights, color=color, lw=1.2, label=label)
        if density.lower is not None and density.upper is not None:
            low, high = (np.maximum(b, lowest) for b in (density.lower, density.upper))
            ax.fill_between(density.grid, low, high, color=color, alpha=0.25, lw=0)
    ax.set(yscale="log")
    return ax


def curvature_figure(
    spectrum: Spectrum, *, title: str, quantity: str = CURVATURE_EIGENVALUE
) -> Figure:
    """Draw one spectrum: density over λ on a log axis, and moduli by rank.

    Args:
        spectrum: The spectrum, which may have negative eigenvalues.
        title: Of the figure.
        quantity: Label of the axis of λ.

    Returns:
        The figure, of two panels.
    """
    with new_figure(title, width=10.5, height=4.3) as figure:
        left, right = figure.subplots(1, 2)
        width = _bandwidth([spectrum])
        plot_log_density(
            left, {"eigenvalues": spectrum}, bandwidth=width, colors=[PALETTE[0]]
        )
        left.set(title="Density", xlabel=quantity, ylabel="density per unit of λ")
        plot_moduli(right, spectrum, quantity=quantity)
        right.set(title="Eigenvalues by rank")
    return figure


def layers_figure(
    spectra: Mapping[str, Spectrum],
    *,
    whole: str,
    title: str,
    quantity: str = CURVATURE_EIGENVALUE,
) -> Figure:
    """Draw every layer's density over that of the whole matrix, on common axes.

    Args:
        spectra: The whole matrix and its blocks, by name.
        whole: Name of the whole matrix.
        title: Of the figure.
        quantity: Label of the axis of λ.

    Returns:
        The figure, of one panel per block.

    Raises:
        ValueError: If there is no block.
    """
    blocks = {name: found for name, found in spectra.items() if name != whole}
    if not blocks:
        raise ValueError("spectra must hold at least one block; got none.")
    rows = math.ceil(len(blocks) / _COLUMNS)
    columns = math.ceil(len(blocks) / rows)
    bandwidth = _bandwidth(list(spectra.values()))
    with new_figure(title, width=3.1 * columns + 0.8, height=2.3 * rows + 1) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for ax in grid.ravel()[len(blocks) :]:
            ax.remove()
        for ax, (name, found) in zip(grid.ravel(), blocks.items(), strict=False):
            pair = {whole: spectra[whole], "block": found}
            plot_log_density(ax, pair, bandwidth=bandwidth, colors=[_GRAY, PALETTE[0]])
            ax.set_title(f"{name}, D = {found.dimension:,}", parse_math=False, size=9)
        for ax in grid.ravel()[max(0, len(blocks) - columns) : len(blocks)]:
            ax.tick_params(labelbottom=True)
        write_legend(grid[0, 0], loc="upper right")
        figure.supxlabel(quantity, size=10)
        figure.supylabel("density per unit of λ", size=10)
    return figure


def _bandwidth(spectra: list[Spectrum]) -> float:
    low = min(float(found.values[0]) for found in spectra)
    high = max(float(found.values[-1]) for found in spectra)
    widths = [found.quadrature.kernel_width for found in spectra if found.quadrature]
    return max([(high - low) / _RESOLUTION, *widths]) or 1.0
