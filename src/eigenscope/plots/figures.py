"""Whole figures, as the command line writes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eigenscope._types import require_choice
from eigenscope.analysis import PowerLaw
from eigenscope.plots.densities import draw_law_density, plot_density, plot_diagonal
from eigenscope.plots.style import (
    EIGENVALUE,
    LAW_COLORS,
    SQUARED_NORM,
    eigenvalue_title,
    new_figure,
)
from eigenscope.plots.tails import plot_tail
from eigenscope.plots.vectors import plot_input_vectors, plot_sample_vector
from eigenscope.spectra import Eigenpairs, Spectrum

VectorSide = Literal["rows", "columns"]

_MOST_IMAGES: Final = 10
_MOST_STRIPS: Final = 5


def spectrum_figure(
    spectrum: Spectrum,
    fits: Mapping[str, PowerLaw],
    *,
    title: str,
    quantity: str = EIGENVALUE,
) -> Figure:
    """Draw one spectrum: histogram over λ, density over log10 λ, and tail.

    Args:
        spectrum: The spectrum.
        fits: Its tail fits by rule ("scan", "peak", …); may be empty.
        title: Of the figure.
        quantity: Label of the axes of λ.

    Returns:
        The figure, of three panels.
    """
    named = {"eigenvalues": spectrum}
    with new_figure(title, width=13.5, height=4.3) as figure:
        linear, log, tail = figure.subplots(1, 3)
        plot_density(linear, named, scale="linear", kind="histogram", quantity=quantity)
        plot_density(log, named, quantity=quantity)
        fit = _main_fit(fits)
        if fit is not None:
            draw_law_density(log, fit, color=LAW_COLORS[0])
        plot_tail(tail, named, {"eigenvalues": fits}, quantity=quantity)
        for ax, text in zip(
            (linear, log, tail), ("Spectrum", "Logarithmic axis", "Tail"), strict=True
        ):
            ax.set_title(text)
    return figure


def diagonal_figure(
    values: Float[np.ndarray, " sample"],
    fits: Mapping[str, PowerLaw] | None = None,
    *,
    title: str,
) -> Figure:
    """Draw diag(𝒥𝒥ᵀ), the samples' squared Frobenius norms: histogram and tail.

    Args:
        values: The diagonal.
        fits: Its tail fits by rule; None for none.
        title: Of the figure.

    Returns:
        The figure, of two panels.
    """
    laws = fits or {}
    named = {"samples": Spectrum.from_eigenvalues(values)}
    with new_figure(title, width=9.5, height=4.3) as figure:
        left, right = figure.subplots(1, 2)
        plot_diagonal(left, values, fit=_main_fit(laws))
        plot_tail(right, named, {"samples": laws}, quantity=SQUARED_NORM)
        left.set_title("Histogram")
        right.set(title="Tail", ylabel="share of samples at or above")
    return figure


def eigenvector_figure(
    pairs: Eigenpairs,
    *,
    side: VectorSide,
    sample_shape: Sequence[int],
    title: str,
    targets: Integer[np.ndarray, " target"] | None = None,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw top eigenvectors: of 𝒥ᵀ𝒥 as inputs, of 𝒥𝒥ᵀ by sample and class.

    At most ten inputs or five vectors by sample; the title says how many of how many.

    Args:
        pairs: Best first.
        side: "rows" for vectors of 𝒥𝒥ᵀ, "columns" for those of 𝒥ᵀ𝒥.
        sample_shape: Shape of one input.
        title: Of the figure.
        targets: Class of each sample (or entry), for vectors of 𝒥𝒥ᵀ.
        class_names: By class.

    Returns:
        The figure, of one panel per vector.

    Raises:
        ValueError: If there are no vectors, they do not fit the shape or targets, or
            `side` is unknown.
    """
    require_choice("side", side, VectorSide)
    if len(pairs) == 0:
        raise ValueError("pairs must hold at least one eigenvector; got none.")
    shown = min(len(pairs), _MOST_IMAGES if side == "columns" else _MOST_STRIPS)
    if shown < len(pairs):
        title = f"{title} (first {shown} of {len(pairs)})"
    values = pairs.values[:shown].cpu().numpy()
    vectors = pairs.vectors[:, :shown].cpu().numpy()
    if side == "columns":
        return _input_figure(vectors, values, tuple(sample_shape), title)
    with new_figure(title, width=9.5, height=0.8 + 1.9 * shown) as figure:
        column = figure.subplots(shown, 1, squeeze=False, sharex=True)[:, 0]
        for number, (ax, value) in enumerate(zip(column, values, strict=True)):
            vector = vectors[:, number]
            plot_sample_vector(ax, vector, targets=targets, class_names=class_names)
            ax.set(title=eigenvalue_title(number + 1, value), ylabel="entry")
            ax.label_outer()
    return figure


def comparison_figure(
    spectra: Mapping[str, Spectrum],
    fits: Mapping[str, Mapping[str, PowerLaw]],
    *,
    title: str,
    quantity: str = EIGENVALUE,
) -> Figure:
    """Overlay the densities and the tails of several runs, or of other matrices.

    Args:
        spectra: By the run's label.
        fits: The tail fits of each, by rule; "scan", or else the first, is drawn.
        title: Of the figure.
        quantity: Label of the axes of λ.

    Returns:
        The figure, of two panels.

    Raises:
        ValueError: If there is no spectrum.
    """
    height = 4.6 + (0.2 * len(spectra) if len(spectra) > 4 else 0.0)
    with new_figure(title, width=11.0, height=height) as figure:
        left, right = figure.subplots(1, 2)
        _draw_pair(left, right, spectra, fits, quantity)
    return figure


def demo_figure(
    spectra: Mapping[str, Mapping[str, Spectrum]],
    fits: Mapping[str, Mapping[str, Mapping[str, PowerLaw]]],
    *,
    title: str,
) -> Figure:
    """Overlay densities and tails in one row per output.

    Args:
        spectra: By output ("logits", …), then by label ("true labels", …).
        fits: The tail fits of each, likewise, then by rule; "scan", or else the
            first, is drawn.
        title: Of the figure.

    Returns:
        The figure, of two panels per output.

    Raises:
        ValueError: If there is no spectrum.
    """
    if not spectra:
        raise ValueError("spectra must hold at least one output; got none.")
    with new_figure(title, width=11.0, height=0.6 + 4.0 * len(spectra)) as figure:
        grid = figure.subplots(len(spectra), 2, squeeze=False)
        for (output, named), (left, right) in zip(spectra.items(), grid, strict=True):
            _draw_pair(left, right, named, fits.get(output, {}))
            left.set_title(f"{output}: density", parse_math=False)
            right.set_title(f"{output}: tail", parse_math=False)
    return figure


def _main_fit(fits: Mapping[str, PowerLaw]) -> PowerLaw | None:
    return fits.get("scan", next(iter(fits.values()), None))


def _draw_pair(
    left: Axes,
    right: Axes,
    spectra: Mapping[str, Spectrum],
    fits: Mapping[str, Mapping[str, PowerLaw]],
    quantity: str = EIGENVALUE,
) -> None:
    plot_density(left, spectra, quantity=quantity)
    main = {label: _main_fit(fits.get(label, {})) for label in spectra}
    drawn = {label: {fit.rule: fit} for label, fit in main.items() if fit}
    plot_tail(right, spectra, drawn, quantity=quantity)
    left.set_title("Density")
    right.set_title("Tail")


def _input_figure(
    vectors: np.ndarray, values: np.ndarray, sample_shape: tuple[int, ...], title: str
) -> Figure:
    """Return pictures in a grid, or strips of parts and lines below each other."""
    count = len(values)
    is_wide = vectors.shape[0] > math.prod(sample_shape) or len(sample_shape) == 1
    columns = 1 if is_wide else min(count, 5)
    rows = math.ceil(count / columns)
    ratio = sample_shape[-2] / sample_shape[-1] if len(sample_shape) > 1 else 1.0
    row_height = 1.5 if is_wide else 0.35 + 2.1 * min(max(ratio, 0.3), 2.0)
    width = 10.0 if is_wide else max(2.1 * columns, 4.5)
    with new_figure(title, width=width, height=0.6 + row_height * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in grid[count:]:
            ax.remove()
        plot_input_vectors(
            list(grid[:count]), vectors, sample_shape=sample_shape, values=values
        )
    return figure
