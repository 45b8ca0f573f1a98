"""Rules for weights that act entry by entry: scales, shifts, tokens, PReLU slopes."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor
from typing_extensions import override

from eigenscope.jacobian.layout import Layout
from eigenscope.jacobian.rules.base import Rule, Use
from eigenscope.jacobian.rules.parts import PerSample, Plain

_Operation = Literal["add", "sub", "mul", "div"]


@final
class Broadcast(Rule):
    """y = x ∘ w for a weight that is repeated along the samples; ∘ is +, -, · or /."""

    any_axis = True

    def __init__(self, operation: _Operation) -> None:
        self.name = operation
        self._operation: _Operation = operation

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        if kwargs or len(args) != 2 or not all(isinstance(a, Tensor) for a in args):
            return None
        first, second = args
        place = _repeated(first, second, output)
        if place is None:
            return None
        weight, x = (first, second) if place == 0 else (second, first)
        scaled = self._operation in {"mul", "div"}
        inputs = (x.broadcast_to(output.shape),) if scaled else ()
        return Use(inputs=inputs, weights={"weight": weight}, options={"place": place})

    @override
    def accepts(self, use: Use, output_shape: tuple[int, ...], layout: Layout) -> bool:
        return _is_repeated(use.weights["weight"], len(output_shape), layout.axis)

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        del roles
        weight, first = use.weights["weight"], use.options["place"] == 0
        g, axis = cotangents, use.axis
        if self._operation == "sub" and not first:
            g = -g
        if use.inputs:
            x = use.inputs[0].unsqueeze(1)
            if self._operation == "mul":
                g = g * x
            elif first:
                g = g / x
            else:
                g = -g * x / _wide(weight, g.ndim, axis).square()
        return {"weight": Plain(_reduced(g, weight, axis))}


@final
class Repeat(Rule):
    """y = w repeated along the samples, as a class token is: every sample's own g."""

    name = "repeat"
    any_axis = True

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        if not args:
            return None
        weight = args[0]
        sizes = (1,) * (output.ndim - weight.ndim) + tuple(weight.shape)
        repeats = zip(sizes, output.shape, strict=True)
        if not all(size in {1, length} for size, length in repeats):
            return None
        return Use(inputs=(), weights={"weight": weight})

    @override
    def accepts(self, use: Use, output_shape: tuple[int, ...], layout: Layout) -> bool:
        return _is_repeated(use.weights["weight"], len(output_shape), layout.axis)

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        del roles
        weight, axis = use.weights["weight"], use.axis
        return {"weight": Plain(_reduced(cotangents, weight, axis))}


@final
class Slope(Rule):
    """PReLU, y = max(x, 0) + w min(x, 0), one w or one per channel."""

    name = "PReLU"
    any_axis = False

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        return _slope_use(*args, **kwargs) if output.ndim > 1 else None

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        del roles
        weight = use.weights["weight"]
        values = cotangents * use.inputs[0].clamp(max=0).unsqueeze(1)
        if weight.numel() == 1:
            values = values.flatten(2).sum(2)
        else:
            values = values.flatten(4) if values.ndim > 4 else values.unsqueeze(4)
            values = values.sum((2, 4))
        return {"weight": Plain(values.reshape(*values.shape[:2], *weight.shape))}


def _slope_use(input: Tensor, weight: Tensor) -> Use:  # noqa: A002 - torch's names
    return Use(inputs=(input,), weights={"weight": weight})


def _repeated(first: Tensor, second: Tensor, output: Tensor) -> int | None:
    """Return which operand is repeated along the samples on axis 0, or else axis 1."""
    for axis in range(min(2, output.ndim)):
        alone = [_is_repeated(t, output.ndim, axis) for t in (first, second)]
        if output.shape[axis] > 1 and alone[0] != alone[1]:
            place = alone.index(True)
            if (first, second)[place].requires_grad:
                return place
    return None


def _is_repeated(weight: Tensor, ndim: int, axis: int) -> bool:
    own = axis - (ndim - weight.ndim)
    return own < 0 or weight.shape[own] == 1


def _wide(weight: Tensor, ndim: int, axis: int) -> Tensor:
    """Return the weight with the axes of cotangents (sample, output, repeat, *rest)."""
    num_axes = ndim - 2 + axis  # of the call's output
    weight = weight.reshape((1,) * (num_axes - weight.ndim) + tuple(weight.shape))
    if axis == 1:
        weight = weight.squeeze(1)
    return weight.reshape((1,) * (ndim - weight.ndim) + tuple(weight.shape))


def _reduced(g: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Sum cotangents over the axes along which the weight is repeated."""
    sizes = _wide(weight, g.ndim, axis).shape
    own = g.sum_to_size(*g.shape[:2], *sizes[2:])
    return own.reshape(*g.shape[:2], *weight.shape)


_REPEAT, _SLOPE = Repeat(), Slope()
_OPERATIONS: tuple[tuple[_Operation, tuple[Any, ...]], ...] = (
    ("add", (torch.add, torch.Tensor.add)),
    ("sub", (torch.sub, torch.Tensor.sub)),
    ("mul", (torch.mul, torch.Tensor.mul, torch.multiply)),
    ("div", (torch.div, torch.Tensor.div, torch.true_divide)),
)
RULES: Mapping[Any, Rule] = {
    **{f: Broadcast(name) for name, functions in _OPERATIONS for f in functions},
    torch.Tensor.expand: _REPEAT,
    torch.Tensor.expand_as: _REPEAT,
    torch.Tensor.repeat: _REPEAT,
    torch.Tensor.broadcast_to: _REPEAT,
    torch.broadcast_to: _REPEAT,
    torch.prelu: _SLOPE,
}
