"""Layers recorded in other ways than torch's, with the same values to rounding.

- Convolutions by a function whose second derivative is quick.
- Batch normalization by stored statistics, a fixed scale and shift, as part of the
  convolution before it: no pass over the activations is left of it.
- Images with channels last, in which convolutions on a CPU are quicker. Not where
  maxima are taken: among tied ones the order of memory decides.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from eigenscope.autodiff.convolution import Options, convolution

_DIMENSIONS: Final[Mapping[Any, int]] = {
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """Which of them are taken.

    Attributes:
        convolutions: Convolutions by our own function.
        normalization: Batch normalization as part of the convolution before it.
        channels_last: Images with channels last.
    """

    convolutions: bool = False
    normalization: bool = False
    channels_last: bool = False

    @property
    def names(self) -> list[str]:
        """Those that are taken."""
        texts = {
            "quick convolutions": self.convolutions,
            "folded normalization": self.normalization,
            "channels last": self.channels_last,
        }
        return [name for name, taken in texts.items() if taken]

    def active(self) -> AbstractContextManager[Any]:
        """Return a context in which they are taken."""
        return ShortcutMode(self) if self.names else nullcontext()


@final
class _Convolved(NamedTuple):
    """The last convolution, what it was made of, and how often it was written to."""

    result: Tensor
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    options: Options
    version: int


@final
class ShortcutMode(TorchFunctionMode):
    """The mode in which layers are recorded by shortcuts.

    Args:
        shortcuts: Which.

    Attributes:
        num_convolutions: Convolutions that could be recorded by our own function.
        num_normalizations: Normalizations by stored statistics.
        takes_maxima: Whether maxima over places were taken.
    """

    def __init__(self, shortcuts: Shortcuts) -> None:
        super().__init__()
        self._taken = shortcuts
        self._last: _Convolved | None = None
        self.num_convolutions = self.num_normalizations = 0
        self.takes_maxima = False

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        found: Tensor | None = None
        if func in _DIMENSIONS:
            found = self._convolution(_DIMENSIONS[func], *args, **keywords)
        elif func is functional.batch_norm:
            found = self._normalization(*args, **keywords)
        elif "max_pool" in getattr(func, "__name__", ""):
            self.takes_maxima = True
        return func(*args, **keywords) if found is None else found

    def _convolution(
        self,
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
        self.num_convolutions += 1
        if dimension == 2 and self._taken.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)  # noqa: A001
        options = (
            _expanded(stride, dimension),
            _expanded(padding, dimension),
            _expanded(dilation, dimension),
            groups,
        )
        result = self._convolved(input, weight, bias, options)
        self._last = _Convolved(result, input, weight, bias, options, _writes(result))
        return result

    def _convolved(
        self,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None,
        options: Options,
    ) -> Tensor:
        if self._taken.convolutions:
            return convolution(input, weight, bias, options)
        functions = {dimension: func for func, dimension in _DIMENSIONS.items()}
        return functions[len(options[0])](input, weight, bias, *options)

    def _normalization(
        self,
        input: Tensor,  # noqa: A002 - torch's names
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,  # noqa: FBT001, FBT002
        momentum: float | None = None,
        eps: float = 1e-5,
    ) -> Tensor | None:
        """Return the normalized input, None where torch's own has to serve."""
        del momentum  # of the statistics, which stay
        if training or running_mean is None or running_var is None:
            return None
        if running_mean.dtype != input.dtype:
            return None
        self.num_normalizations += 1
        if not self._taken.normalization:
            return None
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else weight * scale
        shift = -running_mean * scale
        shift = shift if bias is None else bias + shift
        last = self._last
        if last is None or last.result is not input or last.version != _writes(input):
            places = [1] * (input.ndim - 2)
            return input * scale.view(-1, *places) + shift.view(-1, *places)
        self._last = None
        offset = shift if last.bias is None else shift + last.bias * scale
        scaled = last.weight * scale.view(-1, *[1] * (last.weight.ndim - 1))
        return self._convolved(last.input, scaled, offset, last.options)


def _writes(tensor: Tensor) -> int:
    """Return how often a tensor was written to."""
    return tensor._version  # noqa: SLF001 - autograd's own count


def _expanded(value: Any, dimension: int) -> list[int]:
    several = [value] if isinstance(value, int) else list(value)
    return several * dimension if len(several) == 1 else several
