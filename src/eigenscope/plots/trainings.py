"""Several trainings side by side: curves, spectra, and numbers against each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eigenscope.plots.densities import plot_density
from eigenscope.plots.style import (
    height_below,
    looks,
    new_figure,
    write_legend_below,
)
from eigenscope.spectra import Spectrum

_COLUMNS: Final = 3
_MOST_EPOCHS: Final = 7
_SHARE: Final = "accuracy"  # from 0 to 1, on a linear axis


class Points(NamedTuple):
    """A line of a panel.

    Attributes:
        x: Places.
        y: Values.
        errors: Standard errors of the values, NaN for none; empty for none at all.
    """

    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] = ()


def panels_figure(
    panels: Mapping[str, Mapping[str, Points]], *, axes: Mapping[str, str], title: str
) -> Figure:
    """Draw one panel for each quantity, one line for each run.

    Args:
        panels: By the quantity's name, the label of its axis: by run, the line.
        axes: By the same name, the label of the axis of x.
        title: Of the figure.

    Returns:
        The figure, the legend of all panels below them; bars are ± one standard error;
        an axis of y whose values span more than a decade is logarithmic, unless they
        are accuracies.

    Raises:
        ValueError: If there is no panel.
    """
    if not panels:
        raise ValueError("panels must hold at least one quantity; got none.")
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    styles = dict(zip(labels, looks(), strict=False))
    width = 4.3 * columns + 0.5
    height = 3.5 * rows + 0.6 + height_below(labels, width=width)
    with new_figure(title, width=width, height=height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in grid[len(panels) :]:
            ax.remove()
        drawn: dict[str, Line2D] = {}
        for ax, (name, lines) in zip(grid, panels.items(), strict=False):
            for label, points in lines.items():
                color, style = styles[label]
                (line,) = ax.plot(
                    points.x, points.y, color=color, ls=style, marker="o", ms=3
                )
                if points.errors:
                    ax.errorbar(*points, color=color, fmt="none", elinewidth=1)
                drawn.setdefault(label, line)
            ax.set_ylabel(name, parse_math=False)
            if not name.startswith(_SHARE):
                _choose_scale(ax, lines)
            _label_across(ax, axes[name])
        write_legend_below(figure, drawn)
    return figure


def evolution_figure(
    spectra: Mapping[str, Mapping[int, Spectrum]], *, title: str
) -> Figure:
    """Draw each run's Jacobian spectrum at some of its epochs, a panel for each run.

    Args:
        spectra: By run and epoch.
        title: Of the figure.

    Returns:
        The figure.
    """
    columns = min(_COLUMNS, len(spectra))
    rows = math.ceil(len(spectra) / columns)
    with new_figure(title, width=4.6 * columns, height=3.8 * rows + 0.8) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for ax in grid[len(spectra) :]:
            ax.remove()
        limits: list[tuple[float, float]] = []
        for ax, (label, by_epoch) in zip(grid, spectra.items(), strict=False):
            places = np.linspace(0, len(by_epoch) - 1, min(len(by_epoch), _MOST_EPOCHS))
            epochs = np.array(list(by_epoch))[np.unique(places.round().astype(int))]
            plot_density(ax, {f"epoch {n}": by_epoch[int(n)] for n in epochs})
            limits.append(ax.get_xlim())
            ax.set_title(label, parse_math=False)
        lows, highs = zip(*limits, strict=True)
        grid[0].set_xlim(min(lows), max(highs))
    return figure


def _label_across(ax: Axes, label: str) -> None:
    ax.set(xlabel=label)
    if label == "epoch":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _choose_scale(ax: Axes, lines: Mapping[str, Points]) -> None:
    values = np.array(
        [value for line in lines.values() for value in line.y], dtype=float
    )
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 10 * values.min():
        ax.set_yscale("log")
