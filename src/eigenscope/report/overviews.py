"""Facts and tables of a report that hold for runs of every kind."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from eigenscope.report.contents import Contents
from eigenscope.report.page import Table
from eigenscope.spectra import Spectrum
from eigenscope.store import Run

_SPECTRUM_HEADER: Final = (
    *("run", "of", "spectrum", "epoch or step", "D", "λ_max", "λ_min", "trace"),
    *("effective rank", "noise floor", "W1 error", "converged", "method"),
    *("dtype", "products"),
)
_NUMBER_HEADER: Final = (
    *("run", "name", "first", "last", "± stderr", "least", "at", "largest", "at "),
)
_ARGUMENTS: Final = ("model", "weights", "data", "split", "dtype", "device", "seed")


def run_facts(run: Run) -> list[tuple[str, object]]:
    """Return what stands of a run at the head of a report.

    Args:
        run: The run.

    Returns:
        Names and values.
    """
    manifest = run.manifest
    engine = _engine(run)
    facts: list[tuple[str, object]] = [("verb", manifest.verb)]
    facts += [
        (name, run.arguments[name])
        for name in _ARGUMENTS
        if run.arguments.get(name) is not None
    ]
    facts += [
        (name.replace("_", " ").replace("num ", ""), run.results[name])
        for name in ("num_samples", "num_outputs", "num_parameters", "accuracy")
        if run.results.get(name) is not None
    ]
    if engine:
        facts.append(("engine", engine))
    facts += [
        ("computing time", _duration(sum(manifest.timing.values()))),
        ("begun", manifest.created.replace("T", " ").replace("+00:00", " UTC")),
        ("status", _status(run)),
        ("torch", manifest.versions.get("torch")),
        ("commit", (manifest.commit or "")[:12] or "not from a checkout"),
    ]
    return facts


def spectrum_table(contents: Contents) -> list[Table]:
    """Return a table of all curves, each at its last recording; none without curves."""
    rows = [
        (curve.run, family, curve.name, *_row(curve.spectra))
        for family, curves in contents.curves.items()
        for curve in curves
    ]
    if not rows:
        return []
    used = [
        place
        for place in range(len(_SPECTRUM_HEADER))
        if any(row[place] is not None for row in rows)
    ]
    return [
        Table(
            title="All spectra and how they were computed",
            header=[_SPECTRUM_HEADER[place] for place in used],
            rows=[[row[place] for place in used] for row in rows],
        )
    ]


def number_table(contents: Contents) -> list[Table]:
    """Return a table of all recorded numbers; none without any."""
    rows: list[tuple[object, ...]] = []
    for family, lines in contents.lines.items():
        for line in lines:
            values = np.array(line.values)
            name = line.name if line.name == family else f"{family}/{line.name}"
            where = np.flatnonzero(np.isfinite(values))
            if not len(where):
                rows.append((line.run, name, *[None] * 7))
                continue
            low = int(where[np.argmin(values[where])])
            high = int(where[np.argmax(values[where])])
            rows.append(
                (
                    *(line.run, name, line.values[0], line.values[-1]),
                    *(line.stderrs[-1], line.values[low], line.numbers[low]),
                    *(line.values[high], line.numbers[high]),
                )
            )
    title = "Recorded numbers"
    return [Table(title=title, header=_NUMBER_HEADER, rows=rows)] if rows else []


def time_table(contents: Contents) -> list[Table]:
    """Return a table of the seconds of all stages of all runs."""
    rows = [
        (label, stage, seconds)
        for label, run in contents.runs.items()
        for stage, seconds in run.manifest.timing.items()
    ]
    header = ("run", "stage", "seconds")
    return [Table(title="Time by stage", header=header, rows=rows)] if rows else []


def _row(spectra: Mapping[int | None, Spectrum]) -> tuple[object, ...]:
    number, found = list(spectra.items())[-1]
    made: dict[str, Any] = found.provenance
    return (
        number,
        found.dimension,
        float(found.values[-1]),
        float(found.values[0]),
        found.trace(),
        found.effective_rank(),
        found.noise_floor,
        found.error,
        found.converged,
        *(made.get(name) for name in ("method", "dtype", "num_matvecs")),
    )


def _engine(run: Run) -> str:
    """Say in a line how a run was computed; its settings have the rest."""
    recorded = run.settings.get("jacobian_engine")
    if isinstance(recorded, dict):
        said = "accelerated" if recorded.get("accelerated") else "plain backward passes"
        return f"{said}, {recorded.get('chunk_size')} samples at once"
    for name, value in run.settings.items():
        if name.endswith("_engine") and isinstance(value, dict):
            forms = value.get("forms")
            if isinstance(forms, dict):
                return ", ".join(sorted({str(form) for form in forms.values()}))
    return ""


def _status(run: Run) -> str:
    resumed = len(run.manifest.resumes)
    status = "complete" if run.is_complete else "not complete"
    return f"{status}, resumed {resumed} ×" if resumed else status


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
