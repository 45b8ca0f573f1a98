"""Convolutions whose second derivative runs in the kernels of their first one.

Autograd takes the derivative of a convolution's gradient by the weight as a
convolution with kernels as large as the image: the same sum as a weight gradient.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

Options = tuple[list[int], list[int], list[int], int]

_DIMENSIONS: Final[Mapping[Any, int]] = {
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
}


@contextmanager
def quick_convolutions(*, wanted: bool) -> Generator["QuickConvolutions"]:
    """Record convolutions so that their second derivatives are quick, if wanted."""
    mode = QuickConvolutions()
    if wanted:
        with mode:
            yield mode
    else:
        yield mode


@final
class QuickConvolutions(TorchFunctionMode):
    """The mode in which convolutions of torch are recorded by our own function.

    Attributes:
        count: How many were.
    """

    count = 0

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func in _DIMENSIONS:
            found = _quick(_DIMENSIONS[func], *args, **keywords)
            if found is not None:
                self.count += 1
                return found
        return func(*args, **keywords)


def _quick(
    dimension: int,
    input: Tensor,  # noqa: A002 - torch's names
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Return the convolution, None where torch's own has to serve."""
    if isinstance(padding, str) or input.ndim != dimension + 2:
        return None
    options = (
        _expanded(stride, dimension),
        _expanded(padding, dimension),
        _expanded(dilation, dimension),
        groups,
    )
    result: Tensor = _Convolution.apply(input, weight, options)  # type: ignore[assignment]
    if bias is None:
        return result
    return result + bias.view(-1, *[1] * dimension)


def _expanded(value: Any, dimension: int) -> list[int]:
    several = [value] if isinstance(value, int) else list(value)
    return several * dimension if len(several) == 1 else several


def _forward(input: Tensor, weight: Tensor, options: Options) -> Tensor:  # noqa: A002
    stride, padding, dilation, groups = options
    zeros = [0] * len(stride)
    return torch.ops.aten.convolution(
        input,
        weight,
        None,
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
) -> tuple[Tensor | None, Tensor | None]:
    """Return the derivatives by input and weight that are asked for."""
    stride, padding, dilation, groups = options
    zeros = [0] * len(stride)
    found = torch.ops.aten.convolution_backward(
        cotangent,
        input,
        weight,
        None,
        stride,
        padding,
        dilation,
        transposed=False,
        output_padding=zeros,
        groups=groups,
        output_mask=[*mask, False],
    )
    return found[0], found[1]


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
    _, found = _gradients(cotangent, input, weight, options, [False, True])
    assert found is not None
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        input, weight, options = args  # noqa: A001
        ctx.save_for_backward(input, weight)
        ctx.options = options
        return _forward(input, weight, options)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        input, weight = ctx.saved_tensors  # noqa: A001
        mask = list(ctx.needs_input_grad[:2])
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
        by_input, by_weight = grads
        wanted = ctx.needs_input_grad
        outer: Tensor | None = None
        to_input: Tensor | None = None
        to_weight: Tensor | None = None
        if by_input is not None:
            if wanted[0]:
                outer = _forward(by_input, weight, ctx.options)
            if wanted[2]:
                _, to_weight = _gradients(
                    cotangent, by_input, weight, ctx.options, [False, True]
                )
        if by_weight is not None:
            if wanted[0]:
                other = _forward(input, by_weight, ctx.options)
                outer = other if outer is None else outer.add_(other)
            if wanted[1]:
                to_input, _ = _gradients(
                    cotangent, input, by_weight, ctx.options, [True, False]
                )
        return outer, to_input, to_weight, None, None
