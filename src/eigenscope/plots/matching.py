"""Distances between layers' spectra and the full one, through depth and training."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eigenscope.experiments.matching import HEIGHTS, Match, Measure
from eigenscope.plots.style import INK, looks, new_figure, write_legend

MEASURE_NAMES: Final = {
    "none": "W1",
    "range": "W1, ranges as one",
    "max": "W1, largest |λ| as one",
    "trace": "W1, mean λ as one",
    HEIGHTS: "published height distance",
}
_Values = tuple[np.ndarray, np.ndarray]


def summed_figure(matches: Sequence[Match], *, measure: Measure, title: str) -> Figure:
    """Draw each layer's distance summed over training against relative depth.

    Args:
        matches: Of runs.
        measure: Which true W1 stands in the upper row.
        title: Of the figure.

    Returns:
        The figure: a column per network, the published distance in the lower row.
    """
    return _depth_figure(
        matches, measure, title, values=Match.summed, name=lambda match, _: match.data
    )


def peak_figure(matches: Sequence[Match], *, measure: Measure, title: str) -> Figure:
    """Draw each layer's distance at the epoch where their sum is smallest.

    Args:
        matches: Of runs.
        measure: Which true W1 stands in the upper row.
        title: Of the figure.

    Returns:
        The figure: a column per network, the published distance in the lower row.
    """

    def name(match: Match, key: Measure) -> str:
        return f"{match.data}, epoch {match.epochs[match.peak(key)]}"

    return _depth_figure(matches, measure, title, values=Match.at_peak, name=name)


def heat_figure(match: Match, *, measure: Measure) -> Figure:
    """Draw one run's distances, layer by epoch, and mark the epoch of the smallest sum.

    Args:
        match: Of a run.
        measure: Which true W1 stands beside the published distance.

    Returns:
        The figure, of two panels.
    """
    height = 1.9 + 0.24 * len(match.layers)
    with new_figure(match.label, width=12.5, height=height) as figure:
        keys: tuple[Measure, ...] = (measure, HEIGHTS)
        for ax, key in zip(figure.subplots(1, 2, sharey=True), keys, strict=True):
            table = match.distances[key].T
            positive = table[table > 0]
            norm = LogNorm() if positive.size else None
            edges = np.append(match.epochs, match.epochs[-1] + 1) - 0.5
            rows = np.arange(len(match.layers) + 1) - 0.5
            image = ax.pcolormesh(edges, rows, table, norm=norm, cmap="viridis")
            figure.colorbar(image, ax=ax)
            epoch = match.epochs[match.peak(key)]
            ax.axvline(epoch, color="white", ls="--", lw=1.2)
            ax.set(
                title=f"{MEASURE_NAMES[key]}; nearest after epoch {epoch}",
                xlabel="epoch",
                yticks=range(len(match.layers)),
            )
            ax.set_yticklabels(match.layers, parse_math=False, fontsize=8)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.axes[0].invert_yaxis()
    return figure


def course_figure(match: Match, *, measure: Measure) -> Figure:
    """Draw every layer's W1 by epoch with its band, over the full one's self-distance.

    Args:
        match: Of a run.
        measure: Which W1.

    Returns:
        The figure.
    """
    height = 4.6 + 0.22 * max(0, len(match.layers) - 5)  # the legend is below
    with new_figure(match.label, width=8.5, height=height) as figure:
        ax = figure.subplots()
        for column, (layer, (color, line)) in enumerate(
            zip(match.layers, looks(), strict=False)
        ):
            values = match.distances[measure][:, column]
            error = 2 * match.stderrs[measure][:, column]
            ax.plot(match.epochs, values, color=color, ls=line, label=layer)
            low, high = np.maximum(values - error, 0.0), values + error
            ax.fill_between(match.epochs, low, high, color=color, alpha=0.2, lw=0)
        own = match.self_distances[measure]
        if np.isfinite(own).any():
            label = "full against itself, two halves of its probes"
            ax.plot(match.epochs, own, color=INK, ls=":", lw=1.5, label=label)
        ax.set(xlabel="epoch", ylabel=f"{MEASURE_NAMES[measure]}, ± 2 standard errors")
        if np.nanmin(match.distances[measure]) > 0:
            ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        write_legend(ax, loc="upper right")
    return figure


def _depth_figure(
    matches: Sequence[Match],
    measure: Measure,
    title: str,
    *,
    values: Callable[[Match, Measure], _Values],
    name: Callable[[Match, Measure], str],
) -> Figure:
    models = list(dict.fromkeys(match.model for match in matches))
    keys: tuple[Measure, ...] = (measure, HEIGHTS)
    width = max(4.1 * len(models), 7.5)
    with new_figure(title, width=width, height=8.2) as figure:
        grid = figure.subplots(2, len(models), squeeze=False, sharex=True, sharey=True)
        for row, key in zip(grid, keys, strict=True):
            for ax, model in zip(row, models, strict=True):
                mine = [match for match in matches if match.model == model]
                for match, look in zip(mine, looks(), strict=False):
                    _plot_depth(ax, match, values(match, key), name(match, key), look)
                ax.set_title(f"{model}: {MEASURE_NAMES[key]}", parse_math=False)
                write_legend(ax, loc="best")
            row[0].set_ylabel("distance to the full spectrum / largest")
        for ax in grid[-1]:
            ax.set_xlabel("relative depth")
    return figure


def _plot_depth(
    ax: Axes, match: Match, values: _Values, name: str, look: tuple[str, str]
) -> None:
    found, error = values
    if not math.isfinite(float(found.sum())):
        return
    ax.errorbar(
        match.depths,
        found,
        yerr=2 * error if error.any() else None,
        color=look[0],
        ls=look[1],
        marker="o",
        ms=4,
        capsize=2,
        label=name,
    )
    ax.set_ylim(0, 1.08)
