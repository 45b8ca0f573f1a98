"""Bags of embeddings, made of operations that can be differentiated twice."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override


def twice_differentiable_bags(model: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which a model's bags have second derivatives.

    torch's own function has none; its values are the same.

    Args:
        model: The network.

    Returns:
        The context, which does nothing for models without bags.
    """
    has_bags = any(isinstance(m, nn.EmbeddingBag) for m in model.modules())
    return _BagMode() if has_bags else nullcontext()


@final
class _BagMode(TorchFunctionMode):
    """Takes `embedding_bag` apart."""

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.embedding_bag:
            return _bag(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _bag(
    input: Tensor,  # noqa: A002 - torch's names
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,  # noqa: FBT001, FBT002
    mode: str = "mean",
    sparse: bool = False,  # noqa: FBT001, FBT002
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,  # noqa: FBT001, FBT002
    padding_idx: int | None = None,
) -> Tensor:
    """Σ_t s_t W[index_t] of each bag, the mean over t, or the maximum."""
    del scale_grad_by_freq, sparse  # these tell an optimizer something
    if offsets is None:
        places = torch.arange(input.numel(), device=input.device).view(input.shape)
        counted = torch.ones_like(input, dtype=torch.bool)
    else:
        places, counted = _ragged(input, offsets, has_last=include_last_offset)
    indices = input.reshape(-1)[places]
    if padding_idx is not None:
        row = padding_idx if padding_idx >= 0 else len(weight) + padding_idx
        counted = counted & (indices != row)
    rows = functional.embedding(indices, weight, max_norm=max_norm, norm_type=norm_type)
    is_counted = counted.unsqueeze(-1)
    if mode == "max":
        if not rows.shape[1]:
            return rows.new_zeros(len(rows), rows.shape[2])
        largest = rows.masked_fill(~is_counted, -torch.inf).max(1).values
        return torch.where(is_counted.any(1), largest, 0.0)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1)[places].unsqueeze(-1)
    total = torch.where(is_counted, rows, 0.0).sum(1)
    return total if mode == "sum" else total / is_counted.sum(1).clamp(min=1)


def _ragged(flat: Tensor, offsets: Tensor, *, has_last: bool) -> tuple[Tensor, Tensor]:
    """Return places of each bag's entries, as wide as the longest, and which count."""
    if not has_last:
        offsets = torch.cat([offsets, offsets.new_tensor([len(flat)])])
    starts, lengths = offsets[:-1], offsets.diff()
    steps = torch.arange(int(lengths.max()) if len(lengths) else 0, device=flat.device)
    counted = steps < lengths.unsqueeze(1)
    places = torch.where(counted, starts.unsqueeze(1) + steps, 0)
    return places, counted
