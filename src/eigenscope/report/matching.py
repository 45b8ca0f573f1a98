"""Figures, tables and films of matched runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eigenscope.experiments.matching import (
    FULL,
    HEIGHTS,
    SCALINGS,
    Match,
    Measure,
    Scaling,
)
from eigenscope.plots import CURVATURE_EIGENVALUE, save_figure
from eigenscope.plots.evolution import film, ridge_figure
from eigenscope.plots.matching import (
    course_figure,
    heat_figure,
    peak_figure,
    summed_figure,
)
from eigenscope.report.csv_files import write_csv
from eigenscope.store import Run, write_atomically
from eigenscope.store.files import PARTIAL_SUFFIX
from eigenscope.training import History

MATCH_HEADER = (
    "run",
    "model",
    "data",
    "recordings",
    "nearest layer, summed",
    "peak epoch",
    "nearest layer there",
    "peak epoch, heights",
    "self-distance / mean distance",
)
_DISTANCES = (
    *("run", "model", "data", "epoch", "layer", "relative_depth", "measure"),
    *("distance", "stderr", "bias", "self_distance"),
)
_SUMMARY = (
    *("run", "model", "data", "layer", "relative_depth", "measure"),
    *("summed", "summed_stderr", "peak_epoch", "at_peak", "at_peak_stderr"),
)
_MEASURES: tuple[Measure, ...] = (*SCALINGS, HEIGHTS)


def match_rows(matches: Sequence[Match], scaling: Scaling) -> list[Sequence[object]]:
    """Return one row for each run, as `MATCH_HEADER` names them."""
    rows: list[Sequence[object]] = []
    for match in matches:
        peak = match.peak(scaling)
        own = match.self_distances[scaling][match.trained]
        mean = float(match.distances[scaling][match.trained].mean())
        rows.append(
            (
                match.label,
                match.model,
                match.data,
                len(match.epochs),
                match.layers[int(match.summed(scaling)[0].argmin())],
                int(match.epochs[peak]),
                match.layers[int(match.distances[scaling][peak].argmin())],
                int(match.epochs[match.peak(HEIGHTS)]),
                float(own.mean()) / mean if mean else None,
            )
        )
    return rows


def write_match(
    matches: Sequence[Match],
    folders: Sequence[Path],
    out: Path,
    *,
    scaling: Scaling,
    animate: bool = False,
) -> list[Path]:
    """Write all figures and tables of matched runs into a folder.

    Args:
        matches: Of the runs.
        folders: The runs' folders, in the same order.
        out: The folder; made if needed.
        scaling: Which true W1 the figures show; the tables hold all.
        animate: Whether to draw a film of each run's spectra.

    Returns:
        The files.

    Raises:
        FileExistsError: If the folder is a run.
    """
    make_output_folder(out)
    written = [
        write_csv(out / "distances.csv", _DISTANCES, _distance_rows(matches)),
        write_csv(out / "summary.csv", _SUMMARY, _summary_rows(matches)),
    ]
    title = "Layer spectra against the full Hessian's"
    figures = {
        "match_distros_wasserstein.png": summed_figure(
            matches, measure=scaling, title=f"{title}, summed over training"
        ),
        "match_distros_peak.png": peak_figure(
            matches, measure=scaling, title=f"{title}, at the epoch of the smallest sum"
        ),
    }
    for number, (match, folder) in enumerate(zip(matches, folders, strict=True)):
        stem = f"{number:02d}_{match.label.replace('/', '_')}"
        history = History.load(Run.open(folder))
        full = history.spectra(FULL)
        figures[f"{stem}_heat.png"] = heat_figure(match, measure=scaling)
        figures[f"{stem}_course.png"] = course_figure(match, measure=scaling)
        figures[f"{stem}_ridge.png"] = ridge_figure(
            full, title=f"{match.label}: full Hessian", quantity=CURVATURE_EIGENVALUE
        )
        if animate:
            layers = {n: history.spectra(f"hessian/{n}") for n in match.layers}
            path = out / f"{stem}_spectra.gif"
            moving = film(
                full, layers, title=match.label, quantity=CURVATURE_EIGENVALUE
            )
            write_atomically(path, moving)
            written.append(path)
    for name, figure in figures.items():
        save_figure(figure, out / name)
        written.append(out / name)
    return written


def make_output_folder(out: Path) -> None:
    """Make a folder for figures of several runs, without what killed writers left.

    Args:
        out: The folder; what else is there stays.

    Raises:
        FileExistsError: If it is the folder of a run.
    """
    require_no_run(out)
    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob(f".*{PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)


def require_no_run(out: Path) -> None:
    """Raise if a folder for figures is the folder of a run.

    Raises:
        FileExistsError: If it is.
    """
    if (out / "manifest.json").exists():
        raise FileExistsError(
            f"figures of several runs must not go into the folder of a run; {out} is "
            "one. Choose another with --out."
        )


def _distance_rows(matches: Sequence[Match]) -> list[Sequence[object]]:
    return [
        (
            *(match.label, match.model, match.data, int(epoch), layer),
            *(float(match.depths[column]), measure),
            *(table[row, column] for table in tables),
            own[row],
        )
        for match in matches
        for measure in _MEASURES
        for tables, own in [_of_measure(match, measure)]
        for row, epoch in enumerate(match.epochs)
        for column, layer in enumerate(match.layers)
    ]


def _of_measure(
    match: Match, measure: Measure
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Return distance, standard error and bias, and the self-distances."""
    value = match.distances[measure]
    nothing = value * 0
    tables = (
        value,
        match.stderrs.get(measure, nothing),
        match.biases.get(measure, nothing),
    )
    own = match.self_distances.get(measure, nothing[:, 0] * np.nan)
    return tables, own


def _summary_rows(matches: Sequence[Match]) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for match in matches:
        for measure in _MEASURES:
            (total, total_error), (peak, error) = (
                match.summed(measure),
                match.at_peak(measure),
            )
            epoch = int(match.epochs[match.peak(measure)])
            rows += [
                (
                    *(match.label, match.model, match.data, layer),
                    *(float(match.depths[i]), measure, total[i], total_error[i]),
                    *(epoch, peak[i], error[i]),
                )
                for i, layer in enumerate(match.layers)
            ]
    return rows
