"""Eigenpairs of a curvature matrix FᵀF from those of F Fᵀ, which has fewer rows."""

from functools import partial
from typing import TypeGuard

from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.budget import resolve
from eigenscope.estimators import lapack
from eigenscope.estimators.dense import DensePairs
from eigenscope.estimators.long_vectors import orthonormal_rows
from eigenscope.estimators.matrices import Operand, extra_bytes, load
from eigenscope.estimators.order import Which
from eigenscope.operators.gauss_newton import OutputCurvature
from eigenscope.precision import wide_lengths
from eigenscope.spectra import rounding_floor

_COPIES = 5
"""Vectors for each pair: sums in float64 and their roundings; Q and what it is of."""


def has_fewer_rows(
    operand: Operand, k: int, which: Which, memory: str | int | None
) -> TypeGuard[OutputCurvature]:
    """Whether k pairs may come from the side of the outputs.

    Args:
        operand: A square operand.
        k: Number of pairs.
        which: Which pairs.
        memory: Budget.

    Returns:
        Whether it is a positive semi-definite FᵀF with k to D rows of F, the pairs are
        those of its largest eigenvalues, and the work fits.
    """
    is_upper = which in {"largest", "magnitude"}
    if not isinstance(operand, OutputCurvature) or not is_upper:
        return False
    small = operand.smaller_side() if operand.is_positive_semidefinite else None
    if small is None or k > small.shape[0]:
        return False
    solving = lapack.peak_bytes(small.shape[0], num_vectors=k) + extra_bytes(small)
    vectors = _COPIES * k * operand.shape[0] * operand.dtype.itemsize
    return max(solving, vectors) <= resolve(memory)


def num_rows(operand: OutputCurvature) -> int:
    """Return the rows of F, or D if they are not fewer.

    Args:
        operand: The matrix.

    Returns:
        Rows and columns of the matrix that is solved.
    """
    return (operand.smaller_side() or operand).shape[0]


def raised_pairs(operand: OutputCurvature, k: int) -> DensePairs | None:
    """K pairs as v = Fᵀ w / √λ, orthogonalized, from F Fᵀ w = λ w.

    Args:
        operand: A matrix that `has_fewer_rows`.
        k: Number of pairs.

    Returns:
        The pairs and how they were made; None where fewer eigenvalues than k are above
        rounding: then vectors of others are wanted, too.
    """
    small = operand.smaller_side() or operand
    loaded = load(small)
    # By one process: the same bits on all, and the host's processors for it alone.
    values, rows = operand.ranks.from_first(partial(_solved, loaded.matrix, k))
    largest, dimension = float(values[0]), operand.shape[0]
    floor = rounding_floor(largest, dimension=dimension, epsilon=loaded.epsilon)
    if float(values[-1]) <= floor:
        return None
    del loaded
    vectors, residuals = raise_vectors(operand, values, rows)
    how: dict[str, JsonValue] = {
        "method": "exact",
        "factorization": "eigh",
        "driver": lapack.choose_driver(small.shape[0], num_vectors=k),
        "size": small.shape[0],
        "operator": type(operand).__name__,
        "dtype": str(operand.dtype).removeprefix("torch."),
        **small.remarks(),
    }
    return values, vectors, residuals, largest, how


def raise_vectors(
    operand: OutputCurvature,
    values: Float[Tensor, " pair"],
    rows: Float[Tensor, "row pair"],
) -> tuple[Float[Tensor, "dim pair"], Float[Tensor, " pair"]]:
    """Return v = Fᵀ w / √λ, orthogonalized, and ‖A v - λ v‖.

    Args:
        operand: A.
        values: λ.
        rows: w.

    Returns:
        Unit vectors as columns, and their residuals.
    """
    scaled = (rows / values.sqrt()).to(operand.device, operand.dtype)
    raised = operand.factor.transposed_products(scaled).T
    # In rounding the rows are not quite orthogonal where λ is small.
    vectors, triangle = orthonormal_rows(raised)
    del raised
    vectors *= triangle.diagonal().sign()[:, None].to(vectors)
    gaps = (operand @ vectors.T).T - values[:, None].to(vectors) * vectors
    return vectors.T, wide_lengths(gaps).cpu()


def _solved(
    matrix: Float[Tensor, "row row"], k: int
) -> tuple[Float[Tensor, " pair"], Float[Tensor, "row pair"]]:
    """Return the k largest eigenvalues, descending, and their vectors."""
    values, vectors = lapack.largest_pairs(matrix, k)
    return values[-k:].flip(0), vectors[:, -k:].flip(1).contiguous()
