"""A loss as one number per sample: its own numerator, not divided by the batch's."""

import copy
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn

Loss = Callable[[Any, Any], Tensor]


def per_sample_losses(loss: Loss, raw: Tensor, targets: Any) -> Tensor:
    """ℓ(z_i, y_i), each sample's own term of the loss's numerator.

    Losses of torch, modules and functions, are evaluated without reduction and summed
    over a sample's own entries, so class weights and ignored targets count as in the
    numerator of the mean. Any other callable is called once per sample, on a batch
    of one.

    Args:
        loss: The loss.
        raw: Raw outputs, samples on axis 0.
        targets: Targets, samples on axis 0.

    Returns:
        One number per sample.

    Raises:
        ValueError: If the loss gives no single number for one sample.
    """
    unreduced = _unreduced(loss)
    if unreduced is None:
        parts = [
            _single(loss, raw[i : i + 1], _sample(targets, i)) for i in range(len(raw))
        ]
        return torch.stack(parts)
    terms = unreduced(raw, targets)
    if terms.ndim == 0 or len(terms) != len(raw):
        raise ValueError(
            "a loss must have a term for every sample to be differentiated per sample; "
            f"without reduction {_name(loss)} gives shape {tuple(terms.shape)} for "
            f"{len(raw)} samples. Pass a callable that takes a batch of one sample."
        )
    return terms.reshape(len(raw), -1).sum(1)


def _unreduced(loss: Loss) -> Loss | None:
    """Return a torch loss without its reduction, None for any other callable."""
    if isinstance(loss, nn.Module) and type(loss).__module__.startswith("torch.nn."):
        if not hasattr(loss, "reduction"):
            return None
        plain = cast("Any", copy.copy(loss))
        plain.reduction = "none"
        return plain
    function = cast("Any", loss.func if isinstance(loss, partial) else loss)
    if getattr(function, "__module__", None) != "torch.nn.functional":
        return None
    if "reduction" not in signature(function).parameters:
        return None
    return partial(loss, reduction="none")


def _single(loss: Loss, raw: Tensor, targets: Any) -> Tensor:
    value = loss(raw, targets)
    if value.numel() != 1:
        raise ValueError(
            "a loss must give one number for a batch of one sample; "
            f"{_name(loss)} gave shape {tuple(value.shape)}. Sum or average its terms."
        )
    return value.reshape(())


def _sample(value: Any, index: int) -> Any:
    if isinstance(value, dict):
        return {key: _sample(entry, index) for key, entry in value.items()}
    if isinstance(value, Tensor) and value.ndim > 0:
        return value[index : index + 1]
    return value


def _name(loss: Loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
