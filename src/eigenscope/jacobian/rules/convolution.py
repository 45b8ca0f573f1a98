"""Rules for convolutions and transposed ones in one, two and three dimensions."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor
from typing_extensions import override

from eigenscope.jacobian.rules.base import Rule, Use
from eigenscope.jacobian.rules.parts import Outer, PerSample, Plain
from eigenscope.jacobian.rules.patches import Convolved, Geometry, patches

_Sizes = int | Sequence[int]


class _Windows(Rule):
    """A rule of weights that are slid over the axes behind the channels."""

    any_axis = False

    @abstractmethod
    def use(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Use:
        """Take a call apart."""

    @abstractmethod
    def weight_gradients(self, use: Use, cotangents: Tensor) -> PerSample:
        """Return the per-sample gradients of the weights that are slid."""

    @final
    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        use = self.use(args, kwargs)
        return use if output.ndim == use.weights["weight"].ndim else None

    @final
    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        result: dict[str, PerSample] = {}
        if "bias" in roles:
            result["bias"] = Plain(cotangents.flatten(4).sum((2, 4)))
        if "weight" in roles:
            result["weight"] = self.weight_gradients(use, cotangents)
        return result


@final
class Convolution(_Windows):
    """y = w * x + b: cotangents times patches of the input.

    Padding modes other than zeros are a separate function call that comes before.
    """

    name = "convolution"

    @override
    def use(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Use:
        return _convolution_use(*args, **kwargs)

    @override
    def weight_gradients(self, use: Use, cotangents: Tensor) -> PerSample:
        geometry, images = use.options["geometry"], use.inputs[0]
        shape = tuple(use.weights["weight"].shape)
        return Convolved(images, cotangents, geometry, shape)


@final
class TransposedConvolution(_Windows):
    """y = wᵀ * x + b: inputs times patches of the cotangent."""

    name = "transposed convolution"

    @override
    def use(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Use:
        return _transposed_use(*args, **kwargs)

    @override
    def weight_gradients(self, use: Use, cotangents: Tensor) -> PerSample:
        geometry, x = use.options["geometry"], use.inputs[0]
        padded = F.pad(cotangents.flatten(0, 1), geometry.padding)
        right = patches(padded, tuple(x.shape[3:]), geometry)
        right = right.unflatten(0, cotangents.shape[:2])
        left = x.flatten(3).unflatten(2, (geometry.groups, -1))
        left = left.permute(0, 2, 1, 4, 3).flatten(2, 3).unsqueeze(1)
        return Outer(left, right, tuple(use.weights["weight"].shape))


def _convolution_use(
    input: Tensor,  # noqa: A002 - torch's names
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes | str = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Use:
    num_axes = weight.ndim - 2
    steps = _sizes(dilation, num_axes)
    if isinstance(padding, str):
        spans = [d * (k - 1) for d, k in zip(steps, weight.shape[2:], strict=True)]
        both = [(s // 2, s - s // 2) if padding == "same" else (0, 0) for s in spans]
    else:
        both = [(p, p) for p in _sizes(padding, num_axes)]
    geometry = Geometry(
        kernel=tuple(weight.shape[2:]),
        stride=_sizes(stride, num_axes),
        dilation=steps,
        groups=groups,
        padding=list(chain.from_iterable(reversed(both))),
    )
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Use(inputs=(input,), weights=weights, options={"geometry": geometry})


def _transposed_use(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    output_padding: _Sizes = 0,
    groups: int = 1,
    dilation: _Sizes = 1,
) -> Use:
    del output_padding  # the size of the cotangent tells
    return _convolution_use(input, weight, bias, stride, padding, dilation, groups)


def _sizes(value: _Sizes, num_axes: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * num_axes
    given = tuple(value)
    return given * num_axes if len(given) == 1 else given


_CONVOLUTION, _TRANSPOSED = Convolution(), TransposedConvolution()
RULES: Mapping[Any, Rule] = {
    torch.conv1d: _CONVOLUTION,
    torch.conv2d: _CONVOLUTION,
    torch.conv3d: _CONVOLUTION,
    torch.conv_transpose1d: _TRANSPOSED,
    torch.conv_transpose2d: _TRANSPOSED,
    torch.conv_transpose3d: _TRANSPOSED,
}
