"""Several trainings in figures and tables: the Jacobian studies."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from eigenscope.analysis import PowerLaw, fit_power_law
from eigenscope.experiments.matching import inner_runs, run_folders, run_labels
from eigenscope.experiments.stored_results import require_results_fit
from eigenscope.plots import comparison_figure, save_figure
from eigenscope.plots.families import FamilyMember, family_figure
from eigenscope.plots.trainings import (
    Points,
    evolution_figure,
    panels_figure,
)
from eigenscope.report.matching import require_no_run
from eigenscope.spectra import Spectrum
from eigenscope.store import Run, write_atomically
from eigenscope.training import History

TRAININGS_HEADER = (
    *("run", "model", "data", "noise", "epoch", "layers", "accuracy, train"),
    *("accuracy, test", "λ_max of 𝒥𝒥ᵀ", "α", "± of α", "KS", "λ_max of H"),
    *("trace of H", "±"),
)
_KEYS = (
    *("run", "model", "data", "label_noise", "epoch", "num_weight_layers"),
    *("accuracy_train", "accuracy_test", "jacobian_lambda_max", "jacobian_alpha"),
    *("jacobian_alpha_stderr", "jacobian_ks_distance", "hessian_lambda_max"),
    *("hessian_trace", "hessian_trace_stderr"),
)
WEIGHT_KEYS = (
    *("name", "dimension", "lambda_max", "trace", "alpha", "alpha_stderr", "xmin"),
    *("ks_distance", "num_tail"),
)
_JACOBIAN, _WEIGHTS, _CLASS = "jacobian", "weights/", "jacobian_class/"
_TOP, _TRACE = "hessian_top", "hessian_trace/full"
XminRule = Literal["scan", "peak"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training as a comparison sees it.

    Attributes:
        label: The run's name.
        run: The run.
        history: Its recordings.
    """

    label: str
    run: Run
    history: History

    def scalar(self, name: str) -> Points:
        """Return epochs and values of a number; nothing if it was not recorded."""
        if name not in self.history.names:
            return [], []
        epochs, values = self.history.series(name)
        return epochs.tolist(), values.tolist()

    def spectra(self, name: str) -> dict[int, Spectrum]:
        """Return the spectra of a name by epoch; nothing if there are none."""
        return self.history.spectra(name) if name in self.history.names else {}

    def of_jacobian(self, value: Callable[[Spectrum], float | None]) -> Points:
        """Return epochs and a number of the Jacobian spectra, where it is defined."""
        numbers = {n: value(found) for n, found in self.spectra(_JACOBIAN).items()}
        kept = {n: number for n, number in numbers.items() if number is not None}
        return list(kept), list(kept.values())

    def row(self) -> Sequence[object]:
        """Return the last recorded numbers, as `TRAININGS_HEADER` names them."""
        spectra = self.spectra(_JACOBIAN)
        found = spectra[max(spectra)] if spectra else None
        fit = None if found is None else _fit(found)
        last = self.history.entries[self.history.numbers[-1]]
        trace = last.get(_TRACE) or [None, None]
        top = last.get(_TOP) or [None]
        return (
            self.label,
            self.run.arguments.get("model"),
            self.run.arguments.get("data"),
            self.run.arguments.get("data.label_noise"),
            self.history.numbers[-1],
            self.run.results.get("num_weight_layers"),
            last.get("accuracy/train"),
            last.get("accuracy/test"),
            None if found is None else float(found.values[-1]),
            None if fit is None else fit.alpha,
            None if fit is None else fit.alpha_stderr,
            None if fit is None else fit.ks_distance,
            top[0] if isinstance(top, list) else top,
            *trace,
        )


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
    require_no_run(out)
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "trainings.csv": [_KEYS, *(training.row() for training in trainings)],
        "series.csv": [("run", "epoch", "quantity", "value"), *_series(trainings)],
    }
    weights = [
        (one.label, epoch, *weight_row(name.removeprefix(_WEIGHTS), found, _fit(found)))
        for one in trainings
        for name in one.history.names
        if name.startswith(_WEIGHTS)
        for epoch, found in one.spectra(name).items()
    ]
    if weights:
        tables["weights.csv"] = [("run", "epoch", *WEIGHT_KEYS), *weights]
    written: list[Path] = []
    for name, rows in tables.items():
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        write_atomically(out / name, text.getvalue())
        written.append(out / name)
    for name, figure in _figures(trainings).items():
        save_figure(figure, out / name)
        written.append(out / name)
    return written


def tail_fits(
    spectra: Mapping[str, Spectrum], rule: XminRule = "scan"
) -> dict[str, dict[str, PowerLaw]]:
    """Fit a power law to each of some spectra.

    Args:
        spectra: By label.
        rule: Where the tails start.

    Returns:
        By label: the fit by the rule, or nothing where there is no tail.
    """
    fits = {label: _fit(found, rule) for label, found in spectra.items()}
    return {label: {rule: fit} if fit else {} for label, fit in fits.items()}


def weight_row(name: str, found: Spectrum, fit: PowerLaw | None) -> Sequence[object]:
    """Return the numbers of one weight's spectrum, as `WEIGHT_KEYS` names them.

    Args:
        name: Of the weight.
        found: Its spectrum.
        fit: Of its tail, if it has one.

    Returns:
        The row; without numbers of a fit where there is none.
    """
    tail: tuple[object, ...] = (None,) * 5
    if fit is not None:
        tail = (fit.alpha, fit.alpha_stderr, fit.xmin, fit.ks_distance, fit.num_tail)
    largest = float(found.values[-1])
    return (name, found.dimension, largest, found.trace(), *tail)


def _figures(trainings: Sequence[Training]) -> dict[str, Any]:
    panels, axes = _panels(trainings)
    figures: dict[str, Any] = {}
    if panels:
        title = "Through training"
        figures["curves.png"] = panels_figure(panels, axes=axes, title=title)
    spectra = {one.label: one.spectra(_JACOBIAN) for one in trainings}
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
        named = [name for name in one.history.names if name.startswith(_CLASS)]
        last = {
            f"class {name.removeprefix(_CLASS)}": found[max(found)]
            for name in named
            for found in [one.spectra(name)]
        }
        if last:
            title = f"{one.label}: Jacobian spectra class by class"
            figures[f"{number:02d}_classes.png"] = comparison_figure(
                last, tail_fits(last), title=title
            )
    return figures


def _panels(
    trainings: Sequence[Training],
) -> tuple[dict[str, dict[str, Points]], dict[str, str]]:
    """Return the panels of curves that have a line, and the names of their x axes."""
    sources: dict[str, tuple[str, Callable[[Training], Points]]] = {
        "accuracy, train": ("epoch", lambda one: one.scalar("accuracy/train")),
        "accuracy, test": ("epoch", lambda one: one.scalar("accuracy/test")),
        "λ_max of the Jacobian Gram": ("epoch", lambda one: one.of_jacobian(_largest)),
        "λ_max of the Jacobian Gram ": ("accuracy, train", _against_accuracy),
        "α of the Jacobian spectrum": ("epoch", lambda one: one.of_jacobian(_alpha)),
        "λ_max of the Hessian": ("epoch", lambda one: one.scalar(_TOP)),
        "trace of the Hessian": ("epoch", lambda one: one.scalar(_TRACE)),
        "α of the first weight": ("epoch", _first_weight_alpha),
    }
    panels: dict[str, dict[str, Points]] = {}
    axes: dict[str, str] = {}
    for name, (axis, source) in sources.items():
        lines = {one.label: points for one in trainings if (points := source(one))[0]}
        if lines:
            panels[name], axes[name] = lines, axis
    return panels, axes


def _family(trainings: Sequence[Training]) -> list[FamilyMember]:
    """Return the networks that have a Jacobian spectrum, if they differ."""
    models = {str(one.run.arguments.get("model")) for one in trainings}
    rows: list[dict[str, Any]] = [
        dict(zip(_KEYS, one.row(), strict=True)) for one in trainings
    ]
    found = [
        FamilyMember(
            name=row["run"],
            depth=row["num_weight_layers"],
            accuracy=row["accuracy_test"],
            alpha=row["jacobian_alpha"],
            alpha_stderr=row["jacobian_alpha_stderr"],
            ks_distance=row["jacobian_ks_distance"],
            lambda_max=row["jacobian_lambda_max"],
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
    accuracy = dict(zip(*one.scalar("accuracy/train"), strict=True))
    epochs, values = one.of_jacobian(_largest)
    pairs = [(accuracy[n], v) for n, v in zip(epochs, values, strict=True)]
    return [a for a, _ in pairs], [v for _, v in pairs]


def _first_weight_alpha(one: Training) -> Points:
    names = [name for name in one.history.names if name.startswith(_WEIGHTS)]
    fits = (
        {n: _alpha(found) for n, found in one.spectra(names[0]).items()}
        if names
        else {}
    )
    kept = {n: value for n, value in fits.items() if value is not None}
    return list(kept), list(kept.values())


def _largest(found: Spectrum) -> float:
    return float(found.values[-1])


def _alpha(found: Spectrum) -> float | None:
    fit = _fit(found)
    return None if fit is None else fit.alpha


def _fit(found: Spectrum, rule: XminRule = "scan") -> PowerLaw | None:
    try:
        return fit_power_law(found, xmin=rule)
    except ValueError:  # no tail above the noise floor
        return None
