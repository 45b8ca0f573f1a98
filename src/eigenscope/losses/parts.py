"""Numerators and denominators of losses that we know no closed form of."""

import copy
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Literal, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from eigenscope.losses.base import Loss, LossParts
from eigenscope.losses.elementwise import require_equal_shapes
from eigenscope.precision import wide_sum
from eigenscope.problem.batch import take

Form = Literal["mean", "sum", "pair"]
Unreduced = Callable[[Any, Any], Tensor]

_ELEMENTWISE = (
    (nn.L1Loss, functional.l1_loss),
    (nn.SmoothL1Loss, functional.smooth_l1_loss),
    (nn.HuberLoss, functional.huber_loss),
    (nn.SoftMarginLoss, functional.soft_margin_loss),
    (nn.HingeEmbeddingLoss, functional.hinge_embedding_loss),
    (nn.PoissonNLLLoss, functional.poisson_nll_loss),
    (nn.KLDivLoss, functional.kl_div),
)


@final
class TorchParts(LossParts):
    """A loss of torch, module or function: sums of what it gives without reduction.

    Args:
        loss: The loss.
        unreduced: The same without reduction.
        reduction: Its own reduction.

    Attributes:
        reduction: Its own reduction.
    """

    def __init__(self, loss: Loss, unreduced: Unreduced, reduction: str) -> None:
        self.name = loss_name(loss)
        self.is_mean = reduction != "sum"
        self._loss = loss
        self._unreduced = unreduced
        self.reduction = reduction

    @override
    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        return self._unreduced(raw, targets).sum()

    @override
    def denominator(self, raw: Tensor, targets: Any) -> float:
        if self.reduction == "batchmean":
            return float(len(raw))
        if is_nll(self._loss):
            options = _options(self._loss)
            return class_weight_sum(
                targets, options.get("weight"), options.get("ignore_index", -100)
            )
        return float(self._unreduced(raw, targets).numel())

    @override
    def per_sample(self, raw: Tensor, targets: Any) -> Float[Tensor, " sample"]:
        terms = self._unreduced(raw, targets)
        if terms.ndim == 0 or len(terms) != len(raw):
            raise ValueError(
                "a loss must have a term for every sample to be differentiated per "
                f"sample; without reduction {self.name} gives shape "
                f"{tuple(terms.shape)} for {len(raw)} samples. Pass a callable that "
                "is a sum over samples."
            )
        return terms.reshape(len(raw), -1).sum(1)

    @override
    def require_valid(self, raw: Tensor, targets: Any, start: int) -> None:
        if is_elementwise(self._loss):
            require_equal_shapes(self.name, raw, targets)
        try:
            self._unreduced(raw, targets)
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            given = type(targets).__name__
            if isinstance(targets, Tensor):
                given = f"{targets.dtype} of shape {tuple(targets.shape)}"
            raise ValueError(
                f"{self.name} must take outputs of shape {tuple(raw.shape)} with "
                f"targets {given}; for the batch from sample {start} on PyTorch says: "
                f"{error}. Look at the targets, at the weights of the loss and at the "
                "number of outputs, or pass a callable of (raw output, targets)."
            ) from error

    @override
    def require_additive(self, raw: Tensor, targets: Any, start: int) -> None:
        terms = self._unreduced(raw, targets)
        if terms.numel() > raw.numel() or len(terms.reshape(-1)) < len(raw):
            raise ValueError(
                f"{self.name} must give terms for single samples; outputs of shape "
                f"{tuple(raw.shape)} gave {tuple(terms.shape)}. Do the targets have "
                "the shape that it needs?"
            )
        count = self.denominator(raw, targets) if self.is_mean else 1.0
        if count and not _close(self._loss(raw, targets) * count, terms.sum()):
            raise ValueError(
                f"{self.name} must be the mean or the sum of its terms over samples; "
                f"on the batch from sample {start} on it is not. Pass a callable that "
                "returns (sum, count)."
            )


@final
class CallableParts(LossParts):
    """A callable of raw outputs and targets, whose samples add up in a stated form.

    Args:
        loss: The callable.
        form: "mean" or "sum" over the samples of a batch, or "pair" if it returns
            (sum, count).
    """

    def __init__(self, loss: Loss, form: Form) -> None:
        self.name = loss_name(loss)
        self.is_mean = form != "sum"
        self._loss = loss
        self._form = form

    @override
    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        total, _ = call(self._loss, raw, targets)
        return total * len(raw) if self._form == "mean" else total

    @override
    def denominator(self, raw: Tensor, targets: Any) -> float:
        _, count = call(self._loss, raw, targets)
        return float(len(raw)) if count is None else count

    @override
    def per_sample(self, raw: Tensor, targets: Any) -> Float[Tensor, " sample"]:
        parts = [
            call(self._loss, raw[i : i + 1], take(targets, slice(i, i + 1), len(raw)))
            for i in range(len(raw))
        ]
        return torch.stack([total for total, _ in parts])

    @override
    def require_valid(self, raw: Tensor, targets: Any, start: int) -> None:
        """Nothing is known of what targets must be."""

    @override
    def require_additive(self, raw: Tensor, targets: Any, start: int) -> None:
        if self._form in forms_that_hold(self._loss, raw, targets):
            return
        if self._form == "pair":
            what = "sum and count that it returns must add up"
        else:
            what = f"value must be a {self._form} over samples"
        raise ValueError(
            f"the risk over a data set needs a loss whose {what} when a batch is cut "
            f"in two; those of {self.name} do not on the batch from sample {start} "
            "on. Let it return (sum, count) of single samples' terms."
        )


def forms_that_hold(loss: Loss, raw: Tensor, targets: Any) -> set[Form]:
    """Return the forms in which a callable's values on two halves make up the whole.

    Args:
        loss: The callable.
        raw: Raw outputs.
        targets: Targets.

    Returns:
        All that agree to √ε; all that are possible for a single sample.
    """
    size = len(raw)
    whole, count = call(loss, raw, targets)
    possible: set[Form] = {"mean", "sum"} if count is None else {"pair"}
    if size == 1:
        return possible
    cuts = [slice(0, size // 2), slice(size // 2, size)]
    parts = [call(loss, raw[cut], take(targets, cut, size)) for cut in cuts]
    sizes = [cut.stop - cut.start for cut in cuts]
    total = sum((value for value, _ in parts), torch.zeros_like(whole))
    if count is not None:
        counted = sum(float(part or 0) for _, part in parts)
        additive = _close(whole, total) and abs(counted - count) <= 1e-6 * abs(count)
        return {"pair"} if additive else set()
    pairs = zip(parts, sizes, strict=True)
    weighted = sum((v * n for (v, _), n in pairs), torch.zeros_like(whole))
    found: set[Form] = {"sum"} if _close(whole, total) else set()
    return found | ({"mean"} if _close(whole * size, weighted) else set())


def call(
    loss: Loss, raw: Tensor, targets: Any
) -> tuple[Float[Tensor, ""], float | None]:
    """Return a callable's value, or its sum and count.

    Args:
        loss: The callable.
        raw: Raw outputs.
        targets: Targets.

    Returns:
        A scalar, and the count if it returns one.

    Raises:
        ValueError: If it returns anything else.
    """
    value: Any = loss(raw, targets)
    count: float | None = None
    if isinstance(value, tuple):
        pair = cast("tuple[Any, ...]", value)
        if len(pair) == 2 and isinstance(pair[0], Tensor):
            value, count = pair[0], float(pair[1])
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = type(value).__name__
        if isinstance(value, Tensor):
            given = f"shape {tuple(value.shape)}"
        raise ValueError(
            f"a loss must give one number or a pair (sum, count), also for a batch of "
            f"one sample; {loss_name(loss)} gave {given}. Sum or average its terms."
        )
    return value.reshape(()), count


def torch_parts(loss: Loss) -> TorchParts | None:
    """Return the parts of a loss of torch, None for any other callable."""
    if isinstance(loss, nn.Module) and type(loss).__module__.startswith("torch.nn."):
        if not hasattr(loss, "reduction"):
            return None
        plain = cast("Any", copy.copy(loss))
        plain.reduction = "none"
        return TorchParts(loss, plain, str(cast("Any", loss).reduction))
    function = cast("Any", loss.func if isinstance(loss, partial) else loss)
    if getattr(function, "__module__", None) != "torch.nn.functional":
        return None
    if "reduction" not in signature(function).parameters:
        return None
    reduction = str(_options(loss).get("reduction", "mean"))
    return TorchParts(loss, partial(loss, reduction="none"), reduction)


def is_nll(loss: Loss) -> bool:
    """Return whether a loss is torch's negative log-likelihood of log-probabilities."""
    return _is_one_of(loss, (nn.NLLLoss, functional.nll_loss))


def is_elementwise(loss: Loss) -> bool:
    """Return whether a loss of torch has one target for every output."""
    return any(_is_one_of(loss, pair) for pair in _ELEMENTWISE)


def class_weight_sum(
    targets: Tensor, weight: Tensor | None, ignore_index: int
) -> float:
    """Return Σ w[target] over the targets that are not ignored."""
    kept = targets[targets != ignore_index].long()
    if weight is None:
        return float(len(kept))
    return float(wide_sum(weight.to(kept.device)[kept]))


def loss_name(loss: Loss) -> str:
    """Return what messages call a loss."""
    function = loss.func if isinstance(loss, partial) else loss
    return getattr(function, "__name__", type(loss).__name__)


def _is_one_of(loss: Loss, pair: tuple[type[nn.Module], Callable[..., Any]]) -> bool:
    kind, function = pair
    own = loss.func if isinstance(loss, partial) else loss
    return type(loss) is kind or own is function


def _options(loss: Loss) -> dict[str, Any]:
    if isinstance(loss, partial):
        return dict(loss.keywords)
    return dict(vars(loss)) | dict(getattr(loss, "_buffers", {}))


def _close(found: Tensor, expected: Tensor) -> bool:
    """Return whether two sums agree to √ε of the larger one."""
    scale = max(float(found.detach().abs()), float(expected.detach().abs()))
    gap = abs(float(found.detach()) - float(expected.detach()))
    return gap <= torch.finfo(found.dtype).eps ** 0.5 * scale
