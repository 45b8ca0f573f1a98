"""How long LAPACK takes here, from small matrices and the speed of memory."""

import time
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
import torch
from scipy.linalg import get_blas_funcs

from eigenscope.estimators.lapack import choose_driver, eigenvalues

_SMALL: Final = 768
_LARGE: Final = 3072
_VECTORS: Final = 4.0  # n³ flops of all eigenvectors in products of matrices


def eigenvalue_flops(size: int, *, num_vectors: int = 0) -> float:
    """Return 4/3 n³, and what back-transforming eigenvectors adds.

    Args:
        size: n.
        num_vectors: Eigenvectors, 0 to n.

    Returns:
        Multiplications and additions.
    """
    return 4 / 3 * size**3 + _VECTORS * size**2 * num_vectors


def eigenvalue_seconds(size: int, *, num_vectors: int = 0) -> float:
    """Estimate the time of a dense symmetric eigenproblem in float64.

    Half of the work of making a matrix tridiagonal reads it, what is left of it, once
    for each column: 8 n³ / 6 bytes through the memory where it is larger than the
    cache. The other half are products of matrices.

    Args:
        size: n.
        num_vectors: Eigenvectors, 0 to n.

    Returns:
        Seconds.
    """
    cubic, reading, multiplying = _rates()
    together = max(
        cubic * size**3, reading * size**3 / 3 + multiplying * 2 / 3 * size**3
    )
    return together + _VECTORS * size**2 * num_vectors * multiplying


def eigenvalue_method(size: int, *, num_vectors: int = 0) -> str:
    """Return the name of LAPACK's driver.

    Args:
        size: n.
        num_vectors: Eigenvectors, 0 to n.

    Returns:
        Such as "LAPACK evr".
    """
    return f"LAPACK {choose_driver(size, num_vectors=num_vectors)}"


@cache
def product_seconds(dtype: torch.dtype = torch.float64) -> float:
    """Return the seconds of a multiplication and addition in large matrix products.

    Args:
        dtype: Of the matrices.

    Returns:
        Seconds per flop on the CPU.
    """
    factor = torch.ones(1024, 1024, dtype=dtype)
    return _fastest(lambda: factor @ factor) / (2 * 1024**3)


def reading_seconds() -> float:
    """Return the seconds of a number in float64 that is read from memory once.

    Returns:
        Seconds; a matrix times a vector reads half of the symmetric matrix.
    """
    return 2 * _rates()[1]


@cache
def _rates() -> tuple[float, float, float]:
    """Return seconds per n³ in the cache, per number read, and per flop of products."""
    source = np.random.default_rng(0)
    small = source.standard_normal((_SMALL, _SMALL))
    small += small.T

    def solve() -> None:
        eigenvalues(torch.from_numpy(small.copy()))

    large = np.zeros((_LARGE, _LARGE), order="F")
    vector = np.ones(_LARGE)
    (symmetric_product,) = get_blas_funcs(("symv",), (large, vector))

    def read() -> None:
        symmetric_product(1.0, large, vector)

    reading = _fastest(read) / _LARGE**2
    return _fastest(solve) / _SMALL**3, reading, product_seconds()


def _fastest(call: Callable[[], object]) -> float:
    found: list[float] = []
    for _ in range(4):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)
