"""Exact spectra and eigenpairs of matrices that fit in memory."""

import time
from functools import cache
from typing import Literal

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue, require_choice
from eigenscope.estimators import lapack
from eigenscope.estimators.matrices import (
    Operand,
    extra_bytes,
    load,
    load_factor,
    require_budget,
    require_square,
)
from eigenscope.operators import Gram, LinearOperator, StoredGram, SymmetricOperator
from eigenscope.spectra import Eigenpairs, Spectrum, rounding_floor
from eigenscope.store.manifest import source_commit, versions

Method = Literal["auto", "exact"]
Factorization = Literal["eigh", "svd"]
Which = Literal["largest", "smallest", "magnitude", "both"]


def spectrum(
    operator_or_matrix: Operand,
    *,
    method: Method = "auto",
    factorization: Factorization = "eigh",
    rank_bound: int | None = None,
    memory: str | int | None = None,
) -> Spectrum:
    """All eigenvalues of a symmetric D × D matrix, (1/D) Σ_i δ(λ_i).

    Exact to rounding. LAPACK runs in float64 whatever the dtype of the matrix. Of a
    Gram matrix the smaller side is computed; the eigenvalues that the larger side has
    besides are exactly zero and become one atom. Nothing else is merged or clamped:
    rounding leaves small, also negative, eigenvalues, and `noise_floor` =
    ε · |λ|_max · √D with ε of the dtype in which the matrix was formed marks them.

    Args:
        operator_or_matrix: A symmetric operator, tensor or NumPy array; only one
            that fits in memory as D × D float64 (for a Gram matrix its smaller side).
        method: "exact", or "auto", which is "exact" wherever the matrix fits.
        factorization: "eigh" takes the eigenvalues of the matrix. "svd", for a Gram
            matrix, takes the singular values σ of its factor and returns σ²: it keeps
            eigenvalues down to (ε · σ_max · √D)², which is then the noise floor,
            because the condition number is not squared.
        rank_bound: A proven bound r on the rank: all but the r eigenvalues of largest
            modulus are zero and become one atom. None for no further knowledge (the
            bound of a Gram matrix by its factor's shape is always used).
        memory: Budget such as "4GiB"; None for half of what is available.

    Returns:
        The spectrum, with `exact=True`.

    Raises:
        ValueError: If the matrix is not square, finite and symmetric, does not fit
            the budget, or contradicts `rank_bound`; if an option is unknown.
        TypeError: If it is no matrix of real floating-point numbers.

    Cost:
        4/3 D³ operations and 8 D² bytes (plus the matrix in its own dtype where that
        is not float64). With "svd" about 4 n m min(n, m) operations at most and
        16 n m bytes for an n × m factor.

    Example:
        >>> from eigenscope.operators import gram
        >>> J = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
        >>> found = spectrum(gram(J, side="columns"))
        >>> found.values, found.weights
        (array([0., 4., 9.]), array([0.5 , 0.25, 0.25]))
    """
    require_choice("method", method, Method)
    require_choice("factorization", factorization, Factorization)
    started = time.perf_counter()
    dimension = require_square(operator_or_matrix)
    if factorization == "svd":
        values, floor, made = _squared_singular_values(operator_or_matrix, memory)
    else:
        values, floor, made = _eigenvalues(operator_or_matrix, memory)
    if rank_bound is not None:
        values = _largest_moduli(values, rank_bound, dimension=dimension, floor=floor)
    made |= {"rank_bound": rank_bound, "seconds": time.perf_counter() - started}
    return Spectrum.from_eigenvalues(
        values, dimension=dimension, noise_floor=floor, provenance=made | _code()
    )


def top_eigenpairs(
    operator_or_matrix: Operand,
    k: int,
    *,
    which: Which = "largest",
    tolerance: float = 1e-6,
    memory: str | int | None = None,
) -> Eigenpairs:
    """K solutions of A v = λ v at an end of the spectrum, best first.

    LAPACK in float64. Of a Gram matrix on its larger side, say 𝒥ᵀ𝒥, pairs with
    λ above the noise floor come from the smaller side, 𝒥𝒥ᵀ w = λ w, as
    v = 𝒥ᵀ w / √λ, orthogonalized in float64.

    Args:
        operator_or_matrix: A symmetric operator, tensor or NumPy array that fits in
            memory.
        k: Number of pairs, 1 to D.
        which: "largest" orders descending, "smallest" ascending, "magnitude" by |λ|
            descending; "both" gives the ⌈k/2⌉ largest, descending, then the ⌊k/2⌋
            smallest, ascending.
        tolerance: A pair has converged if ‖A v - λ v‖ ≤ tolerance · |λ|_max.
        memory: Budget such as "4GiB"; None for half of what is available.

    Returns:
        The pairs. Vectors have the operator's dtype and device, and the residuals are
        those of the returned vectors; values, residuals and flags are on the CPU.

    Raises:
        ValueError: If k is not between 1 and D, or as for `spectrum`.
        TypeError: If it is no matrix of real floating-point numbers.

    Cost:
        8 D² bytes and 4/3 D³ operations for at most D/8 pairs at the upper end of a
        Gram matrix, D being the smaller side where that is used; else 32 D² bytes and
        about 9 D³ operations for all pairs.

    Example:
        >>> pairs = top_eigenpairs(torch.diag(torch.tensor([1.0, -5.0, 3.0])), 2)
        >>> pairs.values.tolist(), pairs.vectors.abs().T.tolist()
        ([3.0, 1.0], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """
    require_choice("which", which, Which)
    started = time.perf_counter()
    dimension = require_square(operator_or_matrix)
    if not 1 <= k <= dimension:
        raise ValueError(
            f"k must be between 1 and the dimension, {dimension}; got {k}."
        )
    pairs = None
    if isinstance(operator_or_matrix, Gram) and which in {"largest", "magnitude"}:
        pairs = _from_smaller_side(operator_or_matrix, k, memory)
    if pairs is None:
        pairs = _from_dense(operator_or_matrix, k, which, memory)
    values, vectors, residuals, largest, made = pairs
    made |= {"which": which, "tolerance": tolerance}
    made |= {"seconds": time.perf_counter() - started}
    return Eigenpairs(
        values=values,
        vectors=vectors,
        residuals=residuals,
        converged=residuals <= tolerance * largest,
        provenance=made | _code(),
    )


def _eigenvalues(
    operand: Operand, memory: str | int | None
) -> tuple[Float[np.ndarray, "eig"], float, dict[str, JsonValue]]:
    """Eigenvalues that need computing, the noise floor and how they were made."""
    dimension = operand.shape[0]
    source = _smaller_side(operand)
    size = source.shape[0]
    require_budget(
        lapack.peak_bytes(size, num_vectors=0) + extra_bytes(source),
        what=f"the spectrum of a {size} × {size} matrix",
        memory=memory,
    )
    loaded = load(source)
    values = lapack.eigenvalues(loaded.matrix)
    floor = rounding_floor(
        float(np.abs(values).max()), dimension=dimension, epsilon=loaded.epsilon
    )
    driver = lapack.choose_driver(size, num_vectors=0)
    made: dict[str, JsonValue] = _how("eigh", driver, source) | {
        "dtype": loaded.dtype,
        "asymmetry": loaded.asymmetry,
    }
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
) -> tuple[Tensor, Tensor, Tensor, float, dict[str, JsonValue]]:
    """Values, vectors, residuals, |λ|_max and how they were made."""
    size = operand.shape[0]
    # The upper end alone gives |λ|_max only where no eigenvalue is negative.
    upper = isinstance(operand, Gram | StoredGram) and which in {"largest", "magnitude"}
    wanted = k if upper else size
    require_budget(
        lapack.peak_bytes(size, num_vectors=wanted) + extra_bytes(operand),
        what=f"the eigenvectors of a {size} × {size} matrix",
        memory=memory,
    )
    loaded = load(operand)
    values, vectors = lapack.largest_pairs(loaded.matrix, wanted)
    largest = float(values.abs().max())
    order = _best_first(values, k, which)
    values, vectors = values[order], vectors[:, order]
    if isinstance(operand, np.ndarray):
        vectors = vectors.to(getattr(torch, loaded.dtype, torch.float64))
    else:
        vectors = vectors.to(operand.device, operand.dtype)
    exact = vectors.to("cpu", torch.float64)
    residuals = torch.linalg.vector_norm(loaded.matrix @ exact - exact * values, dim=0)
    driver = lapack.choose_driver(size, num_vectors=wanted)
    made: dict[str, JsonValue] = _how("eigh", driver, operand) | {"dtype": loaded.dtype}
    return values, vectors, residuals, largest, made


def _from_smaller_side(
    operator: Gram, k: int, memory: str | int | None
) -> tuple[Tensor, Tensor, Tensor, float, dict[str, JsonValue]] | None:
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
    raised = (factor @ vectors).to("cpu", torch.float64) / values.sqrt()
    # In rounding the columns are not quite orthogonal where λ is small.
    orthogonal, triangle = torch.linalg.qr(raised)
    vectors = (orthogonal * triangle.diagonal().sign()).to(vectors)
    exact = vectors.to("cpu", torch.float64)
    products = (operator @ vectors).to("cpu", torch.float64)
    residuals = torch.linalg.vector_norm(products - exact * values, dim=0)
    return values, vectors, residuals, largest, made


def _best_first(values: Float[Tensor, "n"], k: int, which: Which) -> Tensor:
    """Places of the k wanted among ascending values, in the order of `which`."""
    ascending = torch.arange(len(values))
    if which == "smallest":
        return ascending[:k]
    if which == "magnitude":
        return values.abs().argsort(descending=True, stable=True)[:k]
    if which == "both":
        upper = ascending.flip(0)[: k - k // 2]
        return torch.cat([upper, ascending[: k // 2]])
    return ascending.flip(0)[:k]


def _smaller_side(operand: Operand) -> Operand:
    """An operator with fewer rows and the same non-zero eigenvalues, if there is."""
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
def _code() -> dict[str, JsonValue]:
    """Versions and commit of the code that computes."""
    packages: dict[str, JsonValue] = {**versions(), "scipy": scipy.__version__}
    return {"versions": packages, "commit": source_commit()}
