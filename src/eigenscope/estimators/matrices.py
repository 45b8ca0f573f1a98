"""A matrix or an operator as a float64 matrix that LAPACK may overwrite."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.budget import require_fits
from eigenscope.operators import Gram, LinearOperator, StoredGram, SymmetricOperator
from eigenscope.precision import to_host

Operand = LinearOperator | Tensor | np.ndarray

BLOCK: Final = 1024


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A dense form and what is known about it.

    Attributes:
        matrix: float64, contiguous, on the CPU, and nobody else's.
        epsilon: Unit roundoff ε of the dtype in which it was formed.
        dtype: That dtype's name.
        asymmetry: max|A - Aᵀ| / max|A|.
    """

    matrix: Float[Tensor, "row column"]
    epsilon: float
    dtype: str
    asymmetry: float


def require_square(operand: Operand) -> int:
    """Check what can be told without looking at the entries.

    Args:
        operand: A matrix or an operator.

    Returns:
        The number of rows.

    Raises:
        TypeError: If it is neither, or not made of real floating-point numbers.
        ValueError: If it is not square, or has no rows.
    """
    if not isinstance(operand, LinearOperator | Tensor | np.ndarray):
        raise TypeError(
            "operator_or_matrix must be an operator, a torch tensor or a NumPy array; "
            f"got {type(operand).__name__}."
        )
    if isinstance(operand, np.ndarray):
        is_real = operand.dtype.kind == "f"
    else:
        is_real = operand.dtype.is_floating_point
    if not is_real:
        raise TypeError(
            f"the matrix must have a real floating-point dtype; got {operand.dtype}. "
            "Convert it, for example to float64."
        )
    shape = tuple(operand.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(
            f"the matrix must be square with at least one row; got shape {shape}. "
            "For the singular values of a Jacobian pass es.gram(jacobian)."
        )
    return shape[0]


def require_budget(needed: int, *, what: str, memory: str | int | None) -> None:
    """Raise unless a dense form and its workspace fit the memory budget.

    Args:
        needed: Bytes of both.
        what: What needs them, the subject of the message.
        memory: The budget.

    Raises:
        ValueError: If it does not fit.
    """
    way_out = "use fewer rows, or pass es.gram(jacobian), whose smaller side is taken"
    require_fits(needed, memory, what=f"{what} with its workspace", way_out=way_out)


def extra_bytes(operand: Operand) -> int:
    """Bytes of an operator's dense form that live beside the float64 copy.

    Args:
        operand: A matrix, which exists anyway, or an operator.

    Returns:
        0 for a matrix or an operator in float64.
    """
    if not isinstance(operand, LinearOperator) or operand.dtype == torch.float64:
        return 0
    return operand.shape[0] * operand.shape[1] * operand.dtype.itemsize


def load(operand: Operand) -> Loaded:
    """Dense form of a square operand in float64, checked entry by entry.

    Args:
        operand: A square matrix or operator.

    Returns:
        The matrix, which may be overwritten: the operand's own entries stay.

    Raises:
        ValueError: If an entry is not finite, or the matrix is not symmetric to
            √ε · max|A|.
    """
    epsilon, dtype, matrix = _in_float64(operand)
    require_finite(matrix)
    asymmetry = 0.0
    if not isinstance(operand, SymmetricOperator):
        asymmetry = require_symmetric(matrix, tolerance=epsilon**0.5)
    return Loaded(matrix=matrix, epsilon=epsilon, dtype=dtype, asymmetry=asymmetry)


def load_factor(factor: LinearOperator) -> Loaded:
    """Dense form of a rectangular operator in float64, with finite entries.

    Args:
        factor: The operator.

    Returns:
        The matrix.
    """
    epsilon, dtype, matrix = _in_float64(factor)
    require_finite(matrix)
    return Loaded(matrix=matrix, epsilon=epsilon, dtype=dtype, asymmetry=0.0)


def require_finite(matrix: Float[Tensor, "row column"]) -> None:
    """Raise unless all entries are finite, naming the first row where one is not.

    Args:
        matrix: The matrix.

    Raises:
        ValueError: If an entry is not finite.
    """
    for start in range(0, len(matrix), BLOCK):
        finite = torch.isfinite(matrix[start : start + BLOCK])
        if not bool(finite.all()):
            row, column = (~finite).nonzero()[0].tolist()
            value = float(matrix[start + row, column])
            raise ValueError(
                "all entries must be finite; the first row with one that is not is "
                f"row {start + row}: {value} in column {column}. Look at the sample "
                "behind that row, or compute in a wider dtype."
            )


def require_symmetric(matrix: Float[Tensor, "n n"], *, tolerance: float) -> float:
    """max|A - Aᵀ| / max|A|, which must be within the tolerance.

    Rows permuted against columns, as in a Gram matrix whose row blocks were stacked
    in another order than its columns, change it by an amount of order one.

    Args:
        matrix: A.
        tolerance: The largest asymmetry that rounding explains.

    Returns:
        The asymmetry.

    Raises:
        ValueError: If it is above the tolerance.
    """
    worst, place, largest = 0.0, (0, 0), 0.0
    for first in range(0, len(matrix), BLOCK):
        rows = matrix[first : first + BLOCK]
        largest = max(largest, float(rows.abs().max()))
        for second in range(0, first + 1, BLOCK):
            block = rows[:, second : second + BLOCK]
            mirrored = matrix[second : second + BLOCK, first : first + BLOCK]
            gaps = (block - mirrored.T).abs_()
            gap = float(gaps.max())
            if gap > worst:
                row, column = divmod(int(gaps.argmax()), gaps.shape[1])
                worst, place = gap, (first + row, second + column)
    asymmetry = worst / largest if largest else 0.0
    if asymmetry > tolerance:
        row, column = place
        raise ValueError(
            f"the matrix must be symmetric; A[{row}, {column}] = "
            f"{float(matrix[row, column]):.6g} and A[{column}, {row}] = "
            f"{float(matrix[column, row]):.6g} differ by {asymmetry:.2g} of max|A|, "
            f"and rounding explains {tolerance:.2g}. Were blocks of rows stacked in "
            "another order than the columns? If the two triangles are meant to "
            "agree, pass (A + A.T) / 2."
        )
    return asymmetry


def _in_float64(operand: Operand) -> tuple[float, str, Float[Tensor, "row column"]]:
    """Unit roundoff and name of the forming dtype, and an own float64 matrix."""
    if isinstance(operand, np.ndarray):
        epsilon = float(max(np.finfo(operand.dtype).eps, np.finfo(np.float64).eps))
        copy = np.array(operand, dtype=np.float64, order="C", subok=False)
        return epsilon, operand.dtype.name, torch.from_numpy(copy)
    dense = operand if isinstance(operand, Tensor) else operand.dense()
    # Partial products in float32 added up in float64 were formed in float32.
    formed = max(dense.dtype, operand.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    is_ours = isinstance(operand, Gram | StoredGram)
    matrix = to_host(dense.detach()).to(torch.float64, copy=not is_ours).contiguous()
    return torch.finfo(formed).eps, str(formed).removeprefix("torch."), matrix
