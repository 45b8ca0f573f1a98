"""Exact spectra and eigenpairs of matrices that fit in memory."""

import time
from functools import cache
from typing import Literal

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.distributed import ALONE, Ranks
from eigenscope.estimators import lapack
from eigenscope.estimators.matrices import (
    Operand,
    extra_bytes,
    load,
    load_factor,
    require_budget,
)
from eigenscope.estimators.order import Which, best_first
from eigenscope.operators import Gram, LinearOperator, StoredGram, SymmetricOperator
from eigenscope.precision import widened
from eigenscope.spectra import Spectrum, rounding_floor
from eigenscope.store.manifest import source_commit, versions

Factorization = Literal["eigh", "svd"]
DensePairs = tuple[Tensor, Tensor, Tensor, float, dict[str, JsonValue]]
"""Values, vectors, residuals, |λ|_max and how they were made."""


def exact_spectrum(
    operand: Operand,
    *,
    factorization: Factorization = "eigh",
    rank_bound: int | None = None,
    memory: str | int | None = None,
) -> Spectrum:
    """All eigenvalues by LAPACK; see `es.spectrum`.

    Args:
        operand: A square operand.
        factorization: "eigh" or "svd".
        rank_bound: A proven bound on the rank, or None.
        memory: Budget.

    Returns:
        The spectrum.

    Raises:
        ValueError: If the matrix is not finite and symmetric, does not fit, or
            contradicts `rank_bound`.
    """
    started = time.perf_counter()
    dimension = operand.shape[0]
    if factorization == "svd":
        values, floor, made = _squared_singular_values(operand, memory)
    else:
        values, floor, made = _eigenvalues(operand, memory)
    if rank_bound is not None:
        values = _largest_moduli(values, rank_bound, dimension=dimension, floor=floor)
    made |= {"rank_bound": rank_bound, "seconds": time.perf_counter() - started}
    return Spectrum.from_eigenvalues(
        values, dimension=dimension, noise_floor=floor, provenance=made | code()
    )


def exact_eigenpairs(
    operand: Operand, k: int, *, which: Which, memory: str | int | None
) -> DensePairs:
    """K pairs by LAPACK; see `es.top_eigenpairs`.

    Args:
        operand: A square operand.
        k: Number of pairs, 1 to D.
        which: Which pairs.
        memory: Budget.

    Returns:
        The pairs and how they were made.

    Raises:
        ValueError: If the matrix is not finite and symmetric, or does not fit.
    """
    if isinstance(operand, Gram) and which in {"largest", "magnitude"}:
        pairs = _from_smaller_side(operand, k, memory)
        if pairs is not None:
            return pairs
    return _from_dense(operand, k, which, memory)


def pairs_bytes(operand: Operand, k: int, which: Which) -> int:
    """Bytes that `exact_eigenpairs` needs beside the operand itself.

    Args:
        operand: A square operand.
        k: Number of pairs.
        which: Which pairs.

    Returns:
        The matrix, what LAPACK adds and the operand's own dense form.

    Raises:
        ValueError: If LAPACK cannot count so many rows.
    """
    size = operand.shape[0]
    if isinstance(operand, Gram) and which in {"largest", "magnitude"}:
        smaller = min(operand.factor.shape)
        size = smaller if k <= smaller else size
    wanted = k if _needs_upper_end_only(operand, which) else size
    return lapack.peak_bytes(size, num_vectors=wanted) + extra_bytes(operand)


def spectrum_bytes(operand: Operand) -> int:
    """Bytes that `exact_spectrum` needs beside the operand itself.

    Args:
        operand: A square operand.

    Returns:
        The matrix of the smaller side, and the operand's own dense form.

    Raises:
        ValueError: If LAPACK cannot count so many rows.
    """
    source = smaller_side(operand)
    return lapack.peak_bytes(source.shape[0], num_vectors=0) + extra_bytes(source)


def _ranks_of(operand: Operand) -> Ranks:
    return operand.ranks if isinstance(operand, LinearOperator) else ALONE


def _eigenvalues(
    operand: Operand, memory: str | int | None
) -> tuple[Float[np.ndarray, "eig"], float, dict[str, JsonValue]]:
    """Eigenvalues that need computing, the noise floor and how they were made."""
    dimension = operand.shape[0]
    source = smaller_side(operand)
    size = source.shape[0]
    require_budget(
        spectrum_bytes(operand),
        what=f"the spectrum of a {size} × {size} matrix",
        memory=memory,
    )
    loaded = load(source)
    # By one process: the same bits on all, and the host's processors for it alone.
    solved = _ranks_of(operand).from_first(
        lambda: torch.from_numpy(lapack.eigenvalues(loaded.matrix))
    )
    values = solved.numpy()
    floor = rounding_floor(
        float(np.abs(values).max()), dimension=dimension, epsilon=loaded.epsilon
    )
    driver = lapack.choose_driver(size, num_vectors=0)
    made: dict[str, JsonValue] = _how("eigh", driver, source) | {
        "dtype": loaded.dtype,
        "asymmetry": loaded.asymmetry,
    }
    if isinstance(source, SymmetricOperator):
        made |= source.remarks()
    if isinstance(operand, SymmetricOperator):
        made |= {"operator": type(operand).__name__, **operand.remarks()}
    return values, floor, made


def _squared_singular_values(
    operand: Operand, memory: str | int | None
) -> tuple[Float[np.ndarray, "eig"], float, dict[str, JsonValue]]:
    """σ² of a Gram matrix's factor, the noise floor and how they were made."""
    if not isinstance(operand, Gram):
        raise ValueError(
            "factorization='svd' needs a Gram operator, whose factor it takes; got "
            f"{type(operand).__name__}. Pass es.gram(jacobian), or use 'eigh'."
        )
    rows, columns = operand.factor.shape
    require_budget(
        16 * rows * columns + extra_bytes(operand.factor),
        what=f"the singular values of a {rows} × {columns} factor",
        memory=memory,
    )
    loaded = load_factor(operand.factor)
    values = lapack.singular_values(loaded.matrix)
    floor = rounding_floor(
        float(values[-1]), dimension=operand.shape[0], epsilon=loaded.epsilon
    )
    made: dict[str, JsonValue] = _how("svd", "gesdd", operand) | {"dtype": loaded.dtype}
    return values**2, floor**2, made


def _largest_moduli(
    values: Float[np.ndarray, "eig"], rank_bound: int, *, dimension: int, floor: float
) -> Float[np.ndarray, "kept"]:
    """The `rank_bound` values of largest modulus; the others must be rounding."""
    if not 0 <= rank_bound <= dimension:
        raise ValueError(
            f"rank_bound must be between 0 and the dimension, {dimension}; got "
            f"{rank_bound}."
        )
    order = np.argsort(-np.abs(values), kind="stable")
    dropped = values[order[rank_bound:]]
    # Products with many terms round by a small multiple of the floor.
    if len(dropped) and (left := abs(float(dropped[0]))) > 100 * floor:
        raise ValueError(
            f"rank_bound = {rank_bound} contradicts the matrix: its eigenvalue number "
            f"{rank_bound + 1} by modulus is {left:.6g}, far above the noise floor "
            f"{floor:.3g}. Leave rank_bound out, or correct it."
        )
    return values[order[:rank_bound]]


def _from_dense(
    operand: Operand, k: int, which: Which, memory: str | int | None
) -> DensePairs:
    """Values, vectors, residuals, |λ|_max and how they were made."""
    size = operand.shape[0]
    wanted = k if _needs_upper_end_only(operand, which) else size
    require_budget(
        lapack.peak_bytes(size, num_vectors=wanted) + extra_bytes(operand),
        what=f"the eigenvectors of a {size} × {size} matrix",
        memory=memory,
    )
    loaded = load(operand)
    values, vectors = lapack.largest_pairs(loaded.matrix, wanted)
    largest = float(values.abs().max())
    order = best_first(values, k, which)
    values, vectors = values[order], vectors[:, order]
    if isinstance(operand, np.ndarray):
        vectors = vectors.to(getattr(torch, loaded.dtype, torch.float64))
    else:
        vectors = vectors.to(operand.device, operand.dtype)
    exact = widened(vectors).cpu()
    residuals = torch.linalg.vector_norm(loaded.matrix @ exact - exact * values, dim=0)
    driver = lapack.choose_driver(size, num_vectors=wanted)
    made: dict[str, JsonValue] = _how("eigh", driver, operand) | {"dtype": loaded.dtype}
    return values, vectors, residuals, largest, made


def _from_smaller_side(
    operator: Gram, k: int, memory: str | int | None
) -> DensePairs | None:
    """The same through the other side, or None where that cannot give the vectors."""
    size = min(operator.factor.shape)
    if operator.shape[0] == size or k > size:
        return None
    small = operator.other_side()
    values, vectors, _, largest, made = _from_dense(small, k, "largest", memory)
    floor = rounding_floor(
        largest, dimension=operator.shape[0], epsilon=torch.finfo(operator.dtype).eps
    )
    if float(values[-1]) <= floor:
        return None
    factor = operator.factor.T if operator.side == "columns" else operator.factor
    raised = widened(factor @ vectors).cpu() / values.sqrt()
    # In rounding the columns are not quite orthogonal where λ is small.
    orthogonal, triangle = torch.linalg.qr(raised)
    vectors = (orthogonal * triangle.diagonal().sign()).to(vectors)
    exact = widened(vectors).cpu()
    products = widened(operator @ vectors).cpu()
    residuals = torch.linalg.vector_norm(products - exact * values, dim=0)
    return values, vectors, residuals, largest, made


def _needs_upper_end_only(operand: Operand, which: Which) -> bool:
    """The upper end alone gives |λ|_max only where no eigenvalue is negative."""
    return isinstance(operand, Gram | StoredGram) and which in {"largest", "magnitude"}


def smaller_side(operand: Operand) -> Operand:
    """An operator with fewer rows and the same non-zero eigenvalues, if there is.

    Args:
        operand: A square operand.

    Returns:
        The other operator, or the operand itself.
    """
    if isinstance(operand, SymmetricOperator):
        return operand.smaller_side() or operand
    return operand


def _how(factorization: str, driver: str, source: Operand) -> dict[str, JsonValue]:
    """What was factored, and with what."""
    made: dict[str, JsonValue] = {
        "method": "exact",
        "factorization": factorization,
        "driver": driver,
        "size": source.shape[0],
    }
    if isinstance(source, Gram):
        made["side"] = source.side
    if isinstance(source, StoredGram):
        made |= source.identity()
    if isinstance(source, LinearOperator):
        made["operator"] = type(source).__name__
    return made


@cache
def code() -> dict[str, JsonValue]:
    """Versions and commit of the code that computes.

    Returns:
        Part of a provenance.
    """
    packages: dict[str, JsonValue] = {**versions(), "scipy": scipy.__version__}
    return {"versions": packages, "commit": source_commit()}
