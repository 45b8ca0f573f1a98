"""One forward pass that notes every call in which data meets weights."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, final

import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from eigenscope.jacobian.rules import (
    FUNCTION_RULES,
    MODULE_RULES,
    Rule,
    Use,
    WholeModule,
)


@dataclass(slots=True, kw_only=True)
class Call:
    """A call that a rule has taken apart, and its place in the autograd graph.

    Attributes:
        rule: The rule.
        use: Its data and weights; weights that need no gradient are left out.
        edge: The output, before anything changes it in place.
        output_shape: Shape of the output.
        inner: Graph nodes that the call itself made.
        versions: Version counters of the inputs.
    """

    rule: Rule
    use: Use
    edge: GradientEdge
    output_shape: tuple[int, ...]
    inner: set[Node]
    versions: tuple[int, ...]

    def is_intact(self) -> bool:
        """Return whether no input was changed in place since the call."""
        return self.versions == _versions(self.use)

    def signature(self) -> tuple[object, ...]:
        """Return what stays the same for the same call on other samples."""
        shapes = tuple((k, tuple(w.shape)) for k, w in self.use.weights.items())
        return self.rule.name, len(self.output_shape), shapes


@contextmanager
def capturing(model: nn.Module) -> Generator[list[Call]]:
    """Note the calls that rules apply to while the model runs.

    Args:
        model: The network; its modules with rules of their own are watched.

    Yields:
        The calls, in the order in which they are made.
    """
    mode = _Capture()
    handles: list[Any] = []
    for module in model.modules():
        rule = MODULE_RULES.get(type(module))
        if rule is not None:
            watch = _Watch(mode, WholeModule(module, rule))
            handles += watch.register(module)
    try:
        with mode:
            yield mode.calls
    finally:
        for handle in handles:
            handle.remove()


@final
class _Capture(TorchFunctionMode):
    """Sees every torch function that runs, and asks its rule, if there is one.

    Functions of torch that are made of others (attention) are opened, so that their
    linear maps are seen. Inside a module with a rule of its own nothing is noted.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.depth = 0

    @override
    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _OPENED_ATTENTION(*args, **options)
        result = func(*args, **options)
        if self.depth == 0:
            rule = FUNCTION_RULES.get(func)
            if rule is not None:
                self.note(rule, args, options, result)
        return result

    def note(
        self, rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Remember a call if its output has a gradient and the rule takes it."""
        if not isinstance(output, Tensor) or output.grad_fn is None:
            return
        use = rule.take(args, kwargs, output)
        if use is None:
            return
        use.weights = {k: w for k, w in use.weights.items() if w.requires_grad}
        if not use.weights:
            return
        edge = get_gradient_edge(output)
        outside = set(_edges_of((args, kwargs)))
        self.calls.append(
            Call(
                rule=rule,
                use=use,
                edge=edge,
                output_shape=tuple(output.shape),
                inner=_inner_nodes(edge.node, outside),
                versions=_versions(use),
            )
        )


@final
class _Watch:
    """Notes the calls of one module that has a rule of its own."""

    def __init__(self, mode: _Capture, rule: WholeModule) -> None:
        self._mode = mode
        self._rule = rule

    def register(self, module: nn.Module) -> list[Any]:
        """Return handles of hooks that see the forward itself, inside other hooks."""
        return [
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(
                self._leave, prepend=True, with_kwargs=True, always_call=True
            ),
        ]

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        del module, args
        self._mode.depth += 1

    def _leave(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        del module
        self._mode.depth -= 1
        if self._mode.depth == 0:
            self._mode.note(self._rule, args, kwargs, output)


def _opened(function: FunctionType) -> FunctionType:
    """Return a torch function that doesn't hand itself over as a whole."""
    scope = {**function.__globals__, "has_torch_function": _never}
    copy = FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _never(tensors: object) -> bool:
    del tensors
    return False


_OPENED_ATTENTION = _opened(F.multi_head_attention_forward)


def _edges_of(value: Any) -> Iterator[Node]:
    """Yield the graph nodes that the tensors of an argument come from."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield get_gradient_edge(value).node
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _edges_of(entry)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _edges_of(entry)


def _inner_nodes(start: Node, outside: set[Node]) -> set[Node]:
    """Return the nodes from an output down to the arguments and parameters."""
    inner: set[Node] = set()
    pending = [start]
    while pending:
        node = pending.pop()
        if node in inner or node in outside or hasattr(node, "variable"):
            continue
        inner.add(node)
        pending += [child for child, _ in node.next_functions if child is not None]
    return inner


def _versions(use: Use) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in use.inputs)  # noqa: SLF001 - torch's counter
