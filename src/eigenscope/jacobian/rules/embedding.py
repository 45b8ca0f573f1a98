"""Rules for tables that are read by index: embeddings and bags of them."""

from collections.abc import Collection, Mapping
from typing import Any, final

import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor
from typing_extensions import override

from eigenscope.jacobian.rules.base import Rule, Use
from eigenscope.jacobian.rules.parts import PerSample, Scattered


@final
class Embedding(Rule):
    """y_t = W[index_t]: the cotangent goes to the row that was read."""

    name = "embedding"
    any_axis = True

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        return _embedding_use(*args, **kwargs) if output.ndim > 1 else None

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        del roles
        indices = use.inputs[0].flatten(1)
        values = cotangents.flatten(2, -2)
        values = _without_padding(values, indices, use.options["padding_idx"])
        return {"weight": Scattered(indices, values, len(use.weights["weight"]))}


@final
class EmbeddingBag(Rule):
    """y = Σ_t s_t W[index_t], or the mean over t, for bags of equal length."""

    name = "embedding bag"
    any_axis = False

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        return _bag_use(*args, **kwargs)

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        del roles
        indices = use.inputs[0]
        scale = cotangents.new_ones(indices.shape)
        padding = use.options["padding_idx"]
        if padding is not None:
            scale = scale * (indices != padding)
        if use.options["mode"] == "mean":
            scale = scale / scale.sum(-1, keepdim=True).clamp(min=1)
        if len(use.inputs) > 1:
            scale = scale * use.inputs[1]
        values = cotangents.unsqueeze(4).transpose(3, 4) * scale[:, None, :, :, None]
        weight = use.weights["weight"]
        flat = Scattered(indices.flatten(1), values.flatten(2, 3), len(weight))
        return {"weight": flat}


def _without_padding(values: Tensor, indices: Tensor, padding: int | None) -> Tensor:
    if padding is None:
        return values
    return values.masked_fill((indices == padding)[:, None, :, None], 0)


def _embedding_use(
    input: Tensor,  # noqa: A002 - torch's names
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,  # noqa: FBT001, FBT002
    sparse: bool = False,  # noqa: FBT001, FBT002
) -> Use | None:
    del max_norm, norm_type, sparse  # do not change the derivative
    if scale_grad_by_freq:
        return None
    options = {"padding_idx": _row(padding_idx, weight)}
    return Use(inputs=(input,), weights={"weight": weight}, options=options)


def _bag_use(
    input: Tensor,  # noqa: A002
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
) -> Use | None:
    del max_norm, norm_type, sparse, include_last_offset
    equal_bags = offsets is None and input.ndim == 2
    if scale_grad_by_freq or mode == "max" or not equal_bags:
        return None
    inputs = (input,) if per_sample_weights is None else (input, per_sample_weights)
    options = {"padding_idx": _row(padding_idx, weight), "mode": mode}
    return Use(inputs=inputs, weights={"weight": weight}, options=options)


def _row(padding_idx: int | None, weight: Tensor) -> int | None:
    if padding_idx is None:
        return None
    return padding_idx % len(weight)


RULES: Mapping[Any, Rule] = {
    F.embedding: Embedding(),
    F.embedding_bag: EmbeddingBag(),
}
