"""Numbers of one training: what tables and figures of several show of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, final

from eigenscope.analysis import PowerLaw, fit_power_law
from eigenscope.experiments.epoch_measures import CLASS_ACCURACIES, CLASS_SPECTRA
from eigenscope.plots.trainings import Points
from eigenscope.spectra import Spectrum
from eigenscope.store import Run
from eigenscope.training import History

TRAININGS_HEADER = (
    *("run", "model", "data", "noise", "epoch", "layers", "accuracy, train"),
    *("accuracy, test", "λ_max of 𝒥𝒥ᵀ", "α", "± of α", "KS", "λ_max of H"),
    *("trace of H", "±"),
)
TRAININGS_KEYS = (
    *("run", "model", "data", "label_noise", "epoch", "num_weight_layers"),
    *("accuracy_train", "accuracy_test", "jacobian_lambda_max", "jacobian_alpha"),
    *("jacobian_alpha_stderr", "jacobian_ks_distance", "hessian_lambda_max"),
    *("hessian_trace", "hessian_trace_stderr"),
)
WEIGHT_KEYS = (
    *("name", "dimension", "lambda_max", "trace", "alpha", "alpha_stderr", "xmin"),
    *("ks_distance", "num_tail"),
)
CLASS_KEYS = (
    *("run", "epoch", "class", "class_name", "dimension", "accuracy", "lambda_max"),
    *("trace", "alpha", "alpha_stderr", "xmin", "ks_distance", "num_tail"),
)
JACOBIAN: Final = "jacobian"
WEIGHTS: Final = "weights/"
TOP: Final = "hessian_top"
TRACE: Final = "hessian_trace/full"
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
            return Points([], [])
        epochs, values = self.history.series(name)
        entries = [self.history.entries[number][name] for number in epochs.tolist()]
        errors = [_stderr(entry) for entry in entries]
        known = errors if any(error > 0 for error in errors) else []
        return Points(epochs.tolist(), values.tolist(), known)

    def spectra(self, name: str) -> dict[int, Spectrum]:
        """Return the spectra of a name by epoch; nothing if there are none."""
        return self.history.spectra(name) if name in self.history.names else {}

    def of_spectra(
        self, name: str, value: Callable[[Spectrum], tuple[float, float] | None]
    ) -> Points:
        """Return epochs and a number of some spectra, where it is defined.

        Args:
            name: Of the spectra.
            value: From a spectrum to the number and its standard error, 0 for none.

        Returns:
            The line; empty if there are no such spectra.
        """
        numbers = {n: value(found) for n, found in self.spectra(name).items()}
        kept = {n: number for n, number in numbers.items() if number is not None}
        values, errors = ([pair[i] for pair in kept.values()] for i in (0, 1))
        return Points(list(kept), values, errors if any(errors) else [])

    def class_names(self) -> dict[str, str]:
        """Return the names of the classes that have spectra, by their numbers."""
        numbers = [
            name.removeprefix(CLASS_SPECTRA)
            for name in self.history.names
            if name.startswith(CLASS_SPECTRA)
        ]
        known = cast("Sequence[str]", self.run.results.get("class_names", ()))
        names = {number: str(known[int(number)]) for number in numbers}
        return {n: f"class {n}" if name == n else name for n, name in names.items()}

    def class_rows(self) -> list[Sequence[object]]:
        """Return the numbers of every class at every epoch, as `CLASS_KEYS` names."""
        rows: list[Sequence[object]] = []
        for number, label in self.class_names().items():
            shares = dict(
                zip(*self.scalar(f"{CLASS_ACCURACIES}/{number}")[:2], strict=True)
            )
            for epoch, found in self.spectra(CLASS_SPECTRA + number).items():
                _, size, *numbers = weight_row(number, found, tail_fit(found))
                share = shares.get(epoch)
                rows.append((self.label, epoch, number, label, size, share, *numbers))
        return rows

    def row(self) -> Sequence[object]:
        """Return the last recorded numbers, as `TRAININGS_HEADER` names them."""
        spectra = self.spectra(JACOBIAN)
        found = spectra[max(spectra)] if spectra else None
        fit = None if found is None else tail_fit(found)
        last = self.history.entries[self.history.numbers[-1]]
        trace = last.get(TRACE) or [None, None]
        top = last.get(TOP) or [None]
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
    fits = {label: tail_fit(found, rule) for label, found in spectra.items()}
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


def tail_fit(found: Spectrum, rule: XminRule = "scan") -> PowerLaw | None:
    """Fit a power law to a spectrum.

    Args:
        found: The spectrum.
        rule: Where its tail starts.

    Returns:
        The fit; None where no tail is above the noise floor.
    """
    try:
        return fit_power_law(found, xmin=rule)
    except ValueError:  # no tail above the noise floor
        return None


def _stderr(entry: float | list[float | None] | None) -> float:
    """Return the standard error of a recorded number, NaN where it has none."""
    error = entry[1] if isinstance(entry, list) else None
    return float("nan") if error is None else error
