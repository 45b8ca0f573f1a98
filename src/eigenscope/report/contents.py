"""What a report shows of runs of any kind: read, named and grouped, not computed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np

from eigenscope.experiments import (
    load_curvature_results,
    load_jacobian_results,
    load_kernel_results,
)
from eigenscope.plots import (
    CURVATURE_EIGENVALUE,
    EIGENVALUE,
    FEATURE_EIGENVALUE,
    TANGENT_EIGENVALUE,
)
from eigenscope.report.curvature import CURVATURE_HEADER, curvature_rows
from eigenscope.report.jacobian import HEADER, spectrum_rows
from eigenscope.report.kernels import KERNEL_HEADER, kernel_rows
from eigenscope.report.page import Table
from eigenscope.spectra import Spectrum
from eigenscope.store import Run
from eigenscope.training import History

MOST_SPECTRA: Final = 1200  # of all recordings together; beyond, fewer recordings

_QUANTITIES: Final = {
    "hessian": CURVATURE_EIGENVALUE,
    "gauss-newton": CURVATURE_EIGENVALUE,
    "fisher": CURVATURE_EIGENVALUE,
    "jacobian": EIGENVALUE,
    "tangent kernel": TANGENT_EIGENVALUE,
    "conjugate kernel": FEATURE_EIGENVALUE,
    "weights": "eigenvalue λ of W Wᵀ, weight²",
}
_PLAIN_QUANTITY: Final = "eigenvalue λ"

Tabulated = tuple[str, Sequence[str], list[Sequence[object]]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One spectrum of one run, or the same one at several epochs or steps.

    Attributes:
        run: Label of the run.
        name: Its name within its family.
        spectra: By number of the recording; None where there is but one, of no
            recording.
    """

    run: str
    name: str
    spectra: Mapping[int | None, Spectrum]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A number that one run has recorded at several epochs or steps.

    Attributes:
        run: Label of the run.
        name: Its name within its family.
        numbers: Of the recordings, ascending.
        values: NaN where the number was not finite.
        stderrs: Standard errors, NaN where there is none.
    """

    run: str
    name: str
    numbers: list[int]
    values: list[float]
    stderrs: list[float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that a report shows.

    Attributes:
        runs: By label.
        curves: Family to curves, as "hessian" to those of "full" and "fc1.weight".
        lines: Family to lines, as "loss" to those of "train" and "test".
        tables: What the runs' own verbs say.
        notes: What is missing or thinned.
    """

    runs: dict[str, Run]
    curves: dict[str, list[Curve]] = field(default_factory=dict[str, list[Curve]])
    lines: dict[str, list[Line]] = field(default_factory=dict[str, list[Line]])
    tables: list[Table] = field(default_factory=list[Table])
    notes: list[str] = field(default_factory=list[str])


def quantity_of(family: str) -> str:
    """Return the label of the axis of a family's eigenvalues."""
    return _QUANTITIES.get(family, _PLAIN_QUANTITY)


def read_contents(runs: Mapping[str, Run]) -> Contents:
    """Read what runs of any verb hold.

    Args:
        runs: By label.

    Returns:
        Curves and lines by family, tables, and notes on what is not there.

    Raises:
        ValueError: If a file of a run is damaged.
    """
    contents = Contents(runs=dict(runs))
    histories = {label: History.load(run) for label, run in runs.items()}
    kept = _kept_recordings(histories, contents)
    for label, run in runs.items():
        history = histories[label]
        before = len(contents.curves), len(contents.lines)
        reader = _READERS.get(run.manifest.verb)
        if reader is not None:
            reader(label, run, contents)
        if history.entries:
            _read_history(label, history, kept, contents)
        elif reader is None:
            _read_files(label, run, contents)
        if not run.is_complete:
            contents.notes.append(_not_complete(label, run))
        if (len(contents.curves), len(contents.lines)) == before == (0, 0):
            contents.notes.append(f"{label} holds no spectrum and no number yet.")
    return contents


def _not_complete(label: str, run: Run) -> str:
    manifest = run.manifest
    return (
        f"{label} is not complete (begun {manifest.created}, last written "
        f"{manifest.updated}): what is there is shown."
    )


def _read_jacobian(label: str, run: Run, contents: Contents) -> None:
    results = load_jacobian_results(run)
    for found in results.spectra:
        _add_curve(contents, "jacobian", label, found.name, {None: found.spectrum})
    _tabulate(
        contents, label, ("Jacobian spectra and tails", HEADER, spectrum_rows(results))
    )


def _read_kernels(label: str, run: Run, contents: Contents) -> None:
    results = load_kernel_results(run)
    for found in results.kernels:
        is_tangent = found.kind != "conjugate"
        family = "tangent kernel" if is_tangent else "conjugate kernel"
        _add_curve(contents, family, label, found.kind, {None: found.spectrum})
    _tabulate(contents, label, ("Kernels", KERNEL_HEADER, kernel_rows(results)))


def _read_curvature(label: str, run: Run, contents: Contents) -> None:
    results = load_curvature_results(run)
    for found in results:
        for name, spectrum in found.spectra.items():
            _add_curve(contents, found.operator, label, name, {None: spectrum})
    _tabulate(contents, label, ("Curvature", CURVATURE_HEADER, curvature_rows(results)))


def _read_files(label: str, run: Run, contents: Contents) -> None:
    """Show every saved spectrum of a run of another verb under its file's name."""
    for path in sorted(run.results_path("x").parent.glob("spectrum*.npz")):
        name = path.stem.removeprefix("spectrum").strip("_") or path.stem
        found: dict[int | None, Spectrum] = {None: Spectrum.load(path)}
        _add_curve(contents, run.manifest.verb, label, name, found)


_READERS: Final[dict[str, Callable[[str, Run, Contents], None]]] = {
    "jacobian": _read_jacobian,
    "ntk": _read_kernels,
    "hessian": _read_curvature,
}


def _kept_recordings(
    histories: Mapping[str, History], contents: Contents
) -> frozenset[int]:
    """Return the recordings whose spectra are shown, and note if not all are."""
    entries = [e for h in histories.values() for e in h.entries.values()]
    count = sum(isinstance(v, dict) for entry in entries for v in entry.values())
    every = sorted({number for h in histories.values() for number in h.numbers})
    if count <= MOST_SPECTRA:
        return frozenset(every)
    share = max(2, MOST_SPECTRA * len(every) // count)
    places = np.unique(np.rint(np.linspace(0, len(every) - 1, share)).astype(int))
    contents.notes.append(
        f"Spectra are shown of {len(places)} of {len(every)} recordings, evenly "
        "taken, to keep this file small; the runs hold all."
    )
    return frozenset(every[place] for place in places)


def _read_history(
    label: str, history: History, kept: Iterable[int], contents: Contents
) -> None:
    shown = frozenset(kept)
    for name in history.names:
        family, mark, rest = name.partition("/")
        found: dict[int, Any] = {
            number: history.entries[number][name]
            for number in history.numbers
            if name in history.entries[number]
        }
        files = {n: v["spectrum"] for n, v in found.items() if isinstance(v, dict)}
        spectra: dict[int | None, Spectrum] = {
            n: Spectrum.load(history.folder / file)
            for n, file in files.items()
            if n in shown
        }
        if spectra:
            _add_curve(contents, family, label, rest if mark else name, spectra)
        numbers = {n: v for n, v in found.items() if not isinstance(v, dict)}
        if numbers:
            line = _line(label, rest if mark else name, numbers)
            contents.lines.setdefault(family, []).append(line)


def _line(label: str, name: str, found: Mapping[int, Any]) -> Line:
    """Return a line of numbers, each a float, None, or [value, standard error]."""
    pairs = [v if isinstance(v, list) else [v, None] for v in found.values()]
    plain = [[float("nan") if x is None else float(x) for x in pair] for pair in pairs]
    return Line(
        run=label,
        name=name,
        numbers=list(found),
        values=[pair[0] for pair in plain],
        stderrs=[pair[1] for pair in plain],
    )


def _add_curve(
    contents: Contents,
    family: str,
    label: str,
    name: str,
    spectra: Mapping[int | None, Spectrum],
) -> None:
    curve = Curve(run=label, name=name, spectra=spectra)
    contents.curves.setdefault(family, []).append(curve)


def _tabulate(contents: Contents, label: str, found: Tabulated) -> None:
    """Add a run's rows to the table of that title."""
    title, header, rows = found
    mine = [(label, *row) for row in rows]
    for place, table in enumerate(contents.tables):
        if table.title == title:
            rows_so_far = [*table.rows, *mine]
            whole = Table(title=title, header=table.header, rows=rows_so_far)
            contents.tables[place] = whole
            return
    if mine:
        contents.tables.append(Table(title=title, header=("run", *header), rows=mine))
