"""The recorder as a callback of PyTorch Lightning's Trainer."""

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from eigenscope.training.adapters.counting import CountedBy
from eigenscope.training.recorder import Recorder


@final
class RecordingCallback(Callback):
    """Records before the first step and after epochs or steps.

    Args:
        recorder: The recorder.
        by: What its schedule counts.
        module: Path of the network within the LightningModule.
    """

    def __init__(self, recorder: Recorder, *, by: CountedBy, module: str) -> None:
        self._recorder, self._module = recorder, module
        self._by: CountedBy = by

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._record(trainer, pl_module, 0)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        if self._by == "step":
            self._record(trainer, pl_module, trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._by == "epoch":
            self._record(trainer, pl_module, trainer.current_epoch + 1)

    def _record(self, trainer: Trainer, model: LightningModule, number: int) -> None:
        if trainer.is_global_zero:
            self._recorder.record(model.get_submodule(self._module), number)
