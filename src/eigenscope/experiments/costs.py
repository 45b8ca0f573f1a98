"""What the runs of each verb will cost, as plans."""

from typing import Final

from eigenscope.budget import resolve
from eigenscope.estimators import spectrum, top_eigenpairs
from eigenscope.estimators.lapack import MOST_ROWS, peak_bytes
from eigenscope.experiments.curvature_spectra import CurvaturePlan, prepare_curvature
from eigenscope.experiments.jacobian_spectra import JacobianPlan, prepare_jacobian
from eigenscope.experiments.kernel_spectra import KernelPlan, prepare_kernels
from eigenscope.kernels import conjugate_kernel
from eigenscope.operators import (
    NTK,
    InputJacobian,
    ParameterJacobian,
    gram,
    layer_blocks,
)
from eigenscope.planning import Plan, Step, plan
from eigenscope.planning.factorizations import (
    eigenvalue_flops,
    eigenvalue_method,
    eigenvalue_seconds,
    product_seconds,
)
from eigenscope.problem import Problem

_TILE: Final = 2048
_DISK_RATE: Final = 1e-9  # seconds for a byte, through the system's cache


def jacobian_cost(problem: Problem, wanted: JacobianPlan, *, effort: float) -> Plan:
    """Return what a run of input-Jacobian spectra will cost.

    Args:
        problem: The network and its data.
        wanted: What is to be computed.
        effort: Seconds for rehearsals.

    Returns:
        One step for the Jacobian, and two for each spectrum.
    """
    jacobian = prepare_jacobian(problem, wanted)
    parts: list[Plan | Step] = [plan(jacobian.write, None, effort=effort)]
    for output in wanted.outputs:
        for layout in wanted.layouts:
            name = f"{output}, {layout}"
            parts += _gram_steps(jacobian.with_layout(layout), name, wanted)
    return Plan.joined("eigenscope jacobian", parts)


def kernel_cost(problem: Problem, wanted: KernelPlan, *, effort: float) -> Plan:
    """Return what a run of kernels will cost.

    Args:
        problem: The network, its data, its output and parameters.
        wanted: What is to be computed.
        effort: Seconds for all rehearsals.

    Returns:
        Steps for every kernel, its eigenvalues, components and shares.
    """
    prepare_kernels(problem, wanted, run=None)
    each = effort / (len(wanted.kernels) + 2)
    parts: list[Plan | Step] = []
    for kind in wanted.kernels:
        size = problem.num_samples
        if kind == "conjugate":
            inputs = problem.first(size).batches.first(size).inputs
            options = {"layer": wanted.layer, "memory": wanted.memory}
            parts.append(
                plan(conjugate_kernel, problem.model, inputs, effort=each, **options)
            )
        else:
            kernel = _kernel(problem, wanted, kind)
            parts.append(plan(kernel.write, None, effort=each))
            size = kernel.shape[0]
        parts.append(_eigenvalues(size, f"eigenvalues, {kind}"))
    if wanted.components is not None:
        kernel = _kernel(problem, wanted, "trace")
        parts.append(plan(kernel.write, None, effort=each))
    if set(wanted.kernels) != {"conjugate"}:
        shares = ParameterJacobian(problem).squared_column_norms
        parts.append(plan(shares, effort=each))
    return Plan.joined("eigenscope ntk", parts)


def curvature_cost(problem: Problem, wanted: CurvaturePlan, *, effort: float) -> Plan:
    """Return what a run of curvature spectra will cost.

    Args:
        problem: The network, its data with targets, and the loss.
        wanted: What is to be computed.
        effort: Seconds for all rehearsals.

    Returns:
        Steps for every matrix and block.
    """
    parts: list[Plan | Step] = []
    operators = prepare_curvature(problem, wanted, run=None)
    for operator in operators.values():
        matrices = {"whole": operator}
        if wanted.layers is not None:
            matrices |= layer_blocks(operator, by=wanted.layers)
        each = effort / len(matrices) / len(operators)
        for part, matrix in matrices.items():
            found = plan(
                spectrum,
                matrix,
                method=wanted.method,
                tolerance=wanted.tolerance,
                memory=wanted.memory,
                effort=each,
            )
            parts.append(found.named(part))
        if wanted.num_pairs:
            count = min(wanted.num_pairs, operator.shape[0])
            found = plan(
                top_eigenpairs,
                operator,
                count,
                which="magnitude",
                memory=wanted.memory,
                effort=each,
            )
            parts.append(found)
    return Plan.joined("eigenscope hessian", parts)


def _kernel(problem: Problem, wanted: KernelPlan, kind: str) -> NTK:
    return NTK(
        problem,
        outputs="full" if kind == "full" else "trace",
        method=wanted.method,
        memory=wanted.memory,
    )


def _gram_steps(
    jacobian: InputJacobian, name: str, wanted: JacobianPlan
) -> list[Plan | Step]:
    """Return the steps from rows on disk to a Gram matrix and its eigenvalues."""
    rows, columns = jacobian.shape
    matrix = gram(jacobian, side=wanted.side)
    by_rows, size = matrix.side == "rows", matrix.shape[0]
    inner = rows * columns // size
    item = jacobian.dtype.itemsize
    tile = min(_TILE, size)
    passes = -(-size // tile) / 2 if by_rows else 1
    flops = float(size) * size * inner
    held = (2 * tile * inner if by_rows else size * tile) + tile * tile
    reading = passes * rows * columns * item
    product = Step(
        name=f"Gram matrix, {name}",
        method="tiles of one triangle",
        reason=(
            f"{matrix.side} are fewer: {size}"
            if wanted.side == "auto"
            else f"{size} {matrix.side}, as asked"
        ),
        flops=flops,
        host_bytes=min(held * item, resolve(wanted.memory)),
        disk_bytes=size * (size + 1) // 2 * item,
        seconds=flops * product_seconds(jacobian.dtype) + reading * _DISK_RATE,
    )
    return [product, _eigenvalues(size, f"eigenvalues, {name}", wanted.num_vectors)]


def _eigenvalues(size: int, name: str, num_vectors: int = 0) -> Step:
    rows = min(size, MOST_ROWS)
    return Step(
        name=name,
        method=eigenvalue_method(rows),
        flops=eigenvalue_flops(size, num_vectors=num_vectors),
        host_bytes=peak_bytes(rows, num_vectors=min(num_vectors, rows)),
        seconds=eigenvalue_seconds(size, num_vectors=num_vectors),
    )
