"""Convolutions whose second derivative runs in the kernels of their first one.

Autograd takes the derivative of a convolution's gradient by the weight as a
convolution with kernels as large as the image: the same sum as a weight gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Options = tuple[list[int], list[int], list[int], int]
Found = tuple[Tensor | None, Tensor | None, Tensor | None]


def convolution(
    input: Tensor,  # noqa: A002 - torch's names
    weight: Tensor,
    bias: Tensor | None,
    options: Options,
) -> Tensor:
    """Return a convolution that can be differentiated twice at the price of two.

    Args:
        input: (sample, channel, *place).
        weight: (channel out, channel in per group, *offset).
        bias: (channel out), or None.
        options: Stride, padding, dilation and groups.

    Returns:
        (sample, channel out, *place).
    """
    # Views are nodes of the graph, which tell whether a pass needs their gradient.
    own = weight.view_as(weight)
    shift = None if bias is None else bias.view_as(bias)
    result: Any = _Convolution.apply(input, own, shift, options)
    return result


def _forward(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None,
    options: Options,
) -> Tensor:
    stride, padding, dilation, groups = options
    zeros = [0] * len(stride)
    return torch.ops.aten.convolution(
        input,
        weight,
        bias,
        stride,
        padding,
        dilation,
        transposed=False,
        output_padding=zeros,
        groups=groups,
    )


def _gradients(
    cotangent: Tensor,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    options: Options,
    mask: list[bool],
) -> Found:
    """Return the derivatives by input, weight and bias that are asked for."""
    stride, padding, dilation, groups = options
    zeros = [0] * len(stride)
    return torch.ops.aten.convolution_backward(
        cotangent,
        input,
        weight,
        [weight.shape[0]],
        stride,
        padding,
        dilation,
        transposed=False,
        output_padding=zeros,
        groups=groups,
        output_mask=mask,
    )


def _needed(ctx: Any, count: int) -> list[bool]:
    """Return which of the first inputs the present pass through the graph needs.

    `needs_input_grad` tells what any pass may need.
    """
    is_executed: Any = torch._C._will_engine_execute_node  # type: ignore[attr-defined]  # noqa: SLF001
    found: list[bool] = []
    for wanted, (node, _) in zip(
        ctx.needs_input_grad, ctx.next_functions, strict=False
    ):
        if wanted and node is not None and not hasattr(node, "variable"):
            wanted = is_executed(node)  # noqa: PLW2901
        found.append(wanted)
    return [*found, *[False] * count][:count]  # a bias that is None has no node


def convolution_weight_gradient(
    cotangent: Tensor,
    input: Tensor,  # noqa: A002 - torch's names
    weight: Tensor,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the derivative of a convolution by its weight, times a cotangent.

    Args:
        cotangent: Cotangent at the output, (sample, channel, *position).
        input: The input.
        weight: Any tensor of the weight's shape.
        stride: Steps from one position to the next.
        padding: Zeros on both sides of each axis.
        dilation: Steps between the kernel's entries.
        groups: Groups of channels that don't meet.

    Returns:
        A new tensor of the weight's shape.
    """
    options = list(stride), list(padding), list(dilation), groups
    _, found, _ = _gradients(cotangent, input, weight, options, [False, True, False])
    assert found is not None
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        input, weight, bias, options = args  # noqa: A001
        ctx.save_for_backward(input, weight)
        ctx.options = options
        return _forward(input, weight, bias, options)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        input, weight = ctx.saved_tensors  # noqa: A001
        mask = _needed(ctx, 3)
        found: Any = _ConvolutionBackward.apply(
            grads[0], input, weight, ctx.options, mask
        )
        return (*found, None)


class _ConvolutionBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        cotangent, input, weight, options, mask = args  # noqa: A001
        ctx.save_for_backward(cotangent, input, weight)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return _gradients(cotangent, input, weight, options, mask)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cotangent, input, weight = ctx.saved_tensors  # noqa: A001
        by_input, by_weight, _ = grads
        needed = _needed(ctx, 3)
        outer: Tensor | None = None
        to_input: Tensor | None = None
        to_weight: Tensor | None = None
        if needed[0]:
            outer = _tangent(ctx.saved_tensors, grads, ctx.options)
        if needed[1] and by_weight is not None:
            to_input, _, _ = _gradients(
                cotangent, input, by_weight, ctx.options, [True, False, False]
            )
        if needed[2] and by_input is not None:
            _, to_weight, _ = _gradients(
                cotangent, by_input, weight, ctx.options, [False, True, False]
            )
        return outer, to_input, to_weight, None, None


def _tangent(
    saved: tuple[Tensor, Tensor, Tensor], tangents: Found, options: Options
) -> Tensor | None:
    """Return the convolution's derivative along tangents of all that enters it."""
    cotangent, input, weight = saved  # noqa: A001
    by_input, by_weight, by_bias = tangents
    found: Tensor | None = None
    if by_weight is not None:
        found = _forward(input, by_weight, by_bias, options)
    elif by_bias is not None:
        found = by_bias.reshape(-1, *[1] * len(options[0])).expand_as(cotangent)
    if by_input is not None:
        other = _forward(by_input, weight, None, options)
        found = other if found is None else other.add_(found)
    return found
