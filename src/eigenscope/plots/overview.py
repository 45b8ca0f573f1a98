"""Figures for readers without scripts: several spectra, or numbers over epochs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eigenscope.plots.densities import plot_density
from eigenscope.plots.style import looks, new_figure, write_legend
from eigenscope.spectra import Spectrum

Series = tuple[Sequence[int], Sequence[float], Sequence[float]]


def plot_series(ax: Axes, series: Mapping[str, Series]) -> Axes:
    """Draw numbers over the epochs or steps at which they were recorded.

    Args:
        ax: Where to draw.
        series: By label, the numbers of the recordings, values and standard errors;
            NaN where a value was not finite or has no error.

    Returns:
        `ax`.

    Example:
        >>> series = {"loss": ([0, 1], [2.0, 1.0], [0.0, 0.0])}
        >>> ax = plot_series(Figure().subplots(), series)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['loss']
    """
    for (label, (numbers, values, errors)), (color, style) in zip(
        series.items(), looks(), strict=False
    ):
        ax.errorbar(
            *(numbers, values),
            yerr=np.nan_to_num(np.asarray(errors, dtype=float)),
            color=color,
            ls=style,
            lw=1.4,
            marker=".",
            capsize=2,
            label=label,
        )
    ax.set_xlabel("epoch or step")
    write_legend(ax, loc="upper right")
    return ax


def series_figure(series: Mapping[str, Series], *, title: str) -> Figure:
    """Draw numbers over the epochs or steps at which they were recorded.

    Args:
        series: As for `plot_series`.
        title: Of the figure.

    Returns:
        The figure, of one panel.
    """
    with new_figure(title, width=7.5, height=4.2) as figure:
        plot_series(figure.subplots(), series)
    return figure


def overview_figure(
    spectra: Mapping[str, Spectrum], *, title: str, quantity: str
) -> Figure:
    """Overlay the densities of spectra, over log λ unless some are negative.

    Args:
        spectra: By label.
        title: Of the figure.
        quantity: Label of the axis of λ.

    Returns:
        The figure, of one panel.
    """
    is_signed = any(float(s.values[0]) < -s.noise_floor for s in spectra.values())
    with new_figure(title, width=7.5, height=4.2) as figure:
        plot_density(
            figure.subplots(),
            spectra,
            scale="linear" if is_signed else "log",
            quantity=quantity,
        )
    return figure
