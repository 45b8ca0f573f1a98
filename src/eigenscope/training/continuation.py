"""What measures begin their next call with, kept beside the latest recording."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from safetensors.torch import load_file, save
from torch import Tensor

from eigenscope.store import Run, write_atomically
from eigenscope.training.history import History, record_name

_SUFFIX: Final = "safetensors"
_SEPARATOR: Final = "\n"  # between the names of a measure and of its tensor


@runtime_checkable
class Continuing(Protocol):
    """A measure that begins with what it found last, such as eigenvectors."""

    def state(self) -> dict[str, Tensor]:
        """What the next call begins with."""
        ...

    def take_up(self, state: Mapping[str, Tensor]) -> None:
        """Begin the next call with what `state` gave in an earlier process."""
        ...


def save_states(run: Run, measures: Mapping[str, object], number: int) -> None:
    """Write the states of all measures that have one, and remove those before.

    Args:
        run: The run.
        measures: By name.
        number: Of the recording that is about to be complete.
    """
    tensors = {
        f"{name}{_SEPARATOR}{key}": tensor.detach().cpu().contiguous()
        for name, measure in measures.items()
        if isinstance(measure, Continuing)
        for key, tensor in measure.state().items()
    }
    if not tensors:
        return

    def write(path: Path) -> None:
        write_atomically(path, save(tensors))
        for old in History.load(run).numbers[:-1]:
            _path(run, old).unlink(missing_ok=True)

    run.keep(_path(run, number), write)


def take_up_states(run: Run, measures: Mapping[str, object]) -> None:
    """Let measures go on from the latest complete recording.

    Args:
        run: The run.
        measures: By name.
    """
    done = History.load(run).numbers
    path = _path(run, done[-1]) if done else None
    if path is None or not run.has(path):
        return
    states: dict[str, dict[str, Tensor]] = {}
    with run.ranks.together():
        found = load_file(path)
    for label, tensor in found.items():
        name, _, key = label.partition(_SEPARATOR)
        states.setdefault(name, {})[key] = tensor
    for name, measure in measures.items():
        if isinstance(measure, Continuing) and name in states:
            measure.take_up(states[name])


def _path(run: Run, number: int) -> Path:
    return run.results_path(f"{record_name(number)}.{_SUFFIX}")
