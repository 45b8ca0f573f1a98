"""Densities of spectra, and of the diagonal of 𝒥𝒥ᵀ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from eigenscope.analysis import PowerLaw
from eigenscope.plots.style import (
    EIGENVALUE,
    INK,
    LAW_COLORS,
    MAX_LOG10,
    RULE_NAMES,
    SQUARED_NORM,
    legend_share,
    looks,
    tick_linear_axis,
    tick_log_axis,
    with_error,
    write_legend,
    write_note,
)
from eigenscope.spectra import Density, DensityKind, DensityScale, Spectrum

_VIEW_BANDWIDTHS: Final = 3.5  # shown beyond the extreme eigenvalues
_MOST_FILLED: Final = 3
_FOOT: Final = 0.15  # height of the marks of several noise floors
_LAW_HEADROOM: Final = 1.3  # a law is not drawn higher over the data
_VISIBLE_SHARE: Final = 0.005  # of a linear axis: nearer to zero a mark is the axis


def plot_density(
    ax: Axes,
    spectra: Mapping[str, Spectrum],
    *,
    scale: DensityScale = "log",
    kind: DensityKind = "smooth",
    quantity: str = EIGENVALUE,
) -> Axes:
    """Overlay Σ_i w_i K(x - x_i) of labeled spectra, x = log10 λ or x = λ.

    A log axis shows the density per decade of the eigenvalues above the noise floor;
    the legend says which share of all is not shown. A linear axis shows all, and its
    density axis is logarithmic, so that single large eigenvalues are seen. A dotted
    line marks the noise floor where it lies in view.

    Args:
        ax: Where to draw.
        spectra: By label.
        scale: "log" or "linear", of the axis of λ.
        kind: "smooth" or "histogram".
        quantity: Label of the axis of λ.

    Returns:
        `ax`.

    Raises:
        ValueError: If there is no spectrum, or an option is unknown.

    Example:
        >>> from matplotlib.figure import Figure
        >>> spectrum = Spectrum.from_eigenvalues([1.0, 2.0, 4.0], dimension=6)
        >>> ax = plot_density(Figure().subplots(), {"lenet": spectrum})
        >>> ax.get_legend().get_texts()[0].get_text()
        'lenet (50 % zero or rounding)'
    """
    if not spectra:
        raise ValueError("spectra must hold at least one spectrum; got none.")
    ax.autoscale(enable=False)
    shown: dict[str, Density] = {}
    floors: list[tuple[float, str]] = []
    for (label, spectrum), (color, style) in zip(
        spectra.items(), looks(), strict=False
    ):
        if scale == "log" and spectrum.values[-1] <= spectrum.noise_floor:
            text = f"{label} (none above the noise floor)"
            ax.plot([], [], color=color, ls=style, label=text)
            continue
        found = spectrum.density(scale=scale, kind=kind, num_bins=_num_bins(spectrum))
        text = label + _omission(spectrum, found)
        look = _Look(color=color, style=style, label=text)
        _draw(ax, found, look, is_filled=len(spectra) <= _MOST_FILLED)
        floors.append((spectrum.noise_floor, color))
        shown[label] = found
    unit = quantity.rpartition(", ")[2] if "," in quantity else "unit of λ"
    ax.set(
        xlabel=quantity, ylabel=f"density per {'decade' if scale == 'log' else unit}"
    )
    if not shown:
        write_note(ax, "no eigenvalue above the noise floor")
        return ax
    _frame(ax, {label: (spectra[label], shown[label]) for label in shown}, scale)
    _mark_floors(ax, floors, scale)
    _finish(ax)
    return ax


def plot_diagonal(
    ax: Axes,
    values: Float[np.ndarray, " sample"],
    *,
    fit: PowerLaw | None = None,
) -> Axes:
    """Draw the histogram of log10 diag(𝒥𝒥ᵀ), the samples' squared Frobenius norms.

    A fitted tail is drawn over it, from a ring at its start.

    Args:
        ax: Where to draw.
        values: The diagonal, not negative.
        fit: Tail fit of these values.

    Returns:
        `ax`.

    Raises:
        ValueError: If there are no values, or some are not finite.
    """
    measure = Spectrum.from_eigenvalues(values)
    plot_density(ax, {"samples": measure}, kind="histogram", quantity=SQUARED_NORM)
    if fit is not None:
        draw_law_density(ax, fit, color=LAW_COLORS[0])
    return ax


def draw_law_density(ax: Axes, fit: PowerLaw, *, color: str) -> None:
    """Draw a fitted law as a density per decade of all values, and mark its start.

    Args:
        ax: Axes of `plot_density` on a log scale.
        fit: The law.
        color: Of both.
    """
    total = fit.num_values + fit.num_below_floor + fit.num_above_xmax
    x = np.geomspace(fit.xmin, fit.sample.values[-1], 200)
    per_decade = np.log(10) * x * fit.pdf(x) * (fit.num_tail / total)
    inside = per_decade <= _LAW_HEADROOM * ax.dataLim.ymax
    label = f"{RULE_NAMES[fit.rule]}: α = {with_error(fit.alpha, fit.alpha_stderr)}"
    ax.plot(
        *(x[inside], per_decade[inside]),
        color=color,
        ls="--",
        lw=1.6,
        marker="o",
        markevery=[0] if inside[0] else [],
        ms=7,
        mfc="white",
        mew=1.6,
        label=label,
        zorder=3,
    )
    _finish(ax)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """How a density is drawn and called."""

    color: str
    style: str
    label: str


def _draw(ax: Axes, found: Density, look: _Look, *, is_filled: bool) -> None:
    line: dict[str, Any] = {"color": look.color, "ls": look.style, "label": look.label}
    if found.kind == "smooth":
        x = _on_ruler(found.grid, found)
        ax.plot(x, found.heights, lw=1.6, **line)
        if is_filled:
            ax.fill_between(x, found.heights, color=look.color, alpha=0.12, lw=0)
        return
    edges = np.append(
        found.grid - found.spacing / 2, found.grid[-1] + found.spacing / 2
    )
    places = _on_ruler(edges, found)
    ax.stairs(found.heights, places, lw=1.2, **line)
    if is_filled:
        ax.stairs(
            *(found.heights, places), fill=True, color=look.color, alpha=0.25, lw=0
        )


def _frame(
    ax: Axes, shown: Mapping[str, tuple[Spectrum, Density]], scale: DensityScale
) -> None:
    """Show where the eigenvalues are, and no density below a third of one of them."""
    limits = np.array([_extent(*pair) for pair in shown.values()])
    low, high = limits[:, 0].min(), limits[:, 1].max()
    top = max(float(found.heights.max()) for _, found in shown.values())
    if scale == "log":
        ax.set_xscale("log")
        ax.set_xlim(*np.power(10.0, np.clip([low, high], -MAX_LOG10, MAX_LOG10)))
        tick_log_axis(ax.xaxis)
        return
    ax.set_xlim(low, high)
    tick_linear_axis(ax.xaxis)
    least = min(
        float(spectrum.weights[spectrum.weights > 0].min()) / found.bandwidth
        for spectrum, found in shown.values()
    )
    ax.set_yscale("log")
    ax.set_ylim(0.3 * min(least, top), 3 * top)
    tick_log_axis(ax.yaxis)


def _extent(spectrum: Spectrum, found: Density) -> tuple[float, float]:
    # A smooth density reaches further than it is seen.
    if found.kind == "histogram":
        half = found.spacing
        return float(found.grid[0]) - half, float(found.grid[-1]) + half
    inside = spectrum.values
    if found.scale == "log":
        inside = np.log10(inside[inside > spectrum.noise_floor])
    reach = _VIEW_BANDWIDTHS * found.bandwidth
    return float(inside[0]) - reach, float(inside[-1]) + reach


def _mark_floors(
    ax: Axes, floors: list[tuple[float, str]], scale: DensityScale
) -> None:
    """Mark the floors in view: one by a line, several by their colors at the foot."""
    low, high = ax.get_xlim()
    least = low if scale == "log" else _VISIBLE_SHARE * (high - low)
    seen = [pair for pair in floors if least < pair[0] < high]
    for floor, color in seen:
        alone = len(floors) == 1
        ax.axvline(
            floor,
            ymax=1.0 if alone else _FOOT,
            color=INK if alone else color,
            lw=1.2,
            ls=":",
        )
    if seen:
        ax.plot([], [], color=INK, lw=1.2, ls=":", label="noise floor")


def _finish(ax: Axes) -> None:
    """Write the legend, above the curves if the axis of densities is linear."""
    if ax.get_yscale() == "linear":
        ax.set_ylim(0, ax.dataLim.ymax / (1 - legend_share(ax)))
    write_legend(ax, loc="upper right")


def _omission(spectrum: Spectrum, found: Density) -> str:
    if found.omitted_weight <= 0:
        return ""
    rounding = spectrum.values[0] >= -spectrum.noise_floor
    what = "zero or rounding" if rounding else "not above the noise floor"
    return f" ({100 * found.omitted_weight:.3g} % {what})"


def _num_bins(spectrum: Spectrum) -> int:
    return int(np.clip(2 * np.sqrt(len(spectrum.values)), 20, 100))


def _on_ruler(grid: np.ndarray, found: Density) -> np.ndarray:
    if found.scale == "linear":
        return grid
    return np.power(10.0, np.clip(grid, -MAX_LOG10, MAX_LOG10))
