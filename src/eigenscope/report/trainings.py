"""Several trainings in figures and tables: the Jacobian studies."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from eigenscope.experiments.epoch_measures import CLASS_SPECTRA
from eigenscope.experiments.matching import inner_runs, run_folders, run_labels
from eigenscope.experiments.stored_results import require_results_fit
from eigenscope.plots import comparison_figure, save_figure
from eigenscope.plots.families import FamilyMember, family_figure
from eigenscope.plots.trainings import (
    Points,
    evolution_figure,
    panels_figure,
)
from eigenscope.report.csv_files import write_csv
from eigenscope.report.matching import make_output_folder
from eigenscope.report.training_numbers import (
    CLASS_KEYS,
    JACOBIAN,
    TOP,
    TRACE,
    TRAININGS_KEYS,
    WEIGHT_KEYS,
    WEIGHTS,
    Training,
    tail_fit,
    tail_fits,
    weight_row,
)
from eigenscope.spectra import Spectrum
from eigenscope.store import Run
from eigenscope.training import History

_TAIL_KEYS: Final = ("alpha", "alpha_stderr", "ks_distance", "lambda_max")


def read_trainings(
    paths: Sequence[Path], *, memory: str | int | None = None
) -> tuple[Training, ...]:
    """Read trainings to be compared.

    Args:
        paths: Folders of runs of the verb "train", or of studies.
        memory: Budget for the results that are read.

    Returns:
        The trainings.

    Raises:
        FileNotFoundError: If a folder is no run.
        ValueError: If a run is not a training, or has recorded nothing, or the
            results do not fit the budget.
    """
    folders = run_folders(paths)
    runs = [Run.open(folder) for folder in folders]
    require_results_fit(runs, memory, purpose="compare")
    found: list[Training] = []
    for run, folder, label in zip(runs, folders, run_labels(folders), strict=True):
        history = History.load(run)
        if run.manifest.verb != "train" or not history.numbers:
            raise ValueError(
                f"trainings are compared with trainings that have recorded something; "
                f"{folder} is a run of the verb {run.manifest.verb} with "
                f"{len(history.numbers)} recordings. Compare it with runs of its kind."
            )
        found.append(Training(label=label, run=run, history=history))
    return tuple(found)


def are_trainings(paths: Sequence[Path]) -> bool:
    """Return whether any of the folders is a training's, or a study's."""
    return any(
        (folder / "manifest.json").exists()
        and Run.open(folder).manifest.verb == "train"
        for path in paths
        for folder in inner_runs(path)
    )


def write_trainings(trainings: Sequence[Training], out: Path) -> list[Path]:
    """Draw and tabulate everything that the trainings have recorded.

    Args:
        trainings: The trainings.
        out: The folder; made if needed.

    Returns:
        The files.

    Raises:
        FileExistsError: If the folder is a run.
    """
    make_output_folder(out)
    tables = {
        "trainings.csv": [TRAININGS_KEYS, *(training.row() for training in trainings)],
        "series.csv": [("run", "epoch", "quantity", "value"), *_series(trainings)],
    }
    weights = [
        (
            one.label,
            epoch,
            *weight_row(name.removeprefix(WEIGHTS), found, tail_fit(found)),
        )
        for one in trainings
        for name in one.history.names
        if name.startswith(WEIGHTS)
        for epoch, found in one.spectra(name).items()
    ]
    if weights:
        tables["weights.csv"] = [("run", "epoch", *WEIGHT_KEYS), *weights]
    classes = [row for one in trainings for row in one.class_rows()]
    if classes:
        tables["classes.csv"] = [CLASS_KEYS, *classes]
    written: list[Path] = []
    for name, (header, *rows) in tables.items():
        written.append(write_csv(out / name, header, rows))
    for name, figure in _figures(trainings).items():
        save_figure(figure, out / name)
        written.append(out / name)
    return written


def _figures(trainings: Sequence[Training]) -> dict[str, Any]:
    panels, axes = _panels(trainings)
    figures: dict[str, Any] = {}
    if panels:
        title = "Through training"
        figures["curves.png"] = panels_figure(panels, axes=axes, title=title)
    spectra = {one.label: one.spectra(JACOBIAN) for one in trainings}
    spectra = {label: found for label, found in spectra.items() if found}
    if spectra:
        last = {label: found[max(found)] for label, found in spectra.items()}
        title = "Jacobian spectra at the last recording"
        figures["jacobian_spectra.png"] = comparison_figure(
            last, tail_fits(last), title=title
        )
    if any(len(found) > 1 for found in spectra.values()):
        title = "Jacobian spectra through training"
        figures["jacobian_evolution.png"] = evolution_figure(spectra, title=title)
    family = _family(trainings)
    if family:
        title = "Across the family"
        figures["family.png"] = family_figure(family, title=title)
    for number, one in enumerate(trainings):
        for name, figure in _class_figures(one).items():
            figures[f"{number:02d}_{name}.png"] = figure
    return figures


def _class_figures(one: Training) -> dict[str, Any]:
    """Return a training's spectra class by class, and their numbers."""
    names = one.class_names()
    if not names:
        return {}
    found = {label: one.spectra(CLASS_SPECTRA + key) for key, label in names.items()}
    last = {label: spectra[max(spectra)] for label, spectra in found.items()}
    rows: list[dict[str, Any]] = [
        dict(zip(CLASS_KEYS, row, strict=True)) for row in one.class_rows()
    ]
    end = max(row["epoch"] for row in rows)
    members = [
        FamilyMember(
            name=row["class_name"],
            depth=None,
            accuracy=row["accuracy"],
            **{key: row[key] for key in _TAIL_KEYS},
        )
        for row in rows
        if row["epoch"] == end
    ]
    title = f"{one.label}: Jacobian spectra class by class"
    figures = {"classes": comparison_figure(last, tail_fits(last), title=title)}
    if any(member.accuracy is not None for member in members):
        figures["class_numbers"] = family_figure(
            members, title=title, accuracy="accuracy on the class"
        )
    return figures


def _panels(
    trainings: Sequence[Training],
) -> tuple[dict[str, dict[str, Points]], dict[str, str]]:
    """Return the panels that have a line of two points, and the names of their x."""
    sources: dict[str, tuple[str, Callable[[Training], Points]]] = {
        "accuracy, train": ("epoch", lambda one: one.scalar("accuracy/train")),
        "accuracy, test": ("epoch", lambda one: one.scalar("accuracy/test")),
        "λ_max of the Jacobian Gram": ("epoch", _largest_of),
        "λ_max of the Jacobian Gram ": ("accuracy, train", _against_accuracy),
        "α of the Jacobian spectrum": ("epoch", _alpha_of),
        "λ_max of the Hessian": ("epoch", lambda one: one.scalar(TOP)),
        "trace of the Hessian": ("epoch", lambda one: one.scalar(TRACE)),
        "α of the first weight": ("epoch", _first_weight_alpha),
    }
    panels: dict[str, dict[str, Points]] = {}
    axes: dict[str, str] = {}
    for name, (axis, source) in sources.items():
        lines = {one.label: points for one in trainings if (points := source(one)).x}
        if any(len(points.x) > 1 for points in lines.values()):
            panels[name], axes[name] = lines, axis
    return panels, axes


def _family(trainings: Sequence[Training]) -> list[FamilyMember]:
    """Return the networks that have a Jacobian spectrum, if they differ."""
    models = {str(one.run.arguments.get("model")) for one in trainings}
    rows: list[dict[str, Any]] = [
        dict(zip(TRAININGS_KEYS, one.row(), strict=True)) for one in trainings
    ]
    found = [
        FamilyMember(
            name=row["run"],
            depth=row["num_weight_layers"],
            accuracy=row["accuracy_test"],
            **{key: row[f"jacobian_{key}"] for key in _TAIL_KEYS},
        )
        for row in rows
        if row["jacobian_lambda_max"] is not None
    ]
    return found if len(models) > 1 else []


def _series(trainings: Sequence[Training]) -> list[Sequence[object]]:
    """Return every recorded number of every training."""
    return [
        (one.label, epoch, name, entry[0] if isinstance(entry, list) else entry)
        for one in trainings
        for epoch in one.history.numbers
        for name, entry in one.history.entries[epoch].items()
        if not isinstance(entry, dict)
    ]


def _against_accuracy(one: Training) -> Points:
    accuracies = one.scalar("accuracy/train")
    accuracy = dict(zip(accuracies.x, accuracies.y, strict=True))
    found = _largest_of(one)
    return Points([accuracy[number] for number in found.x], found.y)


def _first_weight_alpha(one: Training) -> Points:
    names = [name for name in one.history.names if name.startswith(WEIGHTS)]
    return one.of_spectra(names[0], _alpha) if names else Points([], [])


def _largest_of(one: Training) -> Points:
    return one.of_spectra(JACOBIAN, lambda found: (float(found.values[-1]), 0.0))


def _alpha_of(one: Training) -> Points:
    return one.of_spectra(JACOBIAN, _alpha)


def _alpha(found: Spectrum) -> tuple[float, float] | None:
    fit = tail_fit(found)
    return None if fit is None else (fit.alpha, fit.alpha_stderr)
