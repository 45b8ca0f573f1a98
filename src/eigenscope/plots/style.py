"""Colors, fonts, axis labels and ticks that all figures share."""

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from matplotlib.transforms import ScaledTranslation

EIGENVALUE: Final = "eigenvalue λ of the Jacobian Gram, (output/input)²"
TANGENT_EIGENVALUE: Final = "eigenvalue λ of the tangent kernel, (output/parameter)²"
FEATURE_EIGENVALUE: Final = "eigenvalue λ of the conjugate kernel, feature²"
SQUARED_NORM: Final = "squared norm of a sample's Jacobian, (output/input)²"

# Okabe and Ito's colors, told apart by all color-blind readers, less the yellow that
# fades on white.
PALETTE: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
LINE_STYLES: Final = ("-", "--", ":", "-.")
LAW_COLORS: Final = PALETTE[1:]  # over data in the first color
INK: Final = "#404040"
RULE_NAMES: Final = {"scan": "scan", "peak": "peak", "given": "given xmin"}

MAX_LOG10: Final = 250.0  # beyond it the ticks of a log axis overflow

_LEGEND_ROW: Final = 0.22  # inches of a row of a legend below all axes
_LEGEND_KEY: Final = 0.6  # inches beside a label of it
_CHARACTER: Final = 0.085  # inches of a character of it
_MOST_COLUMNS: Final = 2  # of a legend below one axes
_LONG_HANDLE: Final = 3.0  # font sizes: shows a dash beside a mark
_MOST_INSIDE: Final = 5  # legend entries within axes
_BELOW_LABELS: Final = 0.5  # inches from the axis to below its label

_PLAIN: Final = (1e-3, 1e5)  # numbers that a linear axis shows without a power
_FEW_TICKS: Final = 5

_STYLE: Final[dict[Any, Any]] = {
    "font.family": ["DejaVu Sans", "STIXGeneral"],  # the second has 𝒥
    "font.size": 10.0,
    "figure.titlesize": 13.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "text.usetex": False,
}


@contextmanager
def new_figure(title: str, *, width: float, height: float) -> Generator[Figure]:
    """Open a figure whose axes are made in the style of the package.

    Args:
        title: Stands above the figure, taken literally.
        width: In inches.
        height: In inches.

    Yields:
        The figure, empty but for its title.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(title, parse_math=False)
        yield figure


def looks() -> Generator[tuple[str, str]]:
    """Give colors, and line styles that change when the colors start again.

    Yields:
        A color and a line style, without end.
    """
    for number in count():
        turn, place = divmod(number, len(PALETTE))
        yield PALETTE[place], LINE_STYLES[turn % len(LINE_STYLES)]


def write_note(ax: Axes, text: str) -> None:
    """Write in the middle of axes why there is nothing to see.

    Args:
        ax: Axes without content.
        text: The note.
    """
    ax.text(
        *(0.5, 0.5, text),
        transform=ax.transAxes,
        ha="center",
        va="center",
        color=INK,
        wrap=True,
        parse_math=False,
    )
    ax.set(xticks=[], yticks=[])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())


def write_legend(
    ax: Axes, *, loc: Literal["upper right", "lower left", "center left", "best"]
) -> None:
    """Draw the legend, with names taken literally; a long one below the axes.

    Args:
        ax: Axes with labeled artists.
        loc: Where within the axes a legend of few entries goes.
    """
    if _has_long_legend(ax):
        below = ScaledTranslation(0, -_BELOW_LABELS, ax.figure.dpi_scale_trans)
        labels = ax.get_legend_handles_labels()[1]
        width = ax.get_window_extent().width / ax.figure.dpi
        legend = ax.legend(
            loc="upper left",
            bbox_to_anchor=(0.0, 0.0),
            bbox_transform=ax.transAxes + below,
            ncols=min(_MOST_COLUMNS, _columns_below(labels, width)),
            handlelength=_LONG_HANDLE,
        )
    else:
        legend = ax.legend(loc=loc)
    for text in legend.get_texts():
        text.set_parse_math(False)


def legend_share(ax: Axes) -> float:
    """Give the share of the height of the axes to keep free for the legend.

    Args:
        ax: Axes with labeled artists.

    Returns:
        A small margin where the legend goes below the axes.
    """
    if _has_long_legend(ax):
        return 0.05
    return 0.06 + 0.065 * len(ax.get_legend_handles_labels()[1])


def height_below(labels: Sequence[str], *, width: float) -> float:
    """Give the height of a legend below all axes of a figure, in inches.

    Args:
        labels: Of the legend.
        width: Of the figure, in inches.

    Returns:
        Enough for as many columns as the longest label leaves room for.
    """
    return _LEGEND_ROW * -(-len(labels) // _columns_below(labels, width))


def write_legend_below(figure: Figure, lines: Mapping[str, Line2D]) -> None:
    """Draw one legend for all panels, below them, with names taken literally.

    Args:
        figure: Of a constrained layout, high enough by `height_below`.
        lines: A line for each name.
    """
    legend = figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside lower center",
        ncols=_columns_below(list(lines), figure.get_figwidth()),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def tick_log_axis(axis: Axis) -> None:
    """Label a log axis, whose limits are final, so that ticks neither clash nor lack.

    Args:
        axis: Of log scale.
    """
    low, high = axis.get_view_interval()
    decades = math.log10(high) - math.log10(low)
    if decades >= 2:
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_major_formatter(LogFormatterMathtext())
    else:
        fine = decades < 0.7
        locator = MaxNLocator(4) if fine else LogLocator(subs=(1.0, 2.0, 5.0))
        axis.set_major_locator(locator)
        axis.set_major_formatter(FuncFormatter(_plain))
        axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def tick_linear_axis(axis: Axis) -> None:
    """Label a linear axis, whose limits are final, with powers of ten at every tick.

    A power beside the axis, where matplotlib has it, runs into the axis' own label.

    Args:
        axis: Of linear scale; numbers from 10⁻³ to 10⁵ stay as they are.
    """
    largest = max(abs(end) for end in axis.get_view_interval())
    if largest == 0 or _PLAIN[0] <= largest < _PLAIN[1]:
        return
    power = math.floor(math.log10(largest))

    def text(value: float, _: int | None) -> str:
        return rf"${value / 10.0**power:.4g} \cdot 10^{{{power}}}$" if value else "0"

    axis.set_major_locator(MaxNLocator(_FEW_TICKS))
    axis.set_major_formatter(FuncFormatter(text))


def _has_long_legend(ax: Axes) -> bool:
    return len(ax.get_legend_handles_labels()[1]) > _MOST_INSIDE


def _columns_below(labels: Sequence[str], width: float) -> int:
    each = _LEGEND_KEY + _CHARACTER * max(map(len, labels))
    return min(len(labels), max(1, int(width / each)))


def _plain(value: float, _: int | None) -> str:
    return f"{value:.5g}"


def with_error(value: float, stderr: float) -> str:
    """Write a value and its standard error with two decimals, or more if it is small.

    Args:
        value: The value.
        stderr: Its standard error.

    Returns:
        Such as "2.41 ± 0.05".

    Example:
        >>> with_error(2.41318, 0.0521), with_error(2.41318, 0.00521)
        ('2.41 ± 0.05', '2.413 ± 0.005')
    """
    if not (math.isfinite(stderr) and stderr > 0):
        return f"{value:.4g} ± {stderr:.2g}"
    digits = min(max(-math.floor(math.log10(stderr)), 2), 4)
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def eigenvalue_title(number: int, value: float) -> str:
    """Write which eigenvalue this is and how large.

    Args:
        number: Counted from 1.
        value: The eigenvalue.

    Returns:
        Such as "λ₁ = 3.5".
    """
    place = str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    return f"λ{place} = {value:.4g}"
