"""Eigenvalues of a Gauss-Newton matrix against those of its parts by classes."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eigenscope.plots.curvature import CURVATURE_EIGENVALUE
from eigenscope.plots.style import PALETTE, new_figure, write_legend


def classes_figure(
    *,
    total: Sequence[float],
    between: Sequence[float],
    classes: Sequence[float],
    within: Sequence[float],
    shares: Sequence[float],
    title: str,
) -> Figure:
    """Draw eigenvalues by rank, and what share of each comes from means of classes.

    Args:
        total: The largest eigenvalues of G, descending; as many of the others are
            drawn.
        between: Of G₀ + G₁ + G₂, descending.
        classes: Of G₁, descending.
        within: Of G₃, descending.
        shares: vᵀ(G₀ + G₁ + G₂)v / λ for each of `total`.
        title: Of the figure.

    Returns:
        The figure, of two panels.
    """
    count = len(total)
    drawn = (
        (
            "G, all samples",
            total,
            {"marker": "o", "ms": 8, "mfc": "none", "color": PALETTE[6]},
        ),
        (
            "G₀ + G₁ + G₂, between classes",
            between,
            {"marker": "+", "ms": 8, "color": PALETTE[1]},
        ),
        ("G₁, classes' means", classes, {"marker": ".", "ms": 6, "color": PALETTE[2]}),
        ("G₃, within classes", within, {"marker": "x", "ms": 5, "color": PALETTE[0]}),
    )
    with new_figure(title, width=10.5, height=4.3) as figure:
        left, right = figure.subplots(1, 2)
        for label, values, look in drawn:
            kept = [value for value in values[:count] if value > 0]
            left.plot(range(1, len(kept) + 1), kept, ls="none", label=label, **look)
        left.set(yscale="log", title="Eigenvalues by rank", xlabel="rank")
        left.set(ylabel=CURVATURE_EIGENVALUE)
        write_legend(left, loc="upper right")
        right.bar(range(1, count + 1), shares, color=PALETTE[1], width=0.7)
        right.set(title="Share of G's eigenvalue between classes", xlabel="rank")
        right.set(ylim=(0, 1), ylabel="vᵀ(G₀ + G₁ + G₂)v / λ")
        for ax in (left, right):
            ax.set_xlim(0.3, count + 0.7)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
