"""The empirical neural tangent kernel of a network, whole and in components."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from eigenscope._types import (
    Components,
    KernelMethod,
    KernelOutputs,
    OutputSpec,
    require_choice,
)
from eigenscope.kernels.differentiable import differentiable_kernels
from eigenscope.kernels.engine import require_parameters
from eigenscope.kernels.matrices import kernel_matrices
from eigenscope.problem import Problem, transform_outputs
from eigenscope.problem.alike import data_of, require_alike

NTKOutputs = Literal["full", "trace", "pseudo"]
_EQUATIONS: Mapping[NTKOutputs, str] = {
    "full": "icp,jep->ijce",
    "trace": "icp,jcp->ij",
    "pseudo": "icp,jcp->ij",
}
Inputs = Tensor | Mapping[str, Any]


def ntk(
    model: nn.Module,
    x1: Tensor | Mapping[str, Any],
    x2: Tensor | Mapping[str, Any] | None = None,
    *,
    output: OutputSpec = "logits",
    outputs: NTKOutputs = "full",
    params: str | Sequence[str] | None = None,
    method: KernelMethod = "auto",
    memory: str | int | None = None,
    create_graph: bool = False,
) -> Float[Tensor, "left right *outputs"]:
    """Θ[i, j, c, e] = ⟨∂z_c(x_i)/∂θ, ∂z_e(x_j)/∂θ⟩, the empirical tangent kernel.

    Exact to rounding for any module: every use of every parameter counts, biases,
    tied weights, modules that are called twice and raw parameters among them. Method
    "jacobian" forms the gradients and multiplies them. "structured" never forms the
    gradient of a linear map, a convolution (through its patches) or a table: with
    inputs x and cotangents g, Θ = Σ_tt' ⟨x_t, x'_t'⟩ ⟨g_t, g'_t'⟩, which for fully
    connected layers is the layer-wise rule K_W = (SᵀS) ∘ (XᵀX), K_b = SᵀS. "products"
    multiplies the inputs and cotangents of x1 with gradients of x2, some at a time:
    kernel-vector products J(Jᵀe). "auto" takes, for each parameter, whichever of the
    first two needs fewer operations and fits in memory.

    Args:
        model: Any module whose samples do not influence each other.
        x1: Inputs, a tensor or a mapping of keyword arguments.
        x2: More inputs of the same shape and dtype; None for x1.
        output: "logits" (the raw output, flattened), "probabilities" or
            "log_probabilities" (softmax over axis 1), or a callable of the raw output.
        outputs: "full" for all pairs of outputs, "trace" for Σ_c Θ[i, j, c, c], a sum,
            or "pseudo" for Σ_ce Θ[i, j, c, e] / k, the kernel of Σ_c z_c / √k.
        params: Parameters by name, glob or a sequence of these; None for all that
            require gradients.
        method: "auto", "jacobian", "structured" or "products".
        memory: Budget such as "4GiB", result included; None for half of what is
            available.
        create_graph: Whether the kernel can be differentiated, by the parameters and
            by the inputs, as a regularizer on it needs; all gradients are then formed
            and recorded (method "auto" or "jacobian").

    Returns:
        (n₁, n₂, k, k), or (n₁, n₂) for "trace" and "pseudo", in units of (output per
        parameter)². The memory of a full kernel is that of the (n₁·k) × (n₂·k)
        matrix: `ntk.transpose(1, 2).reshape(n1 * k, n2 * k)` copies nothing.

    Raises:
        ValueError: If an option is unknown, `params` matches nothing, the two sets
            differ in shape or dtype, the model mixes samples or is random, the result
            does not fit the budget, or something is not finite.

    Cost:
        One forward and k backward passes (one for "pseudo"). Gradients, or what stands
        for them, that exceed the budget go to temporary files (`TMPDIR`) and are read
        pair by pair; only where the disk has no room either, and for "products", do
        the samples go through the network again for each part of the columns that
        fits. Half of the pairs if x2 is None.

    References:
        Jacot, Gabriel, Hongler (2018), arXiv 1806.07572. Novak, Sohl-Dickstein,
        Schoenholz (2022), arXiv 2206.08720. "pseudo": Mohamadi, Bae, Sutherland
        (2023), arXiv 2206.12543.

    Example:
        >>> import torch
        >>> linear = nn.Linear(3, 2)
        >>> x = torch.eye(3)
        >>> ntk(linear, x, outputs="trace").tolist()
        [[4.0, 2.0, 2.0], [2.0, 4.0, 2.0], [2.0, 2.0, 4.0]]
    """
    problem, other = problems(model, x1, x2, output, outputs, params)
    found = _kernels(
        problem,
        other,
        (x1, x2) if create_graph else None,
        groups=dict.fromkeys(problem.params, ""),
        outputs=outputs,
        method=method,
        memory=memory,
    )
    return found[""]


def ntk_components(
    model: nn.Module,
    x1: Tensor | Mapping[str, Any],
    x2: Tensor | Mapping[str, Any] | None = None,
    *,
    output: OutputSpec = "logits",
    outputs: NTKOutputs = "full",
    params: str | Sequence[str] | None = None,
    by: Components = "parameter",
    method: KernelMethod = "auto",
    memory: str | int | None = None,
    create_graph: bool = False,
) -> dict[str, Float[Tensor, "left right *outputs"]]:
    """Θ_p[i, j, c, e] = ⟨∂z_c(x_i)/∂θ_p, ∂z_e(x_j)/∂θ_p⟩ for each parameter p.

    The components add up to `ntk`, which see. A parameter that is used several times
    or tied has one component, under its first name, with the cross terms of its uses.

    Args:
        model: As for `ntk`.
        x1: As for `ntk`.
        x2: As for `ntk`.
        output: As for `ntk`.
        outputs: As for `ntk`.
        params: As for `ntk`.
        by: "parameter", or "module" to add up what one module owns itself.
        method: As for `ntk`.
        memory: As for `ntk`; all components are in memory together.
        create_graph: As for `ntk`.

    Returns:
        Parameter name, or module path ("" for the model itself), to its kernel, in
        `named_parameters()` order; zeros for unused parameters.

    Raises:
        ValueError: As for `ntk`.

    Cost:
        As for `ntk`, with memory for every component.

    Example:
        >>> import torch
        >>> linear = nn.Linear(3, 2)
        >>> parts = ntk_components(linear, torch.eye(3), outputs="trace")
        >>> {name: part[0].tolist() for name, part in parts.items()}
        {'weight': [2.0, 0.0, 0.0], 'bias': [2.0, 2.0, 2.0]}
    """
    problem, other = problems(model, x1, x2, output, outputs, params)
    return _kernels(
        problem,
        other,
        (x1, x2) if create_graph else None,
        groups=groups_of(problem, by),
        outputs=outputs,
        method=method,
        memory=memory,
    )


def problems(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None,
    output: OutputSpec,
    outputs: NTKOutputs,
    params: str | Sequence[str] | None,
) -> tuple[Problem, Problem | None]:
    """Return the problems of the two sets of samples.

    Args:
        model: The network.
        x1: Inputs of the rows.
        x2: Inputs of the columns, or None.
        output: What is differentiated.
        outputs: "pseudo" for the sum of all outputs over √k.
        params: Parameters.

    Returns:
        Two problems, the second None for one set.

    Raises:
        ValueError: If the sets differ in shape or dtype, or an option is unknown.
    """
    require_choice("outputs", outputs, NTKOutputs)
    if x2 is not None:
        require_alike(x1, x2)
    chosen: dict[str, Any] = {"output": output, "params": params, "ranks": "own"}
    first = Problem(model, data_of(x1), **chosen)
    second = None
    if x2 is not None:
        second = Problem(first.model, data_of(x2), **chosen)
    if outputs == "pseudo":
        summed = summed_outputs(output)
        first = first.with_output(summed)
        second = second.with_output(summed) if second is not None else None
    return first, second


def groups_of(problem: Problem, by: Components) -> dict[str, str]:
    """Return the component that each parameter belongs to.

    Args:
        problem: The network and its parameters.
        by: "parameter" or "module".

    Returns:
        Parameter name to itself, or to the path of the module that owns it.

    Raises:
        ValueError: If `by` is unknown.
    """
    require_choice("by", by, Components)
    return {
        name: name.rpartition(".")[0] if by == "module" else name
        for name in problem.params
    }


def summed_outputs(output: OutputSpec) -> OutputSpec:
    """Return Σ_c z_c / √k as an output of its own."""

    def summed(raw: Tensor) -> Tensor:
        z = transform_outputs(raw, output)
        return z.sum(1, keepdim=True) / z.shape[1] ** 0.5

    return summed


def _kernels(
    problem: Problem,
    other: Problem | None,
    connected: tuple[Inputs, Inputs | None] | None,
    *,
    groups: Mapping[str, str],
    outputs: NTKOutputs,
    method: KernelMethod,
    memory: str | int | None,
) -> dict[str, Tensor]:
    """Return the kernels of groups of parameters, in the caller's graph if connected.

    `connected` holds the inputs as the caller gave them, None if no graph is asked for.
    """
    if connected is not None:
        require_parameters(problem)
        return differentiable_kernels(
            problem,
            other,
            *connected,
            groups=groups,
            equation=_EQUATIONS[outputs],
            method=method,
            memory=memory,
        )
    kept: KernelOutputs = "full" if outputs == "full" else "trace"
    found = kernel_matrices(
        problem, other, groups=groups, outputs=kept, method=method, memory=memory
    )
    return {
        name: _shaped(matrix, problem, other, outputs) for name, matrix in found.items()
    }


def _shaped(
    matrix: Tensor, problem: Problem, other: Problem | None, outputs: NTKOutputs
) -> Tensor:
    """Return (n₁, n₂, k, k) or (n₁, n₂) in the model's dtype."""
    matrix = matrix.to(problem.dtype)
    if outputs != "full":
        return matrix
    left = (problem.num_samples, problem.num_outputs)
    columns = other or problem
    right = (columns.num_samples, columns.num_outputs)
    return matrix.view(*left, *right).transpose(1, 2)
