"""What the graph of one forward pass shows of how samples are arranged inside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from eigenscope.jacobian.row_moves import output_shapes

_SETTINGS = (
    "dim",
    "dim0",
    "dim1",
    "dim2",
    "dims",
    "dimension",
    "shifts",
    "repeats",
    "keepdim",
    "k",
    "kernel_size",
    "stride",
    "padding",
    "upscale_factor",
    "downscale_factor",
)
_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTrace:
    """The operations between the outputs and the weights of one forward pass.

    Every step that may put a row elsewhere on its way to the outputs is an operation
    of the graph, so layouts that are proven for one batch hold for another of the same
    trace, however many samples it has. What data alone decide, `may_move_rows` tells.

    Attributes:
        num_samples: Samples of the batch.
        steps: Of each operation its name, its children by their position, and its
            axes and other settings.
        shapes: Of each operation the shapes of what it returned.
    """

    num_samples: int
    steps: tuple[tuple[object, ...], ...]
    shapes: tuple[_Shapes, ...]

    def matches(self, other: "GraphTrace") -> bool:
        """Return whether the same is done with the samples of another batch.

        Axes may differ in length as the numbers of samples do, or if they are too
        short or uneven in the other batch to hold its samples.
        """
        return self.steps == other.steps and all(
            self._alike(own, others, other.num_samples)
            for own, others in zip(self.shapes, other.shapes, strict=True)
        )

    def _alike(self, own: _Shapes, others: _Shapes, num_samples: int) -> bool:
        """Return whether the axes that may hold samples are the same ones."""
        if [len(shape) for shape in own] != [len(shape) for shape in others]:
            return False
        return all(
            length == other
            or length * num_samples == other * self.num_samples
            or other % num_samples != 0
            for shape, changed in zip(own, others, strict=True)
            for length, other in zip(shape, changed, strict=True)
        )


def trace_graph(outputs: Tensor) -> GraphTrace:
    """Return the trace of recorded raw outputs, which have the samples on axis 0.

    Args:
        outputs: The outputs.

    Returns:
        The trace; empty for outputs that depend on nothing.

    Cost:
        A walk over the graph; no arithmetic.
    """
    if not outputs.requires_grad:
        return GraphTrace(num_samples=len(outputs), steps=(), shapes=())
    start = get_gradient_edge(outputs).node
    nodes = _ordered(start, _above_weights(start))
    numbers = {node: number for number, node in enumerate(nodes)}
    return GraphTrace(
        num_samples=len(outputs),
        steps=tuple(_step(node, numbers) for node in nodes),
        shapes=tuple(output_shapes(node) for node in nodes),
    )


def _above_weights(start: Node) -> set[Node]:
    """Return the operations and weights on the paths from the outputs to weights.

    What leads to inputs alone is left out: these may require gradients or not.
    """
    users: dict[Node, list[Node]] = {start: []}
    pending, found = [start], list[Node]()
    while pending:
        node = pending.pop()
        if isinstance(getattr(node, "variable", None), nn.Parameter):
            found.append(node)
        for child, _ in node.next_functions:
            if child is not None:
                if child not in users:
                    users[child] = []
                    pending.append(child)
                users[child].append(node)
    above = set(found)
    while found:
        fresh = set(users[found.pop()]) - above
        above |= fresh
        found += fresh
    return above


def _ordered(start: Node, wanted: set[Node]) -> list[Node]:
    """Return the wanted nodes below the outputs, in an order that the graph gives."""
    seen, pending = {start: None}, [start]
    while pending:
        for child, _ in pending.pop().next_functions:
            if child is not None and child in wanted and child not in seen:
                seen[child] = None
                pending.append(child)
    return list(seen)


def _step(node: Node, numbers: Mapping[Node, int]) -> tuple[object, ...]:
    children = tuple(
        (numbers[child], number) if child is not None and child in numbers else None
        for child, number in node.next_functions
    )
    found: list[Any] = [getattr(node, name) for name in _settings_of(type(node))]
    settings = tuple(None if isinstance(s, Tensor) else s for s in found)
    return node.name(), children, settings


@cache
def _settings_of(kind: type[Node]) -> list[str]:
    """Return the names under which a kind of operation keeps its settings."""
    names = [f"_saved_{name}" for name in _SETTINGS]
    return [name for name in names if hasattr(kind, name)]
