"""Networks of a family, or classes: numbers of spectra against depth and accuracy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Final, final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter
from matplotlib.transforms import Bbox, BboxBase

from eigenscope.plots.style import INK, looks, new_figure, tick_log_axis

_MARGIN: Final = 0.12  # of each axis' span, for the names of the outermost points
_FINE: Final = 4.0  # a larger ratio of depths, or of λ_max, has a log axis
_LARGE: Final = 1e4  # smaller numbers are written without a power of ten
_GAP: Final = 5.0  # points from a point to its name
_MARK: Final = 4.0  # points from the middle of a mark to its edge
_ROWS: Final = 4  # a name is at most so many lines above or below its point
_LINE: Final = 11.0  # points from one of them to the next
_MARK_WEIGHT: Final = 5.0  # a mark must be seen whole, a name or a bar need not
_FAR: Final = 0.1  # a line farther away is as bad as this share of a name covered
_SIDES: Final = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_ANCHORS: Final = MappingProxyType({-1: "right", 0: "center", 1: "left"})
_LEVELS: Final = MappingProxyType({-1: "top", 0: "center", 1: "bottom"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyMember:
    """One network of a family, or one class; what is not known is None.

    Attributes:
        name: Stands beside its points.
        depth: Layers with a matrix.
        accuracy: From 0 to 1.
        alpha: Exponent of the Jacobian spectrum's tail.
        alpha_stderr: Its standard error.
        ks_distance: Of the tail from its law.
        lambda_max: The largest eigenvalue.
    """

    name: str
    depth: int | None
    accuracy: float | None
    alpha: float | None
    alpha_stderr: float | None
    ks_distance: float | None
    lambda_max: float | None


_Taken = tuple[Bbox, float]
_Value = Callable[[FamilyMember], float | None]
_DEPTH: Final = "depth (layers with a matrix)"
_UP: Final[Mapping[str, _Value]] = MappingProxyType(
    {
        "α of the Jacobian spectrum": lambda one: one.alpha,
        "KS distance D of the tail": lambda one: one.ks_distance,
        "λ_max of the Jacobian Gram": lambda one: one.lambda_max,
    }
)


def family_figure(
    members: Sequence[FamilyMember], *, title: str, accuracy: str = "test accuracy"
) -> Figure:
    """Draw α, D and λ_max against depth in one row and against accuracy in another.

    Every point has its network's name and color; α has its standard error. Depths
    and largest eigenvalues of a ratio of more than four have logarithmic axes.

    Args:
        members: The networks.
        title: Of the figure.
        accuracy: What the members' accuracy is, the label of its axes.

    Returns:
        The figure; a row or column of which nothing is known is left out.

    Raises:
        ValueError: If nothing can be drawn.
    """
    axes: dict[str, _Value] = {
        _DEPTH: lambda one: one.depth,
        accuracy: lambda one: one.accuracy,
    }
    across = {name: of for name, of in axes.items() if _known(members, of)}
    up = [name for name, of in _UP.items() if _known(members, of)]
    if not across or not up:
        raise ValueError(
            "members must have a depth or an accuracy, and a number of a spectrum; "
            f"got none in {len(members)} members."
        )
    width, height = 4.3 * len(up) + 0.5, 3.5 * len(across) + 0.6
    with new_figure(title, width=width, height=height) as figure:
        grid = figure.subplots(len(across), len(up), squeeze=False)
        points: list[tuple[Axes, list[_Point]]] = []
        for row, (x_name, x_of) in zip(grid, across.items(), strict=True):
            for ax, y_name in zip(row, up, strict=True):
                drawn = _draw_points(ax, members, x_of, y_name)
                _frame(ax, drawn, is_by_depth=x_name == _DEPTH)
                ax.set_xlabel(x_name, parse_math=False)
                points.append((ax, drawn))
        figure.draw_without_rendering()  # names are placed where axes have their size
        for ax, drawn in points:
            _place_names(ax, drawn)
    return figure


def _known(members: Sequence[FamilyMember], of: _Value) -> bool:
    return any(of(one) is not None for one in members)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A network in one panel, with the name that stands beside it."""

    x: float
    y: float
    error: float
    name: Annotation


def _draw_points(
    ax: Axes, members: Sequence[FamilyMember], x_of: _Value, y_name: str
) -> list[_Point]:
    """Draw the points of one panel; their names are not placed yet."""
    drawn: list[_Point] = []
    for one, (color, _) in zip(members, looks(), strict=False):
        x, y = x_of(one), _UP[y_name](one)
        if x is None or y is None:
            continue
        error = (one.alpha_stderr or 0.0) if y_name.startswith("α") else 0.0
        ax.errorbar(x, y, error, color=color, fmt="o", ms=2 * _MARK, elinewidth=1)
        name = ax.annotate(
            one.name,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            color=color,
            fontsize=9,
            parse_math=False,
        )
        drawn.append(_Point(x=x, y=y, error=error, name=name))
    ax.set_ylabel(y_name, parse_math=False)
    return drawn


def _frame(ax: Axes, drawn: Sequence[_Point], *, is_by_depth: bool) -> None:
    if not drawn:
        return
    x, y = np.array(sorted((point.x, point.y) for point in drawn)).T
    if is_by_depth:
        ax.plot(x, y, color=INK, lw=0.8, alpha=0.5, zorder=0)
    ax.margins(_MARGIN)
    if is_by_depth and 0 < x[0] < x[-1] / _FINE:
        ax.set_xscale("log")
    if ax.get_ylabel().startswith("λ_max") and 0 < y.min() < y.max() / _FINE:
        ax.set_yscale("log")
    ax.autoscale_view()
    for axis in (ax.xaxis, ax.yaxis):
        _tick(axis)


def _tick(axis: Axis) -> None:
    low, high = axis.get_view_interval()
    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator(5))
        return
    tick_log_axis(axis)
    if low >= 1 and high < _LARGE:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:.0f}"))


def _place_names(ax: Axes, drawn: Sequence[_Point]) -> None:
    """Put each name to the side of its point that is least taken."""
    taken = [box for point in drawn for box in _boxes(ax, point)]
    for point in drawn:
        costs: dict[tuple[int, tuple[int, int]], float] = {}
        for row, side in product(range(_ROWS), _SIDES):
            _move(point.name, side, row)
            box = point.name.get_window_extent()
            far = _FAR * row * box.width * box.height
            costs[row, side] = far + _overlap(box, taken, ax.bbox)
        row, side = min(costs, key=lambda place: costs[place])
        _move(point.name, side, row)
        taken.append((point.name.get_window_extent(), 1.0))


def _boxes(ax: Axes, point: _Point) -> tuple[_Taken, _Taken]:
    """Return what a mark and its error bar take."""
    half = _MARK * ax.figure.dpi / 72
    x, y = ax.transData.transform((point.x, point.y))
    ends = [(point.x, point.y + sign * point.error) for sign in (-1, 1)]
    (_, low), (_, high) = ax.transData.transform(ends)
    mark = Bbox.from_extents(x - half, y - half, x + half, y + half)
    bar = Bbox.from_extents(x - half / 4, low, x + half / 4, high)
    return (mark, _MARK_WEIGHT), (bar, 1.0)


def _move(name: Annotation, side: tuple[int, int], row: int) -> None:
    x, y = side
    step = (_GAP + _MARK / 2) / math.hypot(x, y)
    name.set_position((step * x, step * y + row * _LINE * y))
    name.set(ha=_ANCHORS[x], va=_LEVELS[y])


def _overlap(box: Bbox, others: Sequence[_Taken], inside: BboxBase) -> float:
    """Return the area of a box that others take, weighed, or that is outside."""
    area = box.width * box.height
    within = Bbox.intersection(box, inside)
    cost = area - (within.width * within.height if within is not None else 0.0)
    for other, weight in others:
        shared = Bbox.intersection(box, other)
        if shared is not None:
            cost += weight * shared.width * shared.height
    return cost
