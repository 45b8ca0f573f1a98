"""What stored Gram matrices and their eigenvalues will cost."""

import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch

from eigenscope.budget import format_bytes, resolve
from eigenscope.estimators.lapack import MOST_ROWS, peak_bytes
from eigenscope.experiments.jacobian_spectra import JacobianPlan
from eigenscope.operators import InputJacobian, gram
from eigenscope.operators.computed_blocks import ComputedBlocks
from eigenscope.operators.gram_tiles import rows_of_tile
from eigenscope.planning import Plan, Step
from eigenscope.planning.factorizations import (
    eigenvalue_flops,
    eigenvalue_method,
    eigenvalue_seconds,
    product_seconds,
)
from eigenscope.store import Run

_TILE: Final = 2048
_PROBED: Final = 2**21  # numbers that are written and read to see how long it takes
_OUTER, _TOGETHER, _TYPICAL_STEPS = 100, 8, 48
_MOST_PROBES, _MOST_STEPS = 64, 256


@cache
def file_rates() -> tuple[float, float]:
    """Return the seconds of a byte that is written into a run, and read from it.

    Returns:
        Both, with checksums, of a tile in the folder for temporary files.
    """
    values = np.zeros(_PROBED, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with Run.create(path, verb="plan", arguments={}, ranks="own") as run:
            array = run.array(
                "tile", shape=values.shape, dtype="float32", tile_shape=values.shape
            )
            started = time.perf_counter()
            array.write((0,), values)
            written = time.perf_counter()
            array.read_into(values, (slice(0, len(values)),))
            read = time.perf_counter()
    return (written - started) / values.nbytes, (read - written) / values.nbytes


def gram_steps(
    jacobian: InputJacobian, name: str, wanted: JacobianPlan, *, is_derived: bool
) -> list[Plan | Step]:
    """Return the steps from rows on disk to a Gram matrix and its eigenvalues.

    Args:
        jacobian: The rows, not computed yet.
        name: Of the matrix.
        wanted: What is to be computed.
        is_derived: Whether the rows follow from the logits' on disk, which are read
            besides.

    Returns:
        Two steps.
    """
    rows, columns = jacobian.shape
    matrix = gram(jacobian, side=wanted.side)
    by_rows, size = matrix.side == "rows", matrix.shape[0]
    inner = rows * columns // size
    item = jacobian.dtype.itemsize
    tile = min(_TILE, size)
    passes = (-(-size // tile) + 1) / 2 if by_rows else 1
    passes += jacobian.layout == "samples"  # norms of all rows
    flops = float(size) * size * inner
    held = _gram_numbers(jacobian, wanted, by_rows=by_rows, is_derived=is_derived)
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
        is_shared=True,
        seconds=flops * product_seconds(jacobian.dtype) + reading * file_rates()[1],
    )
    eigenvalues = eigenvalue_step(
        size,
        f"eigenvalues, {name}",
        num_vectors=wanted.num_vectors,
        memory=wanted.memory,
    )
    return [product, eigenvalues]


def _gram_numbers(
    jacobian: InputJacobian,
    wanted: JacobianPlan,
    *,
    by_rows: bool,
    is_derived: bool,
) -> int:
    """Return the numbers in memory: blocks of rows, and a tile or the whole matrix.

    By rows pairs of blocks are multiplied, one with itself where it is the only one;
    else the products of columns are added up.
    """
    rows, columns = jacobian.shape
    source = cast("ComputedBlocks", jacobian.source)
    samples = min(source.tile_samples(resolve(wanted.memory)), source.num_samples)
    unit = samples * jacobian.rows_per_sample
    stored = unit * columns if is_derived else 0
    if not by_rows:
        return columns * columns + unit * columns + stored
    item = jacobian.dtype.itemsize
    tile = min(rows_of_tile(unit, columns * item, resolve(wanted.memory)), rows)
    blocks = 2 if tile < rows else 1
    return blocks * tile * columns + stored + tile * tile


def eigenvalue_step(
    size: int, name: str, *, num_vectors: int = 0, memory: str | int | None
) -> Step:
    """Return the step of a stored matrix's spectrum, estimated if it does not fit.

    Args:
        size: Rows of the matrix.
        name: Of the step.
        num_vectors: Eigenvectors that are wanted, too.
        memory: Budget.

    Returns:
        The step.
    """
    budget, rows = resolve(memory), min(size, MOST_ROWS)
    needed = peak_bytes(rows, num_vectors=min(num_vectors, rows))
    if size > MOST_ROWS or needed > budget:
        return _from_tiles(size, name, needed)
    return Step(
        name=name,
        method=eigenvalue_method(rows),
        flops=eigenvalue_flops(size, num_vectors=num_vectors),
        host_bytes=needed,
        seconds=eigenvalue_seconds(size, num_vectors=num_vectors),
    )


def _from_tiles(size: int, name: str, needed: int) -> Step:
    """Return the step of an estimate from products with tiles that are on disk."""
    count = _OUTER + _TOGETHER * _TYPICAL_STEPS
    blocks = count / _TOGETHER
    flops = 2.0 * size * size * count
    reading = blocks * size * size / 2 * 4
    basis = 2 * (_OUTER + _TOGETHER * _TYPICAL_STEPS) * size * 4
    seconds = 2 * flops * product_seconds(torch.float32) + reading * file_rates()[1]
    return Step(
        name=name,
        method="slq from tiles",
        reason=f"LAPACK would need {format_bytes(needed)}; {count} products expected",
        flops=flops,
        host_bytes=basis + _TILE * _TILE * 4,
        seconds=seconds,
        at_most=seconds * (_OUTER + _MOST_PROBES * _MOST_STEPS) / count,
    )
