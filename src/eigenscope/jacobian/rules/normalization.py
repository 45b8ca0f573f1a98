"""Rules for normalizations: y = x̂ ∘ w + b with x̂ the same function without w and b."""

from collections.abc import Callable, Collection, Mapping
from inspect import signature
from typing import Any, final

import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor
from typing_extensions import override

from eigenscope.jacobian.layout import Layout
from eigenscope.jacobian.rules.base import Rule, Use
from eigenscope.jacobian.rules.parts import PerSample, Plain


@final
class ChannelNorm(Rule):
    """Normalizations with one weight per channel, axis 1: batch, group and instance."""

    any_axis = False

    def __init__(self, function: Callable[..., Tensor], name: str) -> None:
        self.name = name
        self._function = function

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        del output  # one that normalizes by the batch mixes samples: refused elsewhere
        return _norm_use(self._function, args, kwargs)

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        result: dict[str, PerSample] = {}
        flat = cotangents.flatten(4) if cotangents.ndim > 4 else cotangents.unsqueeze(4)
        if "weight" in roles:
            rows = use.inputs[0].flatten(0, 1)
            normalized = self._function(rows, **use.options)
            normalized = normalized.reshape(len(flat), 1, *flat.shape[2:])
            result["weight"] = Plain((flat * normalized).sum((2, 4)))
        if "bias" in roles:
            result["bias"] = Plain(flat.sum((2, 4)))
        return result


@final
class FeatureNorm(Rule):
    """Normalizations with one weight per entry of the last axes: layer and RMS."""

    any_axis = True

    def __init__(self, function: Callable[..., Tensor], name: str) -> None:
        self.name = name
        self._function = function

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        return _norm_use(self._function, args, kwargs)

    @override
    def accepts(self, use: Use, output_shape: tuple[int, ...], layout: Layout) -> bool:
        return layout.axis < len(output_shape) - len(use.options["normalized_shape"])

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        result: dict[str, PerSample] = {}
        last = -len(use.options["normalized_shape"])
        flat = cotangents.flatten(2, last - 1)
        if "weight" in roles:
            normalized = self._function(use.inputs[0], **use.options)
            normalized = normalized.flatten(1, last - 1).unsqueeze(1)
            result["weight"] = Plain((flat * normalized).sum(2))
        if "bias" in roles:
            result["bias"] = Plain(flat.sum(2))
        return result


def _norm_use(
    function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Use:
    given = signature(function).bind(*args, **kwargs).arguments
    roles = ("weight", "bias")
    weights = {role: given[role] for role in roles if given.get(role) is not None}
    options = {k: v for k, v in given.items() if k not in {"input", *roles}}
    return Use(inputs=(given["input"],), weights=weights, options=options)


RULES: Mapping[Any, Rule] = {
    F.batch_norm: ChannelNorm(F.batch_norm, "batch norm"),
    F.group_norm: ChannelNorm(F.group_norm, "group norm"),
    F.instance_norm: ChannelNorm(F.instance_norm, "instance norm"),
    F.layer_norm: FeatureNorm(F.layer_norm, "layer norm"),
    F.rms_norm: FeatureNorm(F.rms_norm, "RMS norm"),
}
