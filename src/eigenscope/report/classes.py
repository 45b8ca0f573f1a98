"""Tables and figure of a Gauss-Newton matrix by classes, from what a run has saved."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from eigenscope.experiments import ClassStructure, load_class_structure
from eigenscope.plots import classes_figure
from eigenscope.report.page import PageFigure, Table, saved_figure
from eigenscope.store import Run

PARTS_HEADER: Final = (
    *("part", "what it is of", "rank", "trace", "share of trace"),
    *("λ_max", "λ_min above rounding"),
)
OUTLIERS_HEADER: Final = (
    *("number", "λ of G", "share between classes", "λ of G₀ + G₁ + G₂"),
    *("λ of G₁", "λ of G₃"),
)
_PARTS: Final = (
    ("G₀", "own", "means of classes, own label"),
    ("G₁", "classes", "means of classes, other labels"),
    ("G₂", "cross", "means of pairs of classes around those"),
)


def parts_rows(structure: ClassStructure) -> list[Sequence[object]]:
    """Return one row for each part of G, as `PARTS_HEADER` names them.

    Args:
        structure: The decomposition.

    Returns:
        The rows.
    """
    whole = structure.traces["total"]
    rows: list[Sequence[object]] = []
    for part, name, meaning in _PARTS:
        values: list[float] = getattr(structure, name)
        trace = structure.traces[name]
        ends = (values[0], values[-1]) if values else (None, None)
        rows.append((part, meaning, len(values), trace, _share(trace, whole), *ends))
    for part, name, meaning in (
        ("G₃", "within", "samples around those of pairs"),
        ("G", "total", "all samples"),
    ):
        largest: list[float] = getattr(structure, name)
        trace = structure.traces[name]
        top = largest[0] if largest else None
        rows.append((part, meaning, None, trace, _share(trace, whole), top, None))
    return rows


def outliers_rows(structure: ClassStructure) -> list[Sequence[object]]:
    """Return one row for each eigenvalue of G, as `OUTLIERS_HEADER` names them.

    Args:
        structure: The decomposition.

    Returns:
        The rows.
    """
    count = len(structure.total)
    columns = zip_longest(
        structure.total,
        structure.shares,
        *(structure.between[:count], structure.classes[:count]),
        structure.within[:count],
    )
    return [(number, *values) for number, values in enumerate(columns, 1)]


def class_tables(run: Run) -> list[Table]:
    """Return the tables of a run's page about classes.

    Args:
        run: A run of curvature spectra.

    Returns:
        Two, or none if the run has no decomposition.
    """
    structure = load_class_structure(run)
    if structure is None:
        return []
    largest = "Largest eigenvalues of G and of its parts"
    if not structure.converged:
        largest += " (not all converged)"
    return [
        Table(
            title=f"Gauss-Newton matrix by {structure.num_classes} classes",
            header=PARTS_HEADER,
            rows=parts_rows(structure),
        ),
        Table(title=largest, header=OUTLIERS_HEADER, rows=outliers_rows(structure)),
    ]


def class_figures(run: Run) -> list[PageFigure]:
    """Draw what a run says about classes.

    Args:
        run: A run of curvature spectra.

    Returns:
        One figure, or none if the run has no decomposition or G is zero.
    """
    structure = load_class_structure(run)
    if structure is None or not structure.total:
        return []
    figure = classes_figure(
        total=structure.total,
        between=structure.between,
        classes=structure.classes,
        within=structure.within,
        shares=structure.shares,
        title="Gauss-Newton matrix by classes",
    )
    caption = (
        "Left: the largest eigenvalues of G by rank, with those of its part between "
        "classes, of the means of classes, and of what varies within. Right: of each "
        "eigenvalue of G the share vᵀ(G₀ + G₁ + G₂)v / λ that comes from means of "
        "classes."
    )
    return [saved_figure(run, "classes.png", figure, "Outliers by classes", caption)]


def _share(trace: float, whole: float) -> float | None:
    return trace / whole if whole > 0 else None
