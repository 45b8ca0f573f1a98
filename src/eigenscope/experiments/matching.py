"""How far each layer's Hessian spectrum is from the full one, through training."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
from jaxtyping import Float, Int64

from eigenscope.analysis import height_distance, wasserstein, wasserstein_estimate
from eigenscope.experiments.published import published_density
from eigenscope.experiments.stored_results import require_results_fit
from eigenscope.spectra import Spectrum
from eigenscope.store import Run
from eigenscope.store.manifest import FILE_NAME
from eigenscope.training import History

Scaling = Literal["none", "range", "max", "trace"]
Measure = Literal["none", "range", "max", "trace", "heights"]

SCALINGS: Final[tuple[Scaling, ...]] = ("none", "range", "max", "trace")
HEIGHTS: Final = "heights"
FULL: Final = "hessian/full"
_PREFIX: Final = "hessian/"
_NUM_REPLICAS: Final = 40

Table = Float[np.ndarray, "epoch layer"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The distances of one run.

    Attributes:
        label: The run's name.
        model: Its network.
        data: Its data set.
        layers: Names of the layers, from input to output.
        epochs: The recorded epochs; 0 is before training.
        distances: W1 by scaling, and "heights", the published height distance.
        stderrs: Standard errors of W1 by scaling, over probes drawn again.
        biases: Bounds of what the errors of both spectra add, by scaling.
        self_distances: W1 between two halves of the full spectrum's probes by
            scaling; NaN where it has but one probe, 0 where it is exact.
    """

    label: str
    model: str
    data: str
    layers: tuple[str, ...]
    epochs: Int64[np.ndarray, " epoch"]
    distances: Mapping[str, Table]
    stderrs: Mapping[str, Table]
    biases: Mapping[str, Table]
    self_distances: Mapping[str, Float[np.ndarray, " epoch"]]

    @property
    def depths(self) -> Float[np.ndarray, " layer"]:
        """Place of each layer from 0, the first, to 1, the last."""
        return np.linspace(0, 1, len(self.layers))

    @property
    def trained(self) -> np.ndarray:
        """Which recordings are after an epoch; all if there is none but the first."""
        after = self.epochs > 0
        return after if after.any() else np.ones_like(after)

    def summed(
        self, measure: Measure
    ) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
        """Return Σ over training of each layer's distance / max over layers, ± error.

        The standard errors of epochs are taken as independent.
        """
        chosen = self.distances[measure][self.trained]
        total = chosen.sum(0)
        largest = float(total.max()) or 1.0
        errors = self.stderrs.get(measure)
        if errors is None:
            return total / largest, np.zeros_like(total)
        spread = np.sqrt((errors[self.trained] ** 2).sum(0))
        return total / largest, spread / largest

    def peak(self, measure: Measure) -> int:
        """Return the place of the recording with the smallest total distance."""
        total = self.distances[measure].sum(1)
        return int(np.argmin(np.where(self.trained, total, np.inf)))

    def at_peak(
        self, measure: Measure
    ) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
        """Return the distances of that recording / max over layers, ± error."""
        place = self.peak(measure)
        found = self.distances[measure][place]
        largest = float(found.max()) or 1.0
        errors = self.stderrs.get(measure)
        spread = np.zeros_like(found) if errors is None else errors[place]
        return found / largest, spread / largest


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPair:
    """One layer's spectrum and the full one of the same recording, on disk.

    Attributes:
        run: The run's folder.
        number: Of the recording.
        full: File of the full spectrum.
        part: File of the layer's.
    """

    run: Path
    number: int
    full: Path
    part: Path


def stored_pairs(paths: Sequence[Path]) -> list[StoredPair]:
    """Return all pairs of spectra that `match_runs` compares, without reading them.

    Args:
        paths: Folders of trainings with Hessian spectra, or of studies.

    Returns:
        The pairs, run by run.

    Raises:
        FileNotFoundError: If a folder is no run.
        ValueError: As `match_runs`.
    """
    found: list[StoredPair] = []
    for run, history, layers in _opened(paths):
        for number in history.numbers:
            entries = history.entries[number]
            files = {
                name: history.folder / entry["spectrum"]
                for name, entry in entries.items()
                if name.startswith(_PREFIX)
            }
            if FULL in files:
                found += [
                    StoredPair(
                        run=run.path,
                        number=number,
                        full=files[FULL],
                        part=files[_PREFIX + layer],
                    )
                    for layer in layers
                    if _PREFIX + layer in files
                ]
    return found


def pair_distances(pair: StoredPair) -> dict[str, tuple[float, float, float]]:
    """Read two spectra and return their distances, as `match_runs` takes them."""
    return _distances(Spectrum.load(pair.full), Spectrum.load(pair.part))


def inner_runs(path: Path) -> list[Path]:
    """Return the runs inside a folder that is none itself, else that folder.

    Args:
        path: Folder of a run, of a study, or of neither.

    Returns:
        At least one folder, by name, numbers in a name by their value.
    """
    inner = [part.parent for part in path.glob(f"*/{FILE_NAME}")]
    inner.sort(key=lambda folder: _by_numbers(folder.name))
    return [path] if (path / FILE_NAME).exists() or not inner else inner


def _by_numbers(name: str) -> list[str | int]:
    parts = re.split(r"([0-9]+)", name)  # text and digits take turns
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of runs, those of a study's folder in place of it.

    Args:
        paths: Folders of runs and of studies.

    Returns:
        Folders of runs, none twice.

    Raises:
        ValueError: If there is none, or one twice.
    """
    found = [folder for path in paths for folder in inner_runs(path)]
    if not found or len({path.resolve() for path in found}) < len(found):
        given = ", ".join(str(path) for path in paths) or "none"
        raise ValueError(
            f"at least one run is needed, and none of them twice; got {given}."
        )
    return found


def match_runs(
    paths: Sequence[Path], *, memory: str | int | None = None
) -> tuple[Match, ...]:
    """Compare the layers' spectra with the full one, in each of several runs.

    Args:
        paths: Folders of trainings with Hessian spectra, or of studies.
        memory: Budget for the results of one run, which are held together.

    Returns:
        One result for each run.

    Raises:
        FileNotFoundError: If a folder is no run.
        ValueError: If a run has no layer spectra or does not fit the budget, or two
            runs have different layers: those of other networks are only compared
            within the folder of a study.

    Cost:
        For each recording and layer some hundred distances of a millisecond.
    """
    folders = run_folders(paths)
    runs = [Run.open(path) for path in folders]
    require_results_fit(runs, memory, purpose="match", one_by_one=True)
    labels = run_labels(folders)
    return tuple(
        _match(*opened, label)
        for opened, label in zip(_opened(paths), labels, strict=True)
    )


def run_labels(folders: Sequence[Path]) -> tuple[str, ...]:
    """Return the folders' names, or their whole paths where names repeat."""
    names = [path.resolve().name for path in folders]
    distinct = len(set(names)) == len(names)
    return tuple(names) if distinct else tuple(str(path) for path in folders)


def _layers(run: Run, history: History) -> tuple[str, ...]:
    """Return the layers whose spectra a run holds.

    Raises:
        ValueError: If it holds none, or not the full one.
    """
    names = [name for name in history.names if name.startswith(_PREFIX)]
    layers = [name.removeprefix(_PREFIX) for name in names if name != FULL]
    if FULL not in names or not layers:
        held = ", ".join(names) or f"none (verb {run.manifest.verb})"
        raise ValueError(
            f"{run.path} must hold the full Hessian's spectrum and those of layers; it "
            f"holds {held}. Train with a [hessian] section and layers = 'weights'."
        )
    return tuple(layers)


def _opened(paths: Sequence[Path]) -> list[tuple[Run, History, tuple[str, ...]]]:
    """Return runs, what they recorded, and their layers.

    Raises:
        ValueError: If two that cannot be compared have different layers.
    """
    found: list[tuple[Run, History, tuple[str, ...]]] = []
    for folder in run_folders(paths):
        run = Run.open(folder)
        history = History.load(run)
        found.append((run, history, _layers(run, history)))
    first: dict[object, tuple[Run, tuple[str, ...]]] = {}
    for run, _, names in found:
        kind = run.arguments.get("model") if len(paths) == 1 else None
        _require_same_layers(*first.setdefault(kind, (run, names)), run, names)
    return found


def _require_same_layers(
    run: Run, layers: tuple[str, ...], other: Run, others: tuple[str, ...]
) -> None:
    """Raise if two runs were measured at different layers; say which."""
    if layers == others:
        return
    only = sorted(set(layers) ^ set(others))
    listed = ", ".join(only) or "the order of the same"
    raise ValueError(
        "runs must have spectra of the same layers to be compared; "
        f"{run.path} and {other.path} differ in {listed}. Match them one by one, or "
        "pass the one folder of a study of several networks, each of which is then "
        "drawn by itself."
    )


def _match(run: Run, history: History, layers: tuple[str, ...], label: str) -> Match:
    full = history.spectra(FULL)
    parts = {name: history.spectra(_PREFIX + name) for name in layers}
    epochs = [n for n in full if all(n in parts[name] for name in layers)]
    shape = (len(epochs), len(layers))
    tables = {
        kind: {key: np.full(shape, np.nan) for key in (*SCALINGS, HEIGHTS)}
        for kind in ("value", "stderr", "bias")
    }
    own = {scaling: np.full(len(epochs), np.nan) for scaling in SCALINGS}
    for row, epoch in enumerate(epochs):
        for scaling in SCALINGS:
            own[scaling][row] = self_distance(full[epoch], scaling)
        for column, name in enumerate(layers):
            found = _distances(full[epoch], parts[name][epoch])
            for key, numbers in found.items():
                for kind, number in zip(tables, numbers, strict=True):
                    tables[kind][key][row, column] = number
    del tables["stderr"][HEIGHTS], tables["bias"][HEIGHTS]
    return Match(
        label=label,
        model=str(run.arguments.get("model")),
        data=str(run.arguments.get("data")),
        layers=layers,
        epochs=np.array(epochs),
        distances=tables["value"],
        stderrs=tables["stderr"],
        biases=tables["bias"],
        self_distances=own,
    )


def self_distance(found: Spectrum, scaling: Scaling) -> float:
    """W1 between the spectra that two halves of the probes give.

    Args:
        found: A spectrum.
        scaling: As for `es.wasserstein`.

    Returns:
        The distance; 0 for an exact spectrum, NaN for one of a single probe or
        without a positive trace where the scaling needs one.

    Example:
        >>> self_distance(Spectrum.from_eigenvalues([1.0, 2.0]), "range")
        0.0
    """
    if found.exact:
        return 0.0
    rule = found.quadrature
    if rule is None or rule.num_probes < 2:
        return float("nan")
    half = rule.num_probes // 2
    rows = np.arange(rule.num_probes)
    first, second = (
        replace(rule, **rule.rows(chosen)).measure(found.dimension)
        for chosen in (rows[:half], rows[half:])
    )
    try:
        return wasserstein(first, second, scale=scaling)
    except ValueError:  # a half has no positive trace
        return float("nan")


def _distances(full: Spectrum, part: Spectrum) -> dict[str, tuple[float, float, float]]:
    """Return distance, standard error and bias by scaling, and that of the heights."""
    found: dict[str, tuple[float, float, float]] = {}
    for scaling in SCALINGS:
        try:
            w1 = wasserstein_estimate(
                full, part, scale=scaling, num_replicas=_NUM_REPLICAS
            )
        except ValueError:  # no positive trace
            continue
        found[scaling] = (float(w1.value), float(w1.stderr), w1.bias)
    heights = (published_density(one)[1] for one in (full, part))
    found[HEIGHTS] = (height_distance(*heights), 0.0, 0.0)
    return found
