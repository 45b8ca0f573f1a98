"""Kernels as whole matrices in memory."""

from collections.abc import Mapping

from torch import Tensor

from eigenscope._types import KernelMethod, KernelOutputs
from eigenscope.autodiff import large_empty
from eigenscope.budget import require_fits, resolve
from eigenscope.kernels.blocks import Block, Range
from eigenscope.kernels.engine import KernelEngine
from eigenscope.kernels.pairs import add_formed, add_pair
from eigenscope.kernels.scratch import Scratch
from eigenscope.kernels.triangles import mirror_lower
from eigenscope.problem import Problem


def kernel_matrices(
    problem: Problem,
    other: Problem | None,
    *,
    groups: Mapping[str, str],
    outputs: KernelOutputs,
    method: KernelMethod,
    memory: str | int | None,
) -> dict[str, Tensor]:
    """Compute the tangent kernels of groups of parameters.

    Args:
        problem: Samples of the rows.
        other: Samples of the columns; None for the same.
        groups: Parameter to the name of its group.
        outputs: "full" or "trace".
        method: How.
        memory: Budget.

    Returns:
        Group to kernel, rows and columns (sample, output) or samples alone, in the
        type that sums are taken in.

    Raises:
        ValueError: If the result does not fit the budget or is not finite.
    """
    columns = other or problem
    each = problem.num_outputs if outputs == "full" else 1
    shape = problem.num_samples * each, columns.num_samples * each
    names = dict.fromkeys(groups.values())
    budget = resolve(memory)
    itemsize = max(4, problem.dtype.itemsize)
    needed = len(names) * shape[0] * shape[1] * itemsize
    _require_room(needed, budget, shape, len(names), symmetric=other is None)
    engine = KernelEngine(
        problem,
        other,
        outputs=outputs,
        method=method,
        free_bytes=budget - needed,
    )
    return engine_matrices(engine, groups)


def engine_matrices(
    engine: KernelEngine, groups: Mapping[str, str]
) -> dict[str, Tensor]:
    """Compute the kernels of groups of parameters with an engine that is there.

    Args:
        engine: The engine.
        groups: Each of its parameters to the name of its group.

    Returns:
        Group to kernel, as `kernel_matrices`.

    Raises:
        ValueError: If a kernel is not finite.
    """
    shape, device = engine.shape, engine.problem.device
    results = {
        name: large_empty(shape, dtype=engine.dtype, device=device).zero_()
        for name in dict.fromkeys(groups.values())
    }
    _add_pairs(engine, results, groups)
    for result in results.values():
        if engine.is_symmetric:
            mirror_lower(result)
        require_finite_kernel(result, shape[0] // engine.problem.num_samples)
    return results


def _add_pairs(
    engine: KernelEngine, results: Mapping[str, Tensor], groups: Mapping[str, str]
) -> None:
    """Add the products of all pairs, each of which one of the ranks computes."""
    scratch, ranks = Scratch(), engine.ranks
    with ranks.together():
        wanted = set(ranks.deal_pairs(engine.all_pairs()))
        for *_, left, right in engine.pairs(wanted=wanted):
            add_ranges(results, groups, left, right, (0, 0), engine.outputs, scratch)
    for result in results.values():
        with ranks.sum_over_ranks(result):
            pass


def add_ranges(
    results: Mapping[str, Tensor],
    groups: Mapping[str, str],
    left: Range,
    right: Range,
    origin: tuple[int, int],
    outputs: KernelOutputs,
    scratch: Scratch,
) -> None:
    """Add the products of two ranges at their place in the results.

    Of a range with itself the lower triangle is added, and some of the upper one.

    Args:
        results: Group to matrix.
        groups: Parameter to group.
        left: Samples of some rows.
        right: Samples of some columns.
        origin: Samples of the matrix's first row and column.
        outputs: "full" or "trace".
        scratch: Memory that is used again.
    """
    spots = _spots(results, groups, left, right, origin, outputs)
    add_formed(spots, left.formed, right.formed, outputs, is_same=left is right)
    for a in left.blocks:
        for b in right.blocks:
            if left is not right or b.start < a.stop:
                spots = _spots(results, groups, a, b, origin, outputs)
                add_pair(spots, a, b, outputs, scratch)


def _spots(
    results: Mapping[str, Tensor],
    groups: Mapping[str, str],
    a: Block | Range,
    b: Block | Range,
    origin: tuple[int, int],
    outputs: KernelOutputs,
) -> dict[str, Tensor]:
    """Return the parts of the results that belong to some rows and columns."""
    each = [part.formed.num_outputs if outputs == "full" else 1 for part in (a, b)]
    rows = slice((a.start - origin[0]) * each[0], (a.stop - origin[0]) * each[0])
    columns = slice((b.start - origin[1]) * each[1], (b.stop - origin[1]) * each[1])
    views = {name: result[rows, columns] for name, result in results.items()}
    return {param: views[group] for param, group in groups.items()}


def require_finite_kernel(matrix: Tensor, each: int, first: int = 0) -> None:
    """Raise if an entry of a kernel overflowed.

    Args:
        matrix: Rows are samples, or samples and outputs.
        each: Rows of a sample.
        first: Sample of the first row.

    Raises:
        ValueError: Naming the first such sample.
    """
    if bool(matrix.sum().isfinite()):
        return
    bad = (~matrix.isfinite()).any(1)
    if bool(bad.any()):
        raise ValueError(
            "the tangent kernel must be finite; that of sample "
            f"{first + int(bad.nonzero()[0, 0]) // each} overflows {matrix.dtype}. "
            "Look at the scale of this sample and of the weights, or compute in "
            "float64."
        )


def _require_room(
    needed: int, budget: int, shape: tuple[int, int], count: int, *, symmetric: bool
) -> None:
    what = "kernel" if count == 1 else f"{count} kernels"
    way_out = (
        "write it to a run: es.NTK(problem).write(run)"
        if symmetric
        else "take some samples of x1 at a time"
    )
    require_fits(
        needed,
        budget,
        what=f"the {what} of {shape[0]} × {shape[1]} numbers",
        way_out=f"take outputs='trace', or {way_out}",
    )
