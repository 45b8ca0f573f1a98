"""Tails of spectra with the power laws fitted to them."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from eigenscope.analysis import PowerLaw
from eigenscope.plots.style import (
    EIGENVALUE,
    LAW_COLORS,
    LINE_STYLES,
    MAX_LOG10,
    RULE_NAMES,
    legend_share,
    looks,
    tick_log_axis,
    with_error,
    write_legend,
    write_note,
)
from eigenscope.spectra import Spectrum

_MOST_MARKS: Final = 2000
_LAW_DEPTH: Final = 10.0  # a law is not drawn farther below the least share
_HIDDEN_SHARE: Final = 0.02  # of the values above the floor: the least are not in view


def plot_tail(
    ax: Axes,
    spectra: Mapping[str, Spectrum],
    fits: Mapping[str, Mapping[str, PowerLaw]],
    *,
    quantity: str = EIGENVALUE,
) -> Axes:
    """Draw the share of eigenvalues ≥ λ on log-log axes, and power laws over it.

    A law runs from its start, a ring, to the largest value, at the height of the
    tail's share of all values, so it meets the data at its start. The legend gives
    α ± its standard error and the Kolmogorov-Smirnov distance D.

    Args:
        ax: Where to draw.
        spectra: By label.
        fits: Laws by label, then by rule ("scan", "peak", …); either may be missing
            where the tail has no meaning.
        quantity: Label of the axis of λ.

    Returns:
        `ax`.

    Raises:
        ValueError: If there is no spectrum.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from eigenscope.analysis import fit_power_law
        >>> spectrum = Spectrum.from_eigenvalues([1.0, 2.0, 4.0, 9.0])
        >>> fits = {"lenet": {"scan": fit_power_law(spectrum)}}
        >>> ax = plot_tail(Figure().subplots(), {"lenet": spectrum}, fits)
        >>> ax.get_xscale(), ax.get_yscale()
        ('log', 'log')
    """
    if not spectra:
        raise ValueError("spectra must hold at least one spectrum; got none.")
    ax.autoscale(enable=False)
    alone = len(spectra) == 1
    views: list[tuple[float, float, float]] = []
    for (label, spectrum), (color, style) in zip(
        spectra.items(), looks(), strict=False
    ):
        laws = list(fits.get(label, {}).values())
        x, share = _shares(spectrum)
        note = "" if laws else " (no power law)" if len(x) else " (nothing to show)"
        ax.plot(
            *(x, share),
            color=color,
            ls="none",
            marker=".",
            ms=4 if alone else 3,
            label=label + note if alone or not laws else None,
        )
        drawn = [_law(fit, float(share[-1])) for fit in laws]
        if len(x):
            views.append(_view(x, share, drawn))
        for number, (fit, law) in enumerate(zip(laws, drawn, strict=True)):
            rule = RULE_NAMES[fit.rule]
            _draw_law(
                ax,
                law,
                fit,
                color=LAW_COLORS[number % len(LAW_COLORS)] if alone else color,
                style=LINE_STYLES[number % 4] if alone or number else style,
                name=rule if alone else f"{label}, {rule}" if number else label,
            )
    ax.set(xlabel=quantity, ylabel="share of eigenvalues ≥ λ")
    if not views:
        write_note(ax, "no eigenvalue above the noise floor")
        return ax
    _frame(ax, np.array(views))
    write_legend(ax, loc="lower left")
    return ax


def _shares(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """Return values above the noise floor and weights at or above each; few of many."""
    shown = (spectrum.values > spectrum.noise_floor) & (spectrum.weights > 0)
    at_least = np.cumsum(spectrum.weights[shown][::-1])[::-1]
    values, first = np.unique(spectrum.values[shown], return_index=True)
    shares = at_least[first]
    if len(values) <= _MOST_MARKS:
        return values, shares
    ranks = np.geomspace(1, len(values), _MOST_MARKS).astype(int)
    kept = len(values) - np.unique(ranks)[::-1]
    return values[kept], shares[kept]


def _law(fit: PowerLaw, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return values and the law's share of all at or above, where it can be seen."""
    total = fit.num_values + fit.num_below_floor + fit.num_above_xmax
    x = np.geomspace(fit.xmin, fit.sample.values[-1], 100)
    share = (fit.num_tail * fit.ccdf(x) + fit.num_above_xmax) / total
    seen = share >= least / _LAW_DEPTH
    return x[seen], share[seen]


def _draw_law(
    ax: Axes,
    law: tuple[np.ndarray, np.ndarray],
    fit: PowerLaw,
    *,
    color: str,
    style: str,
    name: str,
) -> None:
    alpha = with_error(fit.alpha, fit.alpha_stderr)
    text = f"{name}: α = {alpha}, KS = {fit.ks_distance:.3f}"
    ax.plot(
        *law,
        color=color,
        ls=style,
        lw=1.8,
        marker="o",
        markevery=[0],
        ms=7,
        mfc="white",
        mew=1.6,
        label=text,
        zorder=3,
    )


def _view(
    x: np.ndarray, share: np.ndarray, laws: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, float, float]:
    """Return least and largest value, and the least share, that must be seen."""
    first = int(np.searchsorted(-share, -(1 - _HIDDEN_SHARE) * share[0]))
    low = min([float(x[max(first - 1, 0)]), *(float(law[0][0]) for law in laws)])
    least = min([float(share[-1]), *(float(law[1][-1]) for law in laws)])
    return low, float(x[-1]), least


def _frame(ax: Axes, views: np.ndarray) -> None:
    ax.set(xscale="log", yscale="log")
    low, high = np.log10(views[:, 0].min()), np.log10(views[:, 1].max())
    margin = max(0.04 * (high - low), 0.02)
    limits = np.clip([low - margin, high + margin], -MAX_LOG10, MAX_LOG10)
    ax.set_xlim(*np.power(10.0, limits))
    top, bottom = np.log10(1.6), np.log10(views[:, 2].min() / 1.5)
    bottom = top - (top - bottom) / (1 - legend_share(ax))
    ax.set_ylim(10**bottom, 10**top)
    tick_log_axis(ax.xaxis)
    tick_log_axis(ax.yaxis)
