"""The recorder as a callback of Hugging Face's Trainer."""

from typing import Any, Final, final

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from typing_extensions import override

from eigenscope.training.adapters.counting import Counting

_ROUNDING: Final = 1e-6


@final
class RecordingCallback(TrainerCallback):
    """Records before the first step and after epochs or steps.

    Args:
        counting: What is told of them.
    """

    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    @override
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        steps, is_first = state.global_step, state.is_world_process_zero
        self._counting.begun(kwargs["model"], steps, is_first=is_first)

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        steps, is_first = state.global_step, state.is_world_process_zero
        self._counting.ended("step", kwargs["model"], steps, is_first=is_first)

    @override
    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        epoch, is_first = state.epoch or 0.0, state.is_world_process_zero
        epochs = round(epoch)
        if epochs and abs(epoch - epochs) < _ROUNDING:  # `max_steps` may end one early
            self._counting.ended("epoch", kwargs["model"], epochs, is_first=is_first)
