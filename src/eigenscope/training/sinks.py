"""Where recordings go besides their run: TensorBoard, Weights & Biases, your own."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, final, runtime_checkable

import numpy as np

from eigenscope.spectra import Spectrum
from eigenscope.training.measurement import Estimated, plain_number

_BINS: Final = 64


@runtime_checkable
class Sink(Protocol):
    """Takes every recording of `es.Recorder(sinks=[...])`, after it was measured."""

    def write(self, number: int, found: Mapping[str, object]) -> None:
        """Take one recording.

        Args:
            number: Of the epoch or step.
            found: Full names to numbers, estimates and spectra.
        """
        ...


@final
class TensorBoardSink:
    """Scalars and histograms of spectra for TensorBoard.

    Args:
        writer: A `torch.utils.tensorboard.SummaryWriter` of yours, which stays open.
        prefix: What all tags begin with.

    Example:
        >>> class Shown:
        ...     def add_scalar(self, tag, value, step):
        ...         print(tag, value, step)
        ...
        ...     def flush(self):
        ...         pass
        >>> TensorBoardSink(Shown()).write(3, {"loss": 0.5})
        eigenscope/loss 0.5 3
    """

    def __init__(self, writer: Any, *, prefix: str = "eigenscope/") -> None:
        self._writer, self._prefix = writer, prefix

    def write(self, number: int, found: Mapping[str, object]) -> None:
        """Add one recording at its number as the global step.

        Args:
            number: Of the epoch or step.
            found: Full names to values.
        """
        for name, value in _scalars(found):
            self._writer.add_scalar(f"{self._prefix}{name}", value, number)
        for name, spectrum in _spectra(found):
            counts, edges = _histogram(spectrum)
            values = spectrum.values
            weights = spectrum.weights * spectrum.dimension
            self._writer.add_histogram_raw(
                f"{self._prefix}{name}",
                min=float(values[0]),
                max=float(values[-1]),
                num=spectrum.dimension,
                sum=float(weights @ values),
                sum_squares=float(weights @ values**2),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=number,
            )
        self._writer.flush()


@final
class WandbSink:
    """Scalars and histograms of spectra for Weights & Biases, online or offline.

    They have a step of their own, "<prefix>number", and so do not disturb the step of
    what else the run logs.

    Args:
        run: What `wandb.init` gave, which stays open.
        prefix: What all names begin with.

    Example:
        >>> class Shown:
        ...     def define_metric(self, name, step_metric=None):
        ...         pass
        ...     def log(self, values):
        ...         print(values)
        >>> WandbSink(Shown()).write(3, {"loss": 0.5})
        {'eigenscope/number': 3, 'eigenscope/loss': 0.5}
    """

    def __init__(self, run: Any, *, prefix: str = "eigenscope/") -> None:
        self._run, self._prefix = run, prefix
        run.define_metric(f"{prefix}number")
        run.define_metric(f"{prefix}*", step_metric=f"{prefix}number")

    def write(self, number: int, found: Mapping[str, object]) -> None:
        """Log one recording.

        Args:
            number: Of the epoch or step.
            found: Full names to values.
        """
        values: dict[str, object] = {"number": number, **dict(_scalars(found))}
        for name, spectrum in _spectra(found):
            wandb = importlib.import_module("wandb")
            counts = _histogram(spectrum)
            values[name] = wandb.Histogram(np_histogram=counts)
        self._run.log({f"{self._prefix}{name}": v for name, v in values.items()})


def _scalars(found: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Yield finite numbers; an estimate with its error, a spectrum by its ends."""
    for name, value in found.items():
        parts: dict[str, object] = {name: value}
        if isinstance(value, Spectrum):
            parts = {
                f"{name}/lambda_max": float(value.values[-1]),
                f"{name}/lambda_min": float(value.values[0]),
            }
        elif isinstance(value, Estimated):
            parts = {name: value.value, f"{name}/stderr": value.stderr}
        for part, number in parts.items():
            plain = plain_number(part, number)
            if plain is not None:
                yield part, plain


def _spectra(found: Mapping[str, object]) -> Iterator[tuple[str, Spectrum]]:
    for name, value in found.items():
        if isinstance(value, Spectrum):
            yield name, value


def _histogram(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """Return how many eigenvalues lie between edges."""
    counts = spectrum.weights * spectrum.dimension
    return np.histogram(spectrum.values, bins=_BINS, weights=counts)
