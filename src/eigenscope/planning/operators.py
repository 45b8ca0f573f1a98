"""The jobs of operators: products, dense forms, diagonals, and writing into a run."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from eigenscope.budget import resolve
from eigenscope.estimators.dense import smaller_side
from eigenscope.estimators.raised_pairs import num_rows, raise_vectors
from eigenscope.kernels import KernelEngine, KernelSettings
from eigenscope.operators import (
    NTK,
    Dense,
    Fisher,
    GaussNewton,
    Gram,
    InputJacobian,
    LinearOperator,
    ParameterJacobian,
    StoredGram,
)
from eigenscope.operators.computed_blocks import ComputedBlocks
from eigenscope.operators.curvature import CurvatureOperator
from eigenscope.operators.curvature_products import LARGEST_CHUNK
from eigenscope.operators.gauss_newton import OutputCurvature
from eigenscope.operators.kernel_tiles import tile_engine
from eigenscope.planning.functions import paired
from eigenscope.planning.job import Job, nothing
from eigenscope.planning.smaller import on_first, problem_of
from eigenscope.problem import Problem
from eigenscope.store import Run

_CHUNK = 128


def job_of_method(
    operator: LinearOperator, method: str, options: dict[str, Any]
) -> Job:
    """Return the job of a method of an operator, or of one product with it.

    Args:
        operator: An operator over the samples of a problem.
        method: Its name.
        options: Arguments of the method.

    Returns:
        The job.

    Raises:
        ValueError: If the operator has no samples: then there is nothing to rehearse.
    """
    problem = problem_of(operator)
    if problem is None:
        raise ValueError(
            f"a {type(operator).__name__} goes through no samples, so there is nothing "
            "to rehearse; plan what is computed from it: es.plan(es.spectrum, op)."
        )
    call = _writing if method == "write" else _calling(method, options)
    kept = _kept_bytes(operator, method, options)
    return Job(
        name=f"{type(operator).__name__}.{method}",
        method=_how(operator),
        num_samples=problem.num_samples,
        device=operator.device,
        call_on=_on_samples(operator, problem, call),
        pair_flops=_pair_flops(operator, method, problem.num_samples),
        dtype=operator.dtype,
        pair_seconds=_pair_seconds(operator, method),
        kept_bytes=kept,
        chunk=chunk_of(operator, method),
        budget=resolve(memory_of(operator)),
        passes=1.0,
        backward=float(backward_of(operator)),
        disk_bytes=_disk_bytes(operator) if method == "write" else 0,
        is_bounded=isinstance(operator, NTK) and method == "write",
        is_shared=True,
    )


def matrix_job(operator: LinearOperator) -> Job:
    """Return the job of the dense form of an operator's smaller side, if it has one.

    Args:
        operator: An operator over the samples of a problem.

    Returns:
        The job.
    """
    source = cast("LinearOperator", smaller_side(operator))
    if problem_of(source) is not None:
        return job_of_method(source, "dense", {})
    problem = cast("Problem", problem_of(operator))
    each = source.shape[0] / problem.num_samples
    item = source.dtype.itemsize

    def call_on(size: int) -> Callable[[], object]:
        smaller = on_first(operator, problem.first(size))
        side = cast("LinearOperator", smaller_side(smaller))
        return side.dense

    return Job(
        name=f"{type(operator).__name__}, side of the outputs",
        method="pairs of samples",
        num_samples=problem.num_samples,
        device=operator.device,
        call_on=call_on,
        pair_flops=each * each * operator.shape[0],
        dtype=operator.dtype,
        kept_bytes=lambda m: round((each * m) ** 2) * item,
        chunk=chunk_of(operator),
        budget=resolve(None),
        backward=float(backward_of(operator)),
    )


def raising_job(operator: OutputCurvature, num_vectors: int) -> Job:
    """Return the job of eigenvectors from those of the side of the outputs.

    Args:
        operator: A matrix whose side of the outputs is the smaller one.
        num_vectors: How many.

    Returns:
        The job.
    """
    problem = operator.problem
    each = num_rows(operator) / problem.num_samples

    def call_on(size: int) -> Callable[[], object]:
        smaller = cast("OutputCurvature", on_first(operator, problem.first(size)))
        source = torch.Generator().manual_seed(0)
        shape = (round(each * size), num_vectors)
        rows = torch.randn(shape, generator=source, dtype=torch.float64)
        values = torch.ones(num_vectors, dtype=torch.float64)
        return partial(raise_vectors, smaller, values, rows)

    return Job(
        name=f"{num_vectors} vectors from those of the outputs",
        method="products with the transposed Jacobian",
        num_samples=problem.num_samples,
        device=operator.device,
        call_on=call_on,
        chunk=chunk_of(operator),
        budget=resolve(memory_of(operator)),
        passes=3.0,
        backward=float(backward_of(operator) * num_vectors + num_vectors),
    )


def product_job(operator: LinearOperator, num_vectors: int) -> Job:
    """Return the job of a product with a block of vectors, after the first one.

    What the first product makes and keeps, such as recorded graphs, is counted as
    memory, but not as time.

    Args:
        operator: An operator over the samples of a problem.
        num_vectors: Columns of the block.

    Returns:
        The job.
    """
    problem = cast("Problem", problem_of(operator))

    def call_on(size: int) -> Callable[[], object]:
        smaller = on_first(operator, problem.first(size))
        rows = torch.ones(
            num_vectors, smaller.shape[1], dtype=smaller.dtype, device=smaller.device
        )
        return lambda: smaller.multiply(rows.T)  # as estimates hold them

    vectors = 2 * num_vectors * operator.shape[0] * operator.dtype.itemsize
    return Job(
        name=f"products with {num_vectors} vectors",
        method=_how(operator),
        num_samples=problem.num_samples,
        device=operator.device,
        call_on=call_on,
        kept_bytes=lambda m: vectors if m else 0,
        chunk=chunk_of(operator),
        budget=resolve(memory_of(operator)),
        backward=float(backward_of(operator) * num_vectors),
        again=True,
        is_shared=True,
    )


def memory_of(operator: LinearOperator) -> str | int | None:
    """Return the budget that an operator was given, None for the usual one."""
    if isinstance(operator, CurvatureOperator):
        return operator.products.memory
    has_own = isinstance(operator, NTK | Gram | InputJacobian | ParameterJacobian)
    return operator.memory if has_own else None


def chunk_of(operator: LinearOperator, method: str = "multiply") -> int:
    """Return how many samples go through the network together, at most."""
    if isinstance(operator, NTK) and method == "write":
        return _tiles(operator)[1].block_size
    by_rows = method == "diagonal" and isinstance(operator, GaussNewton | Fisher)
    if isinstance(operator, CurvatureOperator) and not by_rows:
        return operator.problem.batches.batch_size or LARGEST_CHUNK
    factor = operator.factor if isinstance(operator, Gram) else operator
    if isinstance(factor, InputJacobian) and factor.engine is not None:
        return factor.engine.chunk_size
    if isinstance(factor, ParameterJacobian):
        return factor.chunk_size
    problem = problem_of(factor)
    return (problem and problem.batches.batch_size) or _CHUNK


def backward_of(operator: LinearOperator) -> int:
    """Return the backward passes of one sample that an operator takes in a pass."""
    problem = problem_of(operator)
    if isinstance(operator, CurvatureOperator) or problem is None:
        return 2
    return problem.num_outputs


def _on_samples(
    operator: LinearOperator,
    problem: Problem,
    call: Callable[[LinearOperator], Callable[[], object]],
) -> Callable[[int], Callable[[], object]]:
    def call_on(size: int) -> Callable[[], object]:
        return call(on_first(operator, problem.first(size)))

    return call_on


def _calling(
    method: str, options: dict[str, Any]
) -> Callable[[LinearOperator], Callable[[], object]]:
    def call(smaller: LinearOperator) -> Callable[[], object]:
        own = getattr(smaller, method)
        if method not in {"multiply", "multiply_transpose"}:
            return partial(own, **options)
        block = next(iter(options.values()))
        rows = smaller.shape[0 if method == "multiply_transpose" else 1]
        return partial(own, torch.ones(rows, *block.shape[1:]).to(block))

    return call


def _writing(smaller: LinearOperator) -> Callable[[], object]:
    return partial(_write, smaller)


def _write(smaller: LinearOperator) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rehearsal"
        with Run.create(path, verb="plan", arguments={}) as run:
            cast("Any", smaller).write(run)


def _pair_seconds(
    operator: LinearOperator, method: str
) -> Callable[[int], float] | None:
    """Return what measures the products of pairs, for a tangent kernel."""
    if not isinstance(operator, NTK) or method not in {"dense", "write"}:
        return None
    engine, settings = _tiles(operator)
    options = {"outputs": operator.outputs, "method": operator.method}
    free = engine.sample_bytes * operator.problem.num_samples + 1
    return paired(operator.problem, None, settings, options, free)


def _tiles(operator: NTK) -> tuple[KernelEngine, KernelSettings]:
    """Return the engine and the settings with which a kernel is written."""
    return tile_engine(
        operator.problem,
        1,
        outputs=operator.outputs,
        method=operator.method,
        memory=operator.memory,
    )


def _pair_flops(operator: LinearOperator, method: str, total: int) -> float:
    """Return flops for each pair of samples where a matrix of pairs is made."""
    if method not in {"dense", "write"}:
        return 0.0
    if isinstance(operator, NTK):
        return sum(choice.multiplications for choice in operator.choices.values())
    if isinstance(operator, Gram) and operator.side == "rows":
        each = operator.shape[0] / total
        return each * each * operator.factor.shape[1]
    return 0.0


def _num_vectors(options: dict[str, Any]) -> int:
    """Return the columns of the block that a method multiplies, 1 if it has none."""
    block = next(iter(options.values()), None)
    return block.shape[1] if isinstance(block, Tensor) and block.ndim > 1 else 1


def _kept_bytes(
    operator: LinearOperator, method: str, options: dict[str, Any]
) -> Callable[[int], int]:
    """Return bytes of the result, and of rows that are held beside it, by samples."""
    total = cast("Problem", problem_of(operator)).num_samples
    rows, columns = operator.shape
    item = operator.dtype.itemsize
    if method == "write" and isinstance(operator, NTK):
        return _written_kernel_bytes(operator)
    if method == "write":
        return _written_rows_bytes(operator, resolve(options.get("memory")))
    if method != "dense":
        num_vectors = _num_vectors(options)
        is_transposed = method in {"multiply_transpose", "squared_column_norms"}
        size = (columns if is_transposed else rows) * num_vectors * item
        if is_transposed or isinstance(operator, CurvatureOperator):
            return lambda m: size if m else 0
        return lambda m: round(size * m / total)
    if isinstance(operator, Gram):
        return _gram_bytes(operator, total)
    if isinstance(operator, NTK):
        each = rows // total
        sample = sum(choice.sample_bytes for choice in operator.choices.values())
        return lambda m: (m * each) ** 2 * item + m * sample
    if isinstance(operator, InputJacobian | ParameterJacobian):
        return lambda m: rows * columns * item * m // total
    return lambda m: rows * columns * item if m else 0


def _written_rows_bytes(operator: LinearOperator, budget: int) -> Callable[[int], int]:
    """Return bytes of a tile of an input Jacobian, its rows and its samples."""
    source = operator.source if isinstance(operator, InputJacobian) else None
    if not isinstance(source, ComputedBlocks):
        return nothing
    _, outputs, entries = source.shape
    row = (outputs + 1) * entries * source.dtype.itemsize
    samples = source.tile_samples(budget)
    return lambda m: min(m, samples) * row


def _written_kernel_bytes(operator: NTK) -> Callable[[int], int]:
    """Return bytes of a tile, and of the gradients that are kept, by samples."""
    engine, settings = _tiles(operator)
    each = operator.problem.num_outputs if operator.outputs == "full" else 1
    item = engine.dtype.itemsize
    budget = resolve(operator.memory)

    def kept(m: int) -> int:
        tile = (min(m, settings.step) * each) ** 2 * item
        return tile + min(m * engine.sample_bytes, max(0, budget - tile))

    return kept


def _gram_bytes(operator: Gram, total: int) -> Callable[[int], int]:
    rows, columns = operator.factor.shape
    item, size = operator.dtype.itemsize, operator.shape[0]
    budget = resolve(operator.memory)

    def kept(m: int) -> int:
        own = (size * m // total if operator.side == "rows" else size) ** 2 * item
        panel = min(rows * columns * item * m // total, max(0, budget - own))
        return own + panel

    return kept


def _disk_bytes(operator: LinearOperator) -> int:
    rows, columns = operator.shape
    item = operator.dtype.itemsize
    if isinstance(operator, Gram):
        factor = operator.factor
        return factor.shape[0] * factor.shape[1] * item + rows * (rows + 1) // 2 * item
    if isinstance(operator, NTK | StoredGram):
        return rows * (rows + 1) // 2 * item
    return rows * columns * item


def _how(operator: LinearOperator) -> str:
    if isinstance(operator, Dense | StoredGram):
        return "matrix product"
    if isinstance(operator, CurvatureOperator):
        return "reverse mode through recorded graphs"
    return "backward passes"
