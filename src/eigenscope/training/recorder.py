"""Measuring a network while anybody's loop trains it, and leaving no trace."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

from torch import nn

from eigenscope._types import JsonValue, require_choice
from eigenscope.problem.random_state import rng_preserved
from eigenscope.spectra import Spectrum
from eigenscope.store import Run, write_atomically
from eigenscope.training.continuation import save_states, take_up_states
from eigenscope.training.history import History, record_name
from eigenscope.training.measurement import (
    Estimated,
    Measure,
    Mode,
    measured,
    plain_number,
)
from eigenscope.training.schedule import Schedule
from eigenscope.training.sinks import Sink


@final
class Recorder:
    """Measures a network at scheduled epochs or steps of any training loop.

    Call `record(model, number)` wherever the loop has finished an epoch or a step.
    The training goes on as if nothing had happened, to the bit: random states,
    BatchNorm statistics, mode, gradients and `requires_grad` are given back as they
    were, and a measure that changes a weight is refused. Every recording is on disk
    when `record` returns; a loop that resumes skips what is there.

    Args:
        run: A run that is open for writing.
        measures: By name, functions of the network: of a number, a `Spectrum`, an
            estimate (value and stderr), or a mapping of such, whose keys are added to
            the name after a slash.
        schedule: When to measure; at every call by default.
        mode: "eval" puts the network in eval mode while it is measured, "as_is" leaves
            it in the mode of the training.
        sinks: Where recordings go besides, such as `es.TensorBoardSink`; a killed
            process may leave its last one there twice.

    Raises:
        ValueError: If there is no measure, or the run was begun with others.

    Cost:
        What the measures cost, and hashing the weights twice.

    Example:
        >>> import tempfile, pathlib
        >>> net, folder = nn.Linear(2, 1), tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name) / "run"
        >>> with Run.create(path, verb="train", arguments={}) as run:
        ...     norm = lambda model: model.weight.norm().item()
        ...     recorder = Recorder(run, {"norm": norm}, schedule=Schedule.every(2))
        ...     sum(recorder.record(net, epoch) for epoch in range(4))
        2
        >>> History.load(Run.open(path)).numbers
        (0, 2)
        >>> folder.cleanup()
    """

    def __init__(
        self,
        run: Run,
        measures: Mapping[str, Measure],
        *,
        schedule: Schedule | None = None,
        mode: Mode = "eval",
        sinks: Sequence[Sink] = (),
    ) -> None:
        require_choice("mode", mode, Mode)
        if not measures:
            raise ValueError("measures must hold at least one function; got none.")
        self.schedule = schedule or Schedule.every(1)
        self._run = run
        self._measures = dict(measures)
        self._mode: Mode = mode
        self._sinks = tuple(sinks)
        names: list[JsonValue] = list(measures)
        run.record_settings(
            {"measures": names, "schedule": self.schedule.to_json(), "mode": mode}
        )
        take_up_states(run, self._measures)

    def record(self, model: nn.Module, number: int) -> bool:
        """Measure and save, if this epoch or step is due and not there yet.

        Args:
            model: The network that is being trained.
            number: Of the epoch or step, at least 0; 0 is usually before the first.

        Returns:
            Whether anything was measured.

        Raises:
            TypeError: If a measure gives something else.
            DataChangedError: If a measure changes a weight.
        """
        if not self.is_missing(number):
            return False
        found: dict[str, object] = {}
        for name, measure in self._measures.items():
            with self._run.stage(name):
                found |= measured(model, name, measure, self._mode)
        self.save(number, found)
        return True

    def is_missing(self, number: int) -> bool:
        """Return whether an epoch or step is due and has not been recorded.

        Args:
            number: Of the epoch or step.

        Returns:
            Whether `record` would measure.
        """
        return self.schedule.is_due(number) and not self._run.has(self._marker(number))

    def save(self, number: int, found: Mapping[str, object]) -> None:
        """Write a recording whose values were measured elsewhere.

        Args:
            number: Of the epoch or step.
            found: Full names, as in the history, to numbers, spectra and estimates.

        Raises:
            TypeError: If a value is of another kind.
        """
        entries: dict[str, Any] = {}
        for key, value in found.items():
            entries[key] = self._saved(number, len(entries), key, value)
        with rng_preserved():
            for sink in self._sinks if self._run.ranks.is_first else ():
                sink.write(number, found)
        save_states(self._run, self._measures, number)
        text = json.dumps({"number": number, "entries": entries}, allow_nan=False)
        marker = self._marker(number)
        self._run.keep(marker, lambda path: write_atomically(path, text))

    def history(self) -> History:
        """Return everything that has been recorded so far."""
        return History.load(self._run)

    def _marker(self, number: int) -> Path:
        return self._run.results_path(f"{record_name(number)}.json")

    def _saved(self, number: int, place: int, name: str, value: object) -> Any:
        """Return the JSON that stands for a value; a spectrum goes to a file."""
        if isinstance(value, Spectrum):
            file = f"{record_name(number)}_{place:03d}.npz"
            path = self._run.results_path(file)
            self._run.keep(path, partial(value.save, wall_time=False))
            return {"spectrum": file}
        if isinstance(value, Estimated):
            return [plain_number(name, n) for n in (value.value, value.stderr)]
        return plain_number(name, value)
