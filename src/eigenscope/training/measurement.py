"""One measurement of a network that is being trained, and cannot tell."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eigenscope.problem import (
    DataChangedError,
    left_as_found,
    require_initialized,
    state_digest,
)
from eigenscope.spectra import Spectrum

Mode = Literal["eval", "as_is"]
_COMPILED: Final = "_orig_mod"  # what torch.compile(model) holds the model by


@runtime_checkable
class Estimated(Protocol):
    """A number with its standard error, such as `es.trace` gives."""

    @property
    def value(self) -> Any:
        """The number."""
        ...

    @property
    def stderr(self) -> Any:
        """Its standard error."""
        ...


Measured = float | Tensor | Estimated | Spectrum | Mapping[str, Any]
Measure = Callable[[nn.Module], Measured]


@runtime_checkable
class Composed(Protocol):
    """A measure that says which calls it makes, so that they can be planned."""

    def calls(self, model: nn.Module) -> Mapping[str, "partial[Any]"]:
        """Return the calls on a network by what they find."""
        ...


def measured(
    model: nn.Module, name: str, measure: Measure, mode: Mode
) -> dict[str, object]:
    """Return what a measure finds, by full names; the network is left as it was.

    Automatic mixed precision, compilation and hooks on gradients are off while it is
    measured, and gradients are on.

    Args:
        model: The network.
        name: Of the measure.
        measure: The measure.
        mode: "eval" puts the network in eval mode for it.

    Returns:
        The name, with the keys of mappings after slashes, to values.

    Raises:
        DataChangedError: If the measure changes a weight.
        ValueError: If weights have no shapes yet.
    """
    model = getattr(model, _COMPILED, model)  # whose names are the parameters' own
    require_initialized(model)
    with _untouched(model, mode, name):
        return dict(_flattened(name, measure(model)))


def plain_number(name: str, value: Any) -> float | None:
    """Return a finite number, None for another; a tensor of one element is one.

    Args:
        name: Of the value, for the message.
        value: What a measure gave.

    Returns:
        The number.

    Raises:
        TypeError: If it is no number.
    """
    plain = value.detach() if isinstance(value, Tensor) else value
    try:
        number = float(plain)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "a measure must give a number, a Spectrum, an estimate with value and "
            f"stderr, or a mapping of these; {name!r} gave {type(value).__name__}."
        ) from error
    return number if math.isfinite(number) else None


def _flattened(name: str, found: object) -> Iterator[tuple[str, object]]:
    if not isinstance(found, Mapping):
        yield name, found
        return
    for key, value in found.items():
        yield from _flattened(f"{name}/{key}", value)


@contextmanager
def _untouched(model: nn.Module, mode: Mode, name: str) -> Generator[None]:
    """Give back mode, gradients and random states; refuse changed weights."""
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    device = parameters[0][0].device.type if parameters else "cpu"
    before = state_digest(model)
    try:
        with (
            left_as_found(model, every_buffer=True),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            if mode == "eval":
                model.eval()
            for parameter, _, _ in parameters:
                parameter.grad = None
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient, required in parameters:
            parameter.grad = gradient
            parameter.requires_grad = required
    if state_digest(model) != before:
        raise DataChangedError(
            "a measure must leave the network as it is; weights have changed "
            f"during {name!r}. Work on a copy: copy.deepcopy(model)."
        )
