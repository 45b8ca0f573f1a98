"""Callbacks for other libraries' trainers, which are imported only when asked for."""

import importlib
from typing import Any

from eigenscope._types import require_choice
from eigenscope.training.adapters.counting import CountedBy, Counting
from eigenscope.training.recorder import Recorder
from eigenscope.zoo.extras import require_extra


def lightning_callback(
    recorder: Recorder, *, by: CountedBy = "epoch", module: str = ""
) -> Any:
    """Return a callback that records in the training of a PyTorch Lightning Trainer.

    Recording 0 is before the first step. Only the process of global rank zero records.
    A fit that resumes from a checkpoint skips what is there.

    Args:
        recorder: The recorder; its run has to stay open during the fit.
        by: What its schedule counts: "epoch", at the end of training epochs, or
            "step", after optimizer steps.
        module: Path within the LightningModule of the network that is measured; ""
            for itself, whose `forward` then has to be the network's.

    Returns:
        A `lightning.pytorch.Callback`, for `Trainer(callbacks=[...])`.

    Raises:
        ValueError: If `by` is unknown.
        ImportError: If Lightning is not installed.

    Example:
        >>> lightning_callback(None, by="batch")
        Traceback (most recent call last):
        ...
        ValueError: by must be one of 'epoch', 'step'; got 'batch'.
    """
    require_choice("by", by, CountedBy)
    require_extra("lightning.pytorch", "lightning")
    return _callback("lightning_trainer", Counting(recorder, by=by, module=module))


def transformers_callback(
    recorder: Recorder, *, by: CountedBy = "step", module: str = ""
) -> Any:
    """Return a callback that records in the training of a Hugging Face Trainer.

    Recording 0 is before the first step. Only the process of global rank zero records.
    A training that resumes from a checkpoint skips what is there.

    Args:
        recorder: The recorder; its run has to stay open during the training.
        by: What its schedule counts: "step", after optimizer steps, or "epoch".
        module: Path within the model of the network that is measured; "" for itself.

    Returns:
        A `transformers.TrainerCallback`, for `Trainer(callbacks=[...])`.

    Raises:
        ValueError: If `by` is unknown.
        ImportError: If transformers is not installed.

    Example:
        >>> transformers_callback(None, by="batch")
        Traceback (most recent call last):
        ...
        ValueError: by must be one of 'epoch', 'step'; got 'batch'.
    """
    require_choice("by", by, CountedBy)
    require_extra("transformers", "transformers")
    return _callback("transformers_trainer", Counting(recorder, by=by, module=module))


def _callback(home: str, counting: Counting) -> Any:
    """Import the callback of a trainer's own class, whose library is there."""
    module = importlib.import_module(f"eigenscope.training.adapters.{home}")
    return module.RecordingCallback(counting)
