"""Eigenpairs at the ends of a spectrum: dense or by products, whichever is apt."""

import math
import time
from collections.abc import Callable
from typing import Final, Literal, TypeGuard, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue, require_choice
from eigenscope.budget import resolve
from eigenscope.estimators.checkpoint import Checkpoint
from eigenscope.estimators.dense import (
    DensePairs,
    code,
    exact_eigenpairs,
    pairs_bytes,
)
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.lanczos import Found, Search
from eigenscope.estimators.lapack import MOST_ROWS
from eigenscope.estimators.matrices import Operand, require_square
from eigenscope.estimators.order import Which
from eigenscope.estimators.probes import first_seed
from eigenscope.estimators.products import Products
from eigenscope.estimators.raised_pairs import has_fewer_rows, num_rows, raised_pairs
from eigenscope.operators import (
    CurvatureOperator,
    Dense,
    Gram,
    LinearOperator,
    StoredGram,
)
from eigenscope.operators.gauss_newton import OutputCurvature
from eigenscope.spectra import Eigenpairs
from eigenscope.store import Run

PairsMethod = Literal["auto", "exact", "lanczos"]

FEW_ROWS: Final = 2000  # a dense form costs D products, and Lanczos hundreds
_MANY_ROWS: Final = 4096  # beyond, Lanczos is faster on a matrix in memory, too


def top_eigenpairs(
    operator_or_matrix: Operand,
    k: int,
    *,
    which: Which = "largest",
    method: PairsMethod = "auto",
    tolerance: float | None = None,
    block_size: int | None = None,
    max_matvecs: int | None = None,
    start: Float[Tensor, "dim vector"] | None = None,
    generator: torch.Generator | None = None,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str = "eigenpairs",
) -> Eigenpairs:
    """Solutions (λ, v) of A v = λ v at an end of the spectrum, k of them, best first.

    "exact" is LAPACK in float64. Of a Gram matrix on its larger side, say 𝒥ᵀ𝒥, pairs
    with λ above the noise floor come from the smaller side, 𝒥𝒥ᵀ w = λ w, as
    v = 𝒥ᵀ w / √λ, orthogonalized in float64. So do those of a Gauss-Newton or Fisher
    matrix FᵀF with at most 2000 rows of F, one for each output of each sample.

    "lanczos" needs products alone: block Lanczos with full reorthogonalization, so
    no eigenvalue shows twice that is there once, and with thick restarts. Fresh
    random blocks then have to find nothing better beside the converged pairs, so
    multiplicities are right, however large.

    Args:
        operator_or_matrix: A symmetric operator, tensor or NumPy array.
        k: Number of pairs, 1 to D.
        which: "largest" orders descending, "smallest" ascending, "magnitude" by |λ|
            descending; "both" gives the ⌈k/2⌉ largest, descending, then the ⌊k/2⌋
            smallest, ascending.
        method: "exact", "lanczos", or "auto": exact for Gram matrices that fit the
            budget, matrices of at most 4096 rows, other operators of at most 2000, and
            Gauss-Newton and Fisher matrices of at most 2000 outputs of all samples.
        tolerance: A pair has converged if ‖A v - λ v‖ ≤ tolerance · |λ|_max; None for
            1e-6, or 1000 ε where the operator's dtype is too narrow for that.
        block_size: Vectors that are multiplied together; None for 1 with a Hessian,
            Gauss-Newton or Fisher matrix, else 2. More make products cheaper where
            a matrix is read for them, and need more of them.
        max_matvecs: Products that Lanczos may take; None for max(2000, 200 k). Pairs
            that have not converged by then are returned and flagged.
        start: Vectors to begin with, such as the eigenvectors of a matrix that is
            much the same. Near the wanted ones they save products; whatever they are,
            the pairs are those of this matrix. "exact" has no use for them.
        generator: Source of the random starts; a fresh one with a fixed seed if None.
        memory: Budget such as "4GiB"; None for half of what is available. A basis
            that does not fit goes to disk.
        run: A run that is open for writing; Lanczos leaves its state there at every
            restart, and goes on from it.
        name: Name of this estimate within the run.

    Returns:
        The pairs. Vectors have the operator's dtype and device, and the residuals are
        those of the returned vectors; values, residuals and flags are on the CPU.

    Raises:
        ValueError: If k is not between 1 and D; if the matrix is not square, finite
            and symmetric, or the products show that it is not; if it does not fit the
            budget with "exact"; if `start` is not finite or of another shape; if an
            option is unknown or out of its range.
        TypeError: If it is no matrix of real floating-point numbers.

    Cost:
        "exact": 8 D² bytes and 4/3 D³ operations for at most D/8 pairs at the upper
        end of a Gram matrix, D being the smaller side where that is used; else 32 D²
        bytes and about 9 D³ operations for all pairs. "lanczos": tens of products for
        isolated eigenvalues, hundreds at the edge of a bulk; a basis of
        max(4 k, 100) vectors.

    References:
        Wu and Simon (2000), SIAM J. Matrix Anal. Appl. 22(2): thick restart.

    Example:
        >>> pairs = top_eigenpairs(torch.diag(torch.tensor([1.0, -5.0, 3.0])), 2)
        >>> pairs.values.tolist(), pairs.vectors.abs().T.tolist()
        ([3.0, 1.0], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """
    require_choice("which", which, Which)
    require_choice("method", method, PairsMethod)
    started = time.perf_counter()
    dimension = require_square(operator_or_matrix)
    if not 1 <= k <= dimension:
        raise ValueError(
            f"k must be between 1 and the dimension, {dimension}; got {k}."
        )
    limit = default_tolerance(operator_or_matrix) if tolerance is None else tolerance
    _require_positive(limit, block_size, max_matvecs)
    if start is not None:
        _require_start(start, dimension)
    made: dict[str, JsonValue] = {"which": which, "tolerance": limit}
    exact = _exact(operator_or_matrix, k, which, method, memory)
    if exact is not None:
        values, vectors, residuals, largest, how = exact
        made |= how | {"seconds": time.perf_counter() - started}
        return Eigenpairs(
            values=values,
            vectors=vectors,
            residuals=residuals,
            converged=residuals <= limit * largest,
            provenance=made | code(),
        )
    made |= {
        "method": "lanczos",
        "operator": type(operator_or_matrix).__name__,
        "dtype": str(operator_or_matrix.dtype).removeprefix("torch."),
        "dimension": dimension,
        "k": k,
        "block_size": min(
            block_size or default_block_size(operator_or_matrix), dimension
        ),
        "seed": first_seed(generator),
        "num_start": 0 if start is None else start.shape[1],
    }
    most = max_matvecs or max(2000, 200 * k)
    checkpoint = Checkpoint(run, name, made) if run else None
    budget = resolve(memory)
    return _by_lanczos(operator_or_matrix, made, most, start, budget, checkpoint)


def _exact(
    operand: Operand,
    k: int,
    which: Which,
    method: PairsMethod,
    memory: str | int | None,
) -> DensePairs | None:
    """Return the pairs by LAPACK, None where Lanczos is to find them."""
    if takes_raised_pairs(operand, k, which, method, memory):
        found = raised_pairs(operand, k)
        if found is not None:
            return found
    if method == "auto":
        method = chosen_pairs_method(operand, k, which, memory)
    if method == "lanczos":
        return None
    return exact_eigenpairs(operand, k, which=which, memory=memory)


def takes_raised_pairs(
    operand: Operand,
    k: int,
    which: Which,
    method: PairsMethod,
    memory: str | int | None,
) -> TypeGuard[OutputCurvature]:
    """Whether pairs come from the side of the outputs, if that has enough of them.

    Args:
        operand: A square operand.
        k: Number of pairs.
        which: Which pairs.
        method: As for `top_eigenpairs`.
        memory: Budget.

    Returns:
        Whether they do.
    """
    if method == "lanczos" or not has_fewer_rows(operand, k, which, memory):
        return False
    return method == "exact" or num_rows(operand) <= FEW_ROWS


def default_tolerance(operand: Operand) -> float:
    """1e-6, or 1000 ε of a dtype that is too narrow for that.

    Args:
        operand: A square operand.

    Returns:
        The tolerance, relative to |λ|_max.
    """
    wide = torch.finfo(torch.float64).eps
    if isinstance(operand, np.ndarray):
        epsilon = max(float(np.finfo(operand.dtype).eps), wide)
    else:
        epsilon = torch.finfo(operand.dtype).eps
    return max(1e-6, min(1000 * epsilon, 0.1))


def default_block_size(operand: Operand) -> int:
    """Vectors that Lanczos multiplies together unless told.

    Two cost one reading of a matrix. A curvature matrix takes a pass for each vector,
    and a block of one reaches a tolerance with 1.3 to 1.6 times fewer of them.

    Args:
        operand: A square operand.

    Returns:
        1 for a curvature matrix, else 2.
    """
    return 1 if isinstance(operand, CurvatureOperator) else 2


def fits(num_bytes: Callable[[], int], memory: str | int | None) -> bool:
    """Whether a dense path can be taken.

    Args:
        num_bytes: What it needs; raises ValueError where LAPACK cannot count it.
        memory: Budget.

    Returns:
        Whether it fits.
    """
    try:
        return num_bytes() <= resolve(memory)
    except ValueError:
        return False


def chosen_pairs_method(
    operand: Operand, k: int, which: Which, memory: str | int | None
) -> PairsMethod:
    """Dense where that is cheap and fits."""
    size = operand.shape[0]
    if isinstance(operand, Gram | StoredGram):
        most = MOST_ROWS
    elif isinstance(operand, LinearOperator) and not isinstance(operand, Dense):
        most = FEW_ROWS
    else:
        most = _MANY_ROWS
    is_small = min(size, *_factor_shape(operand)) <= most
    if is_small and fits(lambda: pairs_bytes(operand, k, which), memory):
        return "exact"
    return "lanczos"


def _factor_shape(operand: Operand) -> tuple[int, int]:
    return operand.factor.shape if isinstance(operand, Gram) else operand.shape


def _by_lanczos(
    operand: Operand,
    made: dict[str, JsonValue],
    max_matvecs: int,
    start: Tensor | None,
    memory: int,
    checkpoint: Checkpoint | None,
) -> Eigenpairs:
    """Search, and turn what was found into a result."""
    started = time.perf_counter()
    products = Products(operand)
    search = Search(
        products,
        k=cast("int", made["k"]),
        which=cast("Which", made["which"]),
        tolerance=cast("float", made["tolerance"]),
        block_size=cast("int", made["block_size"]),
        max_matvecs=max_matvecs,
        seed=cast("int", made["seed"]),
        start=start,
        memory=memory,
        checkpoint=checkpoint,
    )

    def as_pairs(found: Found) -> Eigenpairs:
        residuals = torch.from_numpy(found.residuals)
        how: dict[str, JsonValue] = {
            "num_matvecs": products.count,
            "num_restarts": found.num_restarts,
            "multiplicities_confirmed": found.num_confirmed > 0,
            "seconds": time.perf_counter() - started,
        }
        return Eigenpairs(
            values=torch.from_numpy(found.values),
            vectors=found.vectors.T.to(products.operator.dtype),
            residuals=residuals,
            converged=residuals <= cast("float", made["tolerance"]) * found.norm,
            provenance=made | products.remarks() | how | code(),
        )

    try:
        return as_pairs(search.run())
    except Interrupted as stop:
        partial = None if stop.partial is None else as_pairs(stop.partial)
        raise Interrupted(partial) from None


def _require_positive(
    tolerance: float, block_size: int | None, max_matvecs: int | None
) -> None:
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be positive and finite; got {tolerance}.")
    for name, count in (("block_size", block_size), ("max_matvecs", max_matvecs)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}.")


def _require_start(start: Tensor, dimension: int) -> None:
    if start.ndim != 2 or len(start) != dimension or not start.shape[1]:
        raise ValueError(
            f"start must hold vectors as columns, shape ({dimension}, vector); got "
            f"{tuple(start.shape)}. Pass pairs.vectors of a matrix of this size."
        )
    if not bool(torch.isfinite(start).all()):
        raise ValueError(
            "start must be finite; it holds NaN or infinity. Leave it out to begin "
            "with random vectors."
        )
