"""Which parameters the rules serve: decided by the autograd graph, not by names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from eigenscope.jacobian.capture import Call
from eigenscope.jacobian.row_moves import may_move_rows
from eigenscope.jacobian.rules import WholeModule

_Edge = tuple[Node, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one forward pass leaves to the rules and what to autograd.

    Attributes:
        calls: Calls that the output depends on otherwise than through another call's
            weight, with the weights in them that lead to parameters.
        by_autograd: Names of parameters that the output reaches on some path outside
            these calls.
        sources: For each weight (call, role) that is not itself a parameter, the
            names of the parameters that it is made of.
        rows_may_move: Whether data may decide which sample a row belongs to.
    """

    calls: list[Call]
    by_autograd: set[str]
    sources: dict[tuple[int, str], list[str]]
    rows_may_move: bool


def serve(
    outputs: Tensor, calls: Sequence[Call], params: Mapping[str, nn.Parameter]
) -> Served:
    """Split the paths from the outputs to the parameters between rules and autograd.

    The graph is walked from the outputs. Edges from inside a call to its weights are
    cut; a parameter that is reached all the same is used outside the calls. A weight
    that was computed from parameters is cut, too, and what lies above it is
    differentiated by autograd. No path is counted twice: a call above such a weight
    has cotangents of several samples in each row, so its samples have no place.

    Args:
        outputs: The recorded outputs.
        calls: Calls whose samples are known to lie where their rules expect them.
        params: The parameters that are asked for.

    Returns:
        The division.

    Raises:
        ValueError: If the graph hides parameters inside a reentrant checkpoint.
    """
    leaves = {get_gradient_edge(p).node: name for name, p in params.items()}
    chosen = list(calls)
    while True:
        reached = _reached_outside(outputs, chosen)
        kept = [call for call in chosen if call.edge.node in reached]
        leaking = _entered_beside_output(kept, reached)
        if not leaking:
            break
        chosen = [call for call in chosen if id(call) not in leaking]
    sources: dict[tuple[int, str], list[str]] = {}
    for position, call in enumerate(kept):
        for role, weight in call.use.weights.items():
            node = get_gradient_edge(weight).node
            if node not in leaves:
                above = _reach([node], {})
                names = [name for leaf, name in leaves.items() if leaf in above]
                sources[position, role] = names
    functions = (c for c in kept if not isinstance(c.rule, WholeModule))
    between = reached.difference(*(call.inner for call in functions))
    return Served(
        calls=kept,
        by_autograd={leaves[node] for node in reached if node in leaves},
        sources=sources,
        rows_may_move=any(may_move_rows(node, len(outputs)) for node in between),
    )


def require_visible_parameters(outputs: Tensor) -> None:
    """Raise if the recorded graph hides parameters inside a reentrant checkpoint."""
    if outputs.requires_grad:
        _reach([get_gradient_edge(outputs).node], {})


def _reached_outside(outputs: Tensor, calls: Sequence[Call]) -> set[Node]:
    """Return the nodes that the outputs reach when the calls' weights are cut off."""
    if not outputs.requires_grad:
        return set()
    cut: dict[Node, set[_Edge]] = {}
    for call in calls:
        weights = {_edge(weight) for weight in call.use.weights.values()}
        for node in call.inner:
            cut.setdefault(node, set()).update(weights)
    return _reach([get_gradient_edge(outputs).node], cut)


def _entered_beside_output(calls: Sequence[Call], reached: set[Node]) -> set[int]:
    """Return the ids of calls with inner nodes that something outside depends on.

    A module with a rule may leave part of its work elsewhere than in its output.
    """
    homes = {node: call for call in calls for node in call.inner}
    leaking: set[int] = set()
    for node in reached:
        for child, number in node.next_functions:
            home = homes.get(child) if child is not None else None
            if home is None or home is homes.get(node):
                continue
            if (child, number) != (home.edge.node, home.edge.output_nr):
                leaking.add(id(home))
    return leaking


def _edge(tensor: Tensor) -> _Edge:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _reach(start: Sequence[Node], cut: Mapping[Node, set[_Edge]]) -> set[Node]:
    """Return all nodes that can be reached from the start without the cut edges.

    Raises:
        ValueError: If a reentrant checkpoint hides what is behind it.
    """
    seen = set(start)
    pending = list(start)
    while pending:
        node = pending.pop()
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "activation checkpointing must be non-reentrant, so that autograd "
                "sees the parameters inside; the model calls checkpoint(..., "
                "use_reentrant=True). Pass use_reentrant=False."
            )
        forbidden = cut.get(node)
        for child, number in node.next_functions:
            if child is None or child in seen:
                continue
            if forbidden is None or (child, number) not in forbidden:
                seen.add(child)
                pending.append(child)
    return seen
