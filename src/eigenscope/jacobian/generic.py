"""Per-sample Jacobians by autograd alone: exact for whatever no rule reaches."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eigenscope.autodiff import cotangents, per_sample_outputs
from eigenscope.jacobian.rules import Plain
from eigenscope.problem import Batch, Problem
from eigenscope.problem.outputs import raw_outputs

Head = Callable[[Tensor, Any], Tensor]
Block = dict[str, Tensor]


def by_vmap(
    problem: Problem,
    head: Head,
    batch: Batch,
    names: Sequence[str],
    outputs: range,
    *,
    create_graph: bool = False,
) -> dict[str, Plain]:
    """Differentiate all samples at once, each by a copy of the parameters of its own.

    Args:
        problem: The network.
        head: From raw outputs and targets to (sample, output).
        batch: The samples.
        names: Parameters to differentiate by.
        outputs: Outputs to differentiate.
        create_graph: Whether the Jacobians are to be differentiated themselves.

    Returns:
        Name to Jacobians (sample, output, *parameter).

    Raises:
        RuntimeError: If the model runs something that `torch.func.vmap` cannot.
    """
    own = {
        name: _copies(problem.params[name], batch.size, connected=create_graph)
        for name in names
    }
    found: list[Tensor] = []
    inputs = _with_slots(batch.inputs, batch.size, found)
    targets = _with_slots(batch.targets, batch.size, found)

    def one(params: dict[str, Tensor], *entries: Tensor) -> Tensor:
        single = [entry.unsqueeze(0) for entry in entries]
        given = _filled(inputs, single)
        args = ((), given) if isinstance(given, dict) else ((given,), {})
        raw = raw_outputs(functional_call(problem.model, params, *args))
        return head(raw, _filled(targets, single)).squeeze(0)

    z = per_sample_outputs(one, own, found)
    leaves = list(own.values())
    columns = [_column(z, leaves, c, create_graph=create_graph) for c in outputs]
    return {
        name: Plain(torch.stack([column[i] for column in columns], 1))
        for i, name in enumerate(names)
    }


def by_loop(
    problem: Problem,
    head: Head,
    batch: Batch,
    names: Sequence[str],
    outputs: range,
    *,
    create_graph: bool = False,
) -> dict[str, Plain]:
    """Differentiate one sample after the other: right for whatever autograd can do.

    Args:
        problem: The network; its parameters require gradients.
        head: As for `by_vmap`.
        batch: The samples.
        names: Parameters to differentiate by.
        outputs: Outputs to differentiate.
        create_graph: Whether the Jacobians are to be differentiated themselves.

    Returns:
        Name to Jacobians (sample, output, *parameter).
    """
    leaves: list[Tensor] = [problem.params[name] for name in names]
    rows: list[list[list[Tensor]]] = []
    for single in batch.parts(1):
        z = head(problem.raw(single.inputs), single.targets)
        rows.append([_column(z, leaves, c, create_graph=create_graph) for c in outputs])
    return {
        name: Plain(torch.stack([torch.stack([c[i] for c in row]) for row in rows]))
        for i, name in enumerate(names)
    }


def _copies(parameter: nn.Parameter, num_samples: int, *, connected: bool) -> Tensor:
    if connected:
        return parameter.expand(num_samples, *parameter.shape)
    return parameter.detach().expand(num_samples, *parameter.shape).requires_grad_()


def _column(
    z: Tensor, leaves: Sequence[Tensor], output: int, *, create_graph: bool
) -> list[Tensor]:
    if not z.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    seed = torch.zeros_like(z)
    seed[:, output] = 1
    found = cotangents(z, leaves, seed, keep_graph=True, create_graph=create_graph)
    return [
        torch.zeros_like(leaf) if g is None else g
        for leaf, g in zip(leaves, found, strict=True)
    ]


@final
class _Slot:
    """Where an entry of a batch belongs."""

    def __init__(self, position: int) -> None:
        self.position = position


def _with_slots(value: Any, size: int, found: list[Tensor]) -> Any:
    """Return the value with per-sample tensors moved to `found`."""
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == size:
        found.append(value)
        return _Slot(len(found) - 1)
    if isinstance(value, dict):
        return {key: _with_slots(entry, size, found) for key, entry in value.items()}
    return value


def _filled(value: Any, entries: Sequence[Tensor]) -> Any:
    if isinstance(value, _Slot):
        return entries[value.position]
    if isinstance(value, dict):
        return {key: _filled(entry, entries) for key, entry in value.items()}
    return value
