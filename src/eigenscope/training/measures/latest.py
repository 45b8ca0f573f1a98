"""The last result of a measure, for others that are derived from it."""

from collections.abc import Callable
from typing import Generic, TypeVar, final

from torch import nn

from eigenscope.problem import state_digest

Result = TypeVar("Result")


@final
class Latest(Generic[Result]):
    """A function of a network, called again only when the network has changed.

    Args:
        compute: The function.
    """

    def __init__(self, compute: Callable[[nn.Module], Result]) -> None:
        self._compute = compute
        self._state: tuple[int, str, tuple[bool, ...], tuple[bool, ...]] | None = None
        self._found: Result

    def __call__(self, model: nn.Module) -> Result:
        """Return the result for the network as it is now."""
        modes = tuple(module.training for module in model.modules())
        trained = tuple(parameter.requires_grad for parameter in model.parameters())
        now = (id(model), state_digest(model), modes, trained)
        if self._state != now:
            self._state, self._found = None, self._compute(model)
            self._state = now
        return self._found
