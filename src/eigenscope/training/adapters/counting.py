"""What the numbers of a recorder count in another library's trainer."""

from typing import Literal, final

from torch import nn

from eigenscope.training.recorder import Recorder

CountedBy = Literal["epoch", "step"]


@final
class Counting:
    """A recorder that is told of every epoch and step, and records by one of them.

    Args:
        recorder: The recorder.
        by: What its schedule counts.
        module: Path within the trainer's model of the network that is measured.
    """

    def __init__(self, recorder: Recorder, *, by: CountedBy, module: str) -> None:
        self._recorder, self._module = recorder, module
        self._by: CountedBy = by

    def begun(self, model: nn.Module, steps: int, *, is_first: bool) -> None:
        """Record before the first step.

        Args:
            model: The trainer's model.
            steps: Taken before; a training that goes on is past its beginning.
            is_first: Whether this is the process that records.
        """
        if steps == 0:
            self._record(model, 0, is_first=is_first)

    def ended(
        self, what: CountedBy, model: nn.Module, number: int, *, is_first: bool
    ) -> None:
        """Record after an epoch or a step, if it is what counts.

        Args:
            what: Which of them has ended.
            model: The trainer's model.
            number: Of it, from 1.
            is_first: Whether this is the process that records.
        """
        if what == self._by:
            self._record(model, number, is_first=is_first)

    def _record(self, model: nn.Module, number: int, *, is_first: bool) -> None:
        if is_first:
            self._recorder.record(model.get_submodule(self._module), number)
