"""Spectra of a whole operator: exact where they fit, else estimated with an error."""

import math
from typing import Any, Final, Literal

import torch

from eigenscope._types import JsonValue, require_choice
from eigenscope.budget import resolve
from eigenscope.estimators.checkpoint import Checkpoint
from eigenscope.estimators.dense import (
    Factorization,
    exact_spectrum,
    smaller_side,
    spectrum_bytes,
)
from eigenscope.estimators.eigenpairs import FEW_ROWS, fits
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.lapack import MOST_ROWS
from eigenscope.estimators.matrices import Operand, require_square
from eigenscope.estimators.outer import find_outer
from eigenscope.estimators.polynomial import ChebyshevSampler
from eigenscope.estimators.probes import first_seed
from eigenscope.estimators.products import Products
from eigenscope.estimators.quadrature import LanczosSampler
from eigenscope.estimators.sampling import Sampling
from eigenscope.operators import (
    CurvatureOperator,
    Dense,
    Gram,
    LinearOperator,
    StoredGram,
)
from eigenscope.spectra import Spectrum
from eigenscope.store import Run

Method = Literal["auto", "exact", "slq", "kpm"]

_FORMED_ROWS: Final = 10_000  # of a matrix whose dense form costs no products


def spectrum(
    operator_or_matrix: Operand,
    *,
    method: Method = "auto",
    factorization: Factorization = "eigh",
    rank_bound: int | None = None,
    tolerance: float = 0.02,
    max_probes: int = 64,
    max_steps: int = 256,
    num_outer: int = 100,
    generator: torch.Generator | None = None,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str = "spectrum",
) -> Spectrum:
    """Eigenvalues of a symmetric D × D matrix as a measure, (1/D) Σ_i δ(λ_i).

    "exact" is exact to rounding. LAPACK runs in float64 whatever the dtype of the
    matrix. Of a Gram matrix the smaller side is computed; the eigenvalues that the
    larger side has besides are exactly zero and become one atom. Nothing else is
    merged or clamped: rounding leaves small, also negative, eigenvalues, and
    `noise_floor` = ε · |λ|_max · √D with ε of the dtype in which the matrix was formed
    marks them.

    "slq" and "kpm" need products alone. The pairs of one Krylov space that have
    converged, which are those at the ends, are taken as they are and projected off;
    probes stand for the rest, with weight 1 - m/D. "slq" gives each probe the Gauss
    rule of its own, fully reorthogonalized Lanczos recurrence; "kpm" its Chebyshev
    moments with Jackson's damping, which is coarser by far but keeps only three
    vectors per probe. `error` bounds the W1 distance to the true spectrum with 95 %
    confidence: the spread between probes, and what half the steps change. Steps and
    probes are added until it is at most `tolerance` · mean |λ|, or `converged` is
    false.

    Args:
        operator_or_matrix: A symmetric operator, tensor or NumPy array.
        method: "exact", only where the matrix fits the memory budget as D × D float64
            (for a Gram matrix its smaller side); "slq"; "kpm"; or "auto": exact for
            matrices and known factorizations (a Gram matrix, a Gauss-Newton
            matrix) that fit and for other operators of at most 2000 rows, else
            "slq".
        factorization: "eigh" takes the eigenvalues of the matrix. "svd", for a Gram
            matrix, takes the singular values σ of its factor and returns σ²: it keeps
            eigenvalues down to (ε · σ_max · √D)², which is then the noise floor,
            because the condition number is not squared.
        rank_bound: A proven bound r on the rank: all but the r eigenvalues of largest
            modulus are zero and become one atom. None for no further knowledge (the
            bound of a Gram matrix by its factor's shape is always used). For "exact".
        tolerance: Error of an estimate, relative to mean |λ|; 0 takes all probes and
            steps that are allowed.
        max_probes: The most probes, at least 2.
        max_steps: The most products for each of them, at least 2.
        num_outer: Dimension of the Krylov space that finds the outer eigenpairs; 0
            for none.
        generator: Source of all randomness; a fresh one with a fixed seed if None.
        memory: Budget such as "4GiB"; None for half of what is available. Bases that
            do not fit go to disk.
        run: A run that is open for writing: estimates leave every finished group of
            probes there, and go on from it.
        name: Name of this estimate within the run.

    Returns:
        The spectrum; estimates have `exact=False`, `error`, `converged` and the
        `quadrature` of every probe.

    Raises:
        ValueError: If the matrix is not square, finite and symmetric, does not fit
            the budget, or contradicts `rank_bound`; if an option is unknown or out of
            its range.
        TypeError: If it is no matrix of real floating-point numbers.

    Cost:
        "exact": 4/3 D³ operations and 8 D² bytes (plus the matrix in its own dtype
        where that is not float64). With "svd" about 4 n m min(n, m) operations at
        most and 16 n m bytes for an n × m factor. Estimates: `num_outer` products and
        then one for every step of every probe; up to eight probes go through the
        operator together, and "slq" keeps their steps · D numbers each.

    References:
        Lin, Saad, Yang (2016), Approximating spectral densities of large matrices,
        SIAM Review 58(1).

    Example:
        >>> from eigenscope.operators import gram
        >>> J = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
        >>> found = spectrum(gram(J, side="columns"))
        >>> found.values, found.weights
        (array([0., 4., 9.]), array([0.5 , 0.25, 0.25]))
        >>> A = torch.diag(torch.linspace(0.0, 1.0, 500, dtype=torch.float64))
        >>> found = spectrum(A, method="slq")
        >>> found.converged, abs(found.moment(1) - 0.5) < found.error
        (True, True)
    """
    require_choice("method", method, Method)
    require_choice("factorization", factorization, Factorization)
    require_square(operator_or_matrix)
    require_sizes(tolerance, max_probes, max_steps, num_outer)
    if method == "auto":
        method = chosen_method(operator_or_matrix, factorization, memory)
    if method == "exact":
        return exact_spectrum(
            operator_or_matrix,
            factorization=factorization,
            rank_bound=rank_bound,
            memory=memory,
        )
    if factorization != "eigh" or rank_bound is not None:
        raise ValueError(
            "factorization='svd' and rank_bound are for method='exact'; got "
            f"method={method!r}. Leave them out, or compute the exact spectrum."
        )
    made: dict[str, JsonValue] = {
        "method": method,
        "operator": type(operator_or_matrix).__name__,
        "dtype": str(operator_or_matrix.dtype).removeprefix("torch."),
        "dimension": operator_or_matrix.shape[0],
        "tolerance": tolerance,
        "max_probes": max_probes,
        "max_steps": max_steps,
        "seed": first_seed(generator),
    }
    return _sampled(operator_or_matrix, made, num_outer, memory, run, name)


def chosen_method(
    operand: Operand, factorization: Factorization, memory: str | int | None
) -> Method:
    """Dense where that is cheap and fits."""
    if factorization == "svd":
        return "exact"
    source = smaller_side(operand)
    is_known = not isinstance(source, LinearOperator) or source is not operand
    is_known |= isinstance(source, Dense | Gram | StoredGram)
    most = MOST_ROWS if is_known else FEW_ROWS
    if most == FEW_ROWS < source.shape[0] <= _FORMED_ROWS:
        is_formed = isinstance(source, CurvatureOperator) and source.has_cheap_dense()
        most = _FORMED_ROWS if is_formed else FEW_ROWS
    if source.shape[0] <= most and fits(lambda: spectrum_bytes(operand), memory):
        return "exact"
    return "slq"


def _sampled(
    operand: Operand,
    made: dict[str, JsonValue],
    num_outer: int,
    memory: str | int | None,
    run: Run | None,
    name: str,
) -> Spectrum:
    """An estimate: outer pairs, then probes."""
    options: dict[str, Any] = made
    budget = resolve(memory)
    products = Products(operand)
    try:
        outer = find_outer(
            products,
            num_vectors=min(num_outer, products.dim),
            seed=options["seed"],
            memory=budget // 3,
            checkpoint=Checkpoint(run, f"{name}.outer", made) if run else None,
        )
    except KeyboardInterrupt:
        raise Interrupted(None) from None
    seed = options["seed"] + num_outer
    if made["method"] == "slq":
        sampler: Any = LanczosSampler(
            products,
            outer,
            max_steps=options["max_steps"],
            seed=seed,
            memory=budget // 2,
        )
    else:
        sampler = ChebyshevSampler(products, outer, seed=seed, memory=budget // 2)
    sampling = Sampling(
        sampler,
        products,
        outer,
        tolerance=options["tolerance"],
        max_probes=options["max_probes"],
        max_steps=options["max_steps"],
        checkpoint=Checkpoint(run, name, made) if run else None,
        provenance=made,
    )
    return sampling.run()


def require_sizes(
    tolerance: float, max_probes: int, max_steps: int, num_outer: int
) -> None:
    """Raise unless the sizes of an estimate are in their ranges.

    Args:
        tolerance: Error of the estimate, relative to mean |λ|.
        max_probes: The most probes.
        max_steps: The most products for each of them.
        num_outer: Dimension of the Krylov space that finds the outer eigenpairs.

    Raises:
        ValueError: If one is not.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be finite and at least 0; got {tolerance}.")
    least = {"max_probes": (max_probes, 2), "max_steps": (max_steps, 2)}
    for name, (count, bound) in (least | {"num_outer": (num_outer, 0)}).items():
        if count < bound:
            raise ValueError(f"{name} must be at least {bound}; got {count}.")
