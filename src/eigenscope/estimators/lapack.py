"""Dense factorizations: the fastest safe LAPACK driver, in place where it can be.

Measured on two cores (float64, seconds): for n = 3000 all eigenvalues take 1.06
with SciPy's evr, which overwrites the matrix, and 1.09 with torch, which copies it;
with all vectors torch (evd) takes 2.0, SciPy's evd 2.5 and evr 2.9; the top twenty
pairs take 1.0 with evr. Singular values of a 3000 × 6000 matrix take 2.9 with torch
and 12.3 with SciPy.
"""

from typing import Final, Literal

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

Driver = Literal["evr", "evd"]

MOST_ROWS: Final = 46_340
"""Largest n with n² below 2³¹: LAPACK here counts in 32 bits."""
MOST_ROWS_EVD: Final = 32_766
"""Largest n with the 2n² + 6n + 1 words of evd's workspace below 2³¹."""
FEW: Final = 8
"""evr is the faster driver for at most n / 8 vectors."""


def choose_driver(size: int, *, num_vectors: int) -> Driver:
    """Driver that is fastest and safe for a size × size matrix.

    "evr" (SciPy, in place) for values alone or few vectors, "evd" (torch) for many,
    and "evr" again where evd's workspace outgrows 32-bit integers.

    Args:
        size: n.
        num_vectors: Eigenvectors that are wanted, 0 to n.

    Returns:
        The driver.

    Raises:
        ValueError: If n is too large for any of them.

    Example:
        >>> choose_driver(3000, num_vectors=0), choose_driver(3000, num_vectors=3000)
        ('evr', 'evd')
    """
    if size > MOST_ROWS:
        raise ValueError(
            f"a dense factorization needs at most {MOST_ROWS} rows, where LAPACK's "
            f"32-bit integers end; got {size}. Pass es.gram(jacobian) if its smaller "
            "side is below that, a layer's block, or fewer samples."
        )
    if num_vectors * FEW <= size or size > MOST_ROWS_EVD:
        return "evr"
    return "evd"


def peak_bytes(size: int, *, num_vectors: int) -> int:
    """Bytes of the matrix in float64 and of what the chosen driver adds.

    Args:
        size: n.
        num_vectors: Eigenvectors that are wanted, 0 to n.

    Returns:
        8 n² + 8 n · vectors for evr, 32 n² for evd (a copy and a workspace of 2n²).
    """
    if choose_driver(size, num_vectors=num_vectors) == "evr":
        return 8 * size * (size + num_vectors)
    return 32 * size * size


def eigenvalues(matrix: Float[Tensor, "n n"]) -> Float[np.ndarray, "n"]:
    """Eigenvalues of a symmetric float64 matrix, ascending; the matrix is destroyed.

    Args:
        matrix: Symmetric, float64, contiguous, on the CPU; overwritten.

    Returns:
        All eigenvalues.

    Cost:
        4/3 n³ operations and no further n × n array.
    """
    # The transposed view is in Fortran's order, so LAPACK works in place.
    return scipy.linalg.eigh(
        matrix.numpy().T,
        eigvals_only=True,
        overwrite_a=True,
        check_finite=False,
        driver=choose_driver(len(matrix), num_vectors=0),
    )


def largest_pairs(
    matrix: Float[Tensor, "n n"], count: int
) -> tuple[Float[Tensor, "k"], Float[Tensor, "n k"]]:
    """Eigenvalues and vectors at the upper end, ascending.

    Args:
        matrix: Symmetric, float64, contiguous, on the CPU. The same afterwards:
            LAPACK destroys the diagonal and one triangle, which are put back.
        count: How many pairs.

    Returns:
        The values and, as columns, unit vectors. All n pairs where "evd" is chosen.

    Cost:
        `peak_bytes`; 4/3 n³ operations and those of the vectors.
    """
    size = len(matrix)
    if choose_driver(size, num_vectors=count) == "evd":
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    diagonal = matrix.diagonal().clone()
    array = matrix.numpy().T
    values, vectors = scipy.linalg.eigh(
        array,
        lower=True,
        overwrite_a=True,
        check_finite=False,
        driver="evr",
        subset_by_index=[size - count, size - 1],
    )
    mirror(array)
    matrix.diagonal().copy_(diagonal)
    return torch.from_numpy(values), torch.from_numpy(vectors)


def mirror(array: Float[np.ndarray, "n n"], *, block: int = 512) -> None:
    """Copy the strict upper triangle to the lower one, block by block.

    Args:
        array: A square array, changed in place.
        block: Rows and columns copied at once.
    """
    size = len(array)
    for start in range(0, size, block):
        own = slice(start, start + block)
        corner = array[own, own]
        below = np.tril_indices(len(corner), -1)
        corner[below] = corner.T[below]
        array[start + block :, own] = array[own, start + block :].T


def singular_values(matrix: Float[Tensor, "n m"]) -> Float[np.ndarray, "r"]:
    """Singular values, ascending.

    Args:
        matrix: Float64, on the CPU; not changed.

    Returns:
        min(n, m) values.

    Cost:
        A copy of the matrix and about 4 n m min(n, m) operations at most.
    """
    choose_driver(min(matrix.shape), num_vectors=0)
    return torch.linalg.svdvals(matrix).numpy()[::-1].copy()


def small_eigenpairs(
    matrices: Float[np.ndarray, "*batch size size"],
) -> tuple[Float[np.ndarray, "*batch size"], Float[np.ndarray, "*batch size size"]]:
    """All eigenpairs of the small matrices that a recurrence gives between products.

    By torch, whose threads are those of the products: NumPy's BLAS has threads of its
    own, which wait for more by spinning, and products take 1.6 times as long or more.

    Args:
        matrices: Symmetric matrices.

    Returns:
        Eigenvalues, ascending, and eigenvectors as columns.
    """
    values, vectors = torch.linalg.eigh(torch.from_numpy(matrices))
    return values.numpy(), vectors.numpy()
