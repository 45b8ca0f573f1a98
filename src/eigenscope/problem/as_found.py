"""A network that comes back as it was from whatever is asked of it."""

import sys
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext
from typing import Any, Final, cast, final

import torch
from torch import Tensor, nn

from eigenscope.problem.random_state import rng_preserved

_INTERNAL: Final = frozenset(vars(nn.Module()))  # torch's own attributes of a module
_GRADIENT_HOOKS: Final = ("_backward_hooks", "_backward_pre_hooks")
_CONTAINERS: Final = (list, dict, set, deque, OrderedDict)


@contextmanager
def left_as_found(model: nn.Module, *, every_buffer: bool = False) -> Generator[None]:
    """Restore random states, and what passes through the model change or add.

    A module of torch updates its buffers in training mode at most; any other module
    may do so whenever it is called. `every_buffer` restores all, whoever runs inside.
    Buffers and attributes that a module makes when it is first called are taken away
    again: the next call of the owner of the model is the first one. Backward hooks of
    parameters and modules change gradients, and are off, as is compilation, whose
    gradients cannot be differentiated.
    """
    attributes = [_Attributes(module) for module in model.modules()]
    tensors = _kept_tensors(model, every_buffer=every_buffer)
    buffers = [
        (module, dict(module.named_buffers(recurse=False)))
        for module in model.modules()
    ]
    hooks_off = without_gradient_hooks(model.parameters(), model.modules())
    try:
        with rng_preserved(), hooks_off, _eagerly():
            yield
    finally:
        for module, found in buffers:
            _restore_buffers(module, found)
        for kept in attributes:
            kept.restore()
        with torch.no_grad():
            for tensor, value in tensors:
                if not torch.equal(tensor, value):
                    tensor.data.copy_(value)  # no new version: graphs stay valid


@final
class _Attributes:
    """What a module holds besides parameters, buffers, modules and hooks.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._all = vars(module)
        self._found = {k: v for k, v in self._all.items() if k not in _INTERNAL}
        self._contents = [
            (value, value.copy())
            for value in self._found.values()
            if type(value) in _CONTAINERS
        ]

    def restore(self) -> None:
        """Make everything what it was, in the same containers."""
        for name in self._all.keys() - self._found.keys() - _INTERNAL:
            del self._all[name]
        for name, value in self._found.items():
            if self._all.get(name) is not value:
                self._all[name] = value
        for container, content in self._contents:
            if not _holds(container, content):
                container.clear()
                fill: Any = getattr(container, "update", None) or container.extend
                fill(content)


def _holds(container: Any, content: Any) -> bool:
    """Return whether a container holds these very objects."""
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        kept = cast("dict[Any, Any]", content)
        return all(kept.get(k, kept) is v for k, v in container.items())
    if isinstance(container, set):
        return container == content
    return all(a is b for a, b in zip(container, content, strict=True))


def _kept_tensors(
    model: nn.Module, *, every_buffer: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return buffers and attributes that may be written into, each with a copy."""
    return [
        (tensor, tensor.detach().clone())
        for module in model.modules()
        if every_buffer
        or module.training
        or not type(module).__module__.startswith("torch.nn.")
        for tensor in [
            *module.buffers(recurse=False),
            *(value for value in vars(module).values() if isinstance(value, Tensor)),
        ]
    ]


def _restore_buffers(module: nn.Module, found: dict[str, Tensor]) -> None:
    """Give back the buffers that were there, and take away others."""
    for name, _ in list(module.named_buffers(recurse=False)):
        if name not in found:
            delattr(module, name)
    for name, buffer in found.items():
        if getattr(module, name, None) is not buffer:
            setattr(module, name, buffer)


@contextmanager
def without_gradient_hooks(
    parameters: Iterable[nn.Parameter], modules: Iterable[nn.Module] = ()
) -> Generator[None]:
    """Switch off hooks that see or change gradients, as those that clip them.

    Args:
        parameters: Whose own hooks are off.
        modules: Whose backward hooks are off.

    Yields:
        Nothing.
    """
    on_parameters: list[tuple[Any, Any]] = [
        (parameter, hooks)
        for parameter in parameters
        if (hooks := getattr(parameter, _GRADIENT_HOOKS[0]))
    ]
    on_modules: list[tuple[Any, Any]] = [
        (hooks, hooks.copy())
        for module in modules
        for name in _GRADIENT_HOOKS
        if (hooks := getattr(module, name, None))
    ]
    try:
        for parameter, _ in on_parameters:
            setattr(parameter, _GRADIENT_HOOKS[0], None)
        for hooks, _ in on_modules:
            hooks.clear()
        yield
    finally:
        for parameter, hooks in on_parameters:
            setattr(parameter, _GRADIENT_HOOKS[0], hooks)
        for hooks, content in on_modules:
            hooks.update(content)


def _eagerly() -> Any:
    """Return a context in which compiled modules run as they were written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
