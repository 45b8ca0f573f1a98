"""The recorder as a callback of Hugging Face's Trainer."""

from typing import Any, final

from torch import nn
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from typing_extensions import override

from eigenscope.training.adapters.counting import CountedBy
from eigenscope.training.recorder import Recorder


@final
class RecordingCallback(TrainerCallback):
    """Records before the first step and after epochs or steps.

    Args:
        recorder: The recorder.
        by: What its schedule counts.
        module: Path of the network within the model.
    """

    def __init__(self, recorder: Recorder, *, by: CountedBy, module: str) -> None:
        self._recorder, self._module = recorder, module
        self._by: CountedBy = by

    @override
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.global_step == 0:
            self._record(state, kwargs["model"], 0)

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._by == "step":
            self._record(state, kwargs["model"], state.global_step)

    @override
    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._by == "epoch" and state.epoch is not None:
            self._record(state, kwargs["model"], round(state.epoch))

    def _record(self, state: TrainerState, model: nn.Module, number: int) -> None:
        if state.is_world_process_zero:
            self._recorder.record(model.get_submodule(self._module), number)
