"""The recorder as a callback of PyTorch Lightning's Trainer."""

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from eigenscope.training.adapters.counting import Counting


@final
class RecordingCallback(Callback):
    """Records before the first step and after epochs or steps.

    Args:
        counting: What is told of them.
    """

    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps, is_first = trainer.global_step, trainer.is_global_zero
        self._counting.begun(pl_module, steps, is_first=is_first)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        steps, is_first = trainer.global_step, trainer.is_global_zero
        self._counting.ended("step", pl_module, steps, is_first=is_first)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs, is_first = trainer.current_epoch + 1, trainer.is_global_zero
        self._counting.ended("epoch", pl_module, epochs, is_first=is_first)
