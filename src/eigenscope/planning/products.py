"""The step of an estimate's products with blocks of vectors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eigenscope.estimators.basis import panel_size
from eigenscope.estimators.matrices import Operand
from eigenscope.operators import LinearOperator
from eigenscope.planning.algebra import algebra_seconds
from eigenscope.planning.factorizations import product_seconds, reading_seconds
from eigenscope.planning.operators import product_job
from eigenscope.planning.plan import Step
from eigenscope.planning.rehearsal import Measurement
from eigenscope.planning.smaller import problem_of

Options = dict[str, Any]


def step_of_products(
    operand: Operand,
    effort: float,
    *,
    name: str,
    count: int,
    most: int,
    width: int,
    basis: int,
    afterwards: int = 0,
    kept_within: int | None = None,
    beside: float = 0.0,
) -> tuple[Step, tuple[Measurement, ...]]:
    """Return a step of products with blocks of vectors.

    Args:
        operand: The operator or matrix.
        effort: Seconds for rehearsals.
        name: Of the step.
        count: Vectors to be multiplied.
        most: The most of them.
        width: Vectors that are multiplied together.
        basis: Vectors that are held beside the products.
        afterwards: Those that are held when the products are over.
        kept_within: Bytes of the basis that are in memory; the rest is on disk.
        beside: Seconds of all else that is done with vectors.

    Returns:
        The step, and what was measured of products.
    """
    dim, width = operand.shape[0], min(width, max(1, count))
    item = itemsize(operand)
    orthogonal = 4 * dim * basis
    found: tuple[Measurement, ...] = ()
    if isinstance(operand, LinearOperator) and problem_of(operand) is not None:
        job = product_job(operand, width)
        found = job.rehearsed(effort)
        one = job.step(found)
    else:
        flops = 2.0 * dim * dim * width
        one = Step(
            name=name,
            method="matrix products",
            flops=flops,
            seconds=4 * flops * product_seconds(),  # narrow blocks read, hardly compute
        )
    blocks = count / width
    seconds = blocks * one.seconds + beside
    recorded = max(0, one.device_bytes - 3 * width * dim * item)
    whole = basis * dim * item
    kept = whole if kept_within is None else min(whole, kept_within)
    held = max(one.device_bytes + kept, recorded + afterwards * dim * item)
    on_host = held if one.host_bytes or not found else 0
    step = Step(
        name=name,
        method=one.method,
        reason=f"{count} products expected, {most} at most",
        passes=blocks * one.passes,
        forward=blocks * one.forward,
        backward=blocks * one.backward,
        flops=blocks * (one.flops + width * orthogonal),
        device_bytes=held,
        host_bytes=on_host,
        disk_bytes=whole - kept,
        seconds=seconds,
        at_most=seconds * most / count,
    )
    return step, found


def seconds_beside(
    function: Callable[..., object], operand: Operand, options: Options, **sizes: Any
) -> float:
    """Return the seconds of an estimate's vectors, by a matrix that costs nothing.

    Args:
        function: The estimate.
        operand: Its operator or matrix.
        options: Its other arguments.
        **sizes: As for `algebra_seconds`.

    Returns:
        Seconds.
    """
    on = operand.device if isinstance(operand, LinearOperator | Tensor) else None
    return algebra_seconds(
        function,
        options,
        dim=operand.shape[0],
        dtype=_dtype(operand),
        device=on or torch.device("cpu"),
        **sizes,
    )


def orthogonalizing_seconds(operand: Operand, width: int, most: int) -> float:
    """Return the seconds of a block against a basis that grows to some vectors.

    Narrow blocks hardly compute: they read the basis four times.

    Args:
        operand: The operator or matrix.
        width: Vectors in the block.
        most: Vectors in the basis at last.

    Returns:
        Seconds.
    """
    numbers = 4 * operand.shape[0] * most / 2
    words = numbers * itemsize(operand) / 8
    return max(2 * width * numbers * product_seconds(), words * reading_seconds())


def in_panels(count: int, vector_bytes: int) -> int:
    """Return the vectors that a basis of some makes room for: whole panels.

    Args:
        count: Vectors.
        vector_bytes: Bytes of one.

    Returns:
        At least as many.
    """
    rows = panel_size(max(1, vector_bytes))
    return -(-count // rows) * rows


def _dtype(operand: Operand) -> torch.dtype:
    """Return the type in which an operand's vectors are."""
    if isinstance(operand, np.ndarray):
        return torch.float32 if operand.dtype == np.float32 else torch.float64
    return operand.dtype


def itemsize(operand: Operand) -> int:
    """Return the bytes of an entry."""
    return operand.dtype.itemsize
