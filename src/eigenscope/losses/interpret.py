"""From what the user passes as a loss to its numerators and denominators."""

from functools import partial
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eigenscope.losses.base import Loss, RiskLoss
from eigenscope.losses.cross_entropy import CrossEntropy, next_token_loss
from eigenscope.losses.elementwise import LogisticLoss, SquaredError
from eigenscope.losses.parts import (
    CallableParts,
    Form,
    call,
    forms_that_hold,
    loss_name,
    torch_parts,
)
from eigenscope.losses.recorded import RecordedLoss

_FUNCTIONS: dict[Any, type[nn.Module]] = {
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.mse_loss: nn.MSELoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


def known_loss(loss: Loss) -> RiskLoss | None:
    """Return the numerators and denominators of a loss of torch or of ours.

    Args:
        loss: What the user passed.

    Returns:
        None for any other callable, whose form has to be found on data.

    Raises:
        ValueError: If the loss has no reduction.
    """
    function = loss.func if isinstance(loss, partial) else loss
    if function is next_token_loss:
        options = dict(loss.keywords) if isinstance(loss, partial) else {}
        return CrossEntropy(
            weight=None,
            ignore_index=options.get("ignore_index", -100),
            label_smoothing=0.0,
            is_mean=True,
            next_token=True,
        )
    parts = torch_parts(loss)
    if parts is None:
        return None
    return _closed_form(_as_module(loss)) or RecordedLoss(parts)


def callable_loss(loss: Loss, raw: Tensor, targets: Any) -> RiskLoss | None:
    """Return a callable as what it turns out to be on a batch of at least two samples.

    Args:
        loss: The callable.
        raw: Raw outputs.
        targets: Targets.

    Returns:
        None if its values are as well a mean as a sum (they are all zero).
    """
    forms = forms_that_hold(loss, raw, targets)
    if len(forms) > 1:
        return None
    # Without any form it is as it looks, which the check of each batch then refuses.
    looks: Form = "mean" if call(loss, raw, targets)[1] is None else "pair"
    return RecordedLoss(CallableParts(loss, forms.pop() if forms else looks))


def mean_loss(loss: Loss) -> RiskLoss:
    """Return a callable as a mean over samples, whatever it is."""
    return RecordedLoss(CallableParts(loss, "mean"))


def per_sample_losses(loss: Loss, raw: Tensor, targets: Any) -> Tensor:
    """ℓ(z_i, y_i), each sample's own term of the loss's numerator.

    Losses of torch, modules and functions, are evaluated without reduction and summed
    over a sample's own entries, so class weights and ignored targets count as in the
    numerator of the mean. Any other callable is called once per sample, on a batch
    of one, and once on all to see that these add up to it.

    Args:
        loss: The loss.
        raw: Raw outputs, samples on axis 0.
        targets: Targets, samples on axis 0.

    Returns:
        One number per sample.

    Raises:
        ValueError: If the loss is neither a sum nor a mean of such terms.
    """
    known = known_loss(loss)
    if known is not None:
        return known.per_sample(raw, targets)
    terms = mean_loss(loss).per_sample(raw, targets)
    if len(raw) > 1:
        with torch.no_grad():
            _require_sum_or_mean(loss, raw.detach(), targets, terms.detach())
    return terms


def _require_sum_or_mean(loss: Loss, raw: Tensor, targets: Any, terms: Tensor) -> None:
    """Raise if a callable compares samples with each other, or weighs them."""
    whole, count = call(loss, raw, targets)
    noise = torch.finfo(terms.dtype).eps ** 0.5 * terms.abs().sum()
    gap = (whole - terms.sum()).abs()
    if count is None:
        gap = torch.minimum(gap, (whole * len(raw) - terms.sum()).abs())
    if bool(whole.isfinite()) and not bool(gap <= noise):
        raise ValueError(
            "per-sample gradients need a loss that is a sum or a mean over samples; "
            f"{loss_name(loss)} gives {float(whole):.4g} for {len(raw)} samples "
            f"together, and {float(terms.sum()):.4g} in all for one at a time. Leave "
            "out what compares samples, and return (sum, count) where they weigh "
            "differently."
        )


def _as_module(loss: Loss) -> nn.Module | None:
    """Return a function of torch as the module that it is the function of."""
    if isinstance(loss, nn.Module):
        return loss
    if isinstance(loss, partial):
        kind = _FUNCTIONS.get(loss.func)
        if kind is None or loss.args or loss.keywords.keys() - _known_options(kind):
            return None
        return kind(**loss.keywords)
    kind = _FUNCTIONS.get(loss)
    return None if kind is None else kind()


def _known_options(kind: type[nn.Module]) -> set[str]:
    return set(signature(kind).parameters)


def _closed_form(module: nn.Module | None) -> RiskLoss | None:
    own = cast("Any", module)
    if module is None or own.reduction not in {"mean", "sum", "none"}:
        return None
    is_mean = own.reduction == "mean"
    if type(module) is nn.CrossEntropyLoss:
        return CrossEntropy(
            weight=own.weight,
            ignore_index=own.ignore_index,
            label_smoothing=own.label_smoothing,
            is_mean=is_mean,
        )
    if type(module) is nn.MSELoss:
        return SquaredError(is_mean=is_mean)
    if type(module) is nn.BCEWithLogitsLoss:
        return LogisticLoss(
            weight=own.weight, pos_weight=own.pos_weight, is_mean=is_mean
        )
    return None
