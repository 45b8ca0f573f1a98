"""Tangent kernels that can be differentiated themselves, for regularizers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eigenscope._types import KernelMethod
from eigenscope.budget import format_bytes, resolve
from eigenscope.jacobian import parameter_jacobian
from eigenscope.problem import Problem

Inputs = Tensor | Mapping[str, Any]


def differentiable_kernels(
    problem: Problem,
    other: Problem | None,
    x1: Inputs,
    x2: Inputs | None,
    *,
    groups: Mapping[str, str],
    equation: str,
    method: KernelMethod,
    memory: str | int | None,
) -> dict[str, Tensor]:
    """Multiply Jacobians that autograd has recorded, parameter by parameter.

    Args:
        problem: Samples of the rows.
        other: Samples of the columns; None for the same.
        x1: The inputs of the rows, in the caller's graph.
        x2: Those of the columns, or None.
        groups: Parameter to the name of its group.
        equation: How gradients (sample, output, entry) are multiplied.
        method: As the user chose it.
        memory: Budget for the Jacobians.

    Returns:
        Group to kernel.

    Raises:
        ValueError: If the method does not form gradients, or they do not fit.
    """
    if method not in {"auto", "jacobian"}:
        raise ValueError(
            "a kernel that can be differentiated is made of gradients: with "
            f"create_graph=True method must be 'auto' or 'jacobian'; got {method!r}."
        )
    _require_room(problem, other, resolve(memory))
    left = _gradients(problem, x1)
    right = left if other is None or x2 is None else _gradients(other, x2)
    found: dict[str, Tensor] = {}
    for name, group in groups.items():
        part = torch.einsum(equation, left[name], right[name])
        found[group] = found[group] + part if group in found else part
    return found


def _gradients(problem: Problem, x: Inputs) -> dict[str, Tensor]:
    found = parameter_jacobian(
        problem.model,
        x,
        output=problem.output,
        params=list(problem.params),
        create_graph=True,
    )
    return {name: J.reshape(*J.shape[:2], -1) for name, J in found.items()}


def _require_room(problem: Problem, other: Problem | None, budget: int) -> None:
    samples = problem.num_samples + (other.num_samples if other else 0)
    entries = sum(p.numel() for p in problem.params.values())
    needed = samples * problem.num_outputs * entries * problem.dtype.itemsize
    if needed > budget:
        raise ValueError(
            "the gradients behind a kernel that can be differentiated must fit the "
            f"memory budget of {format_bytes(budget)}; {format_bytes(needed)} are "
            "needed. Give more with memory=, or take fewer samples or parameters."
        )
