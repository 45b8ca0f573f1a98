"""Functions of an operator: tr f(A), log det A, norms, and f(A) B."""

import itertools
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import require_choice
from eigenscope.budget import resolve
from eigenscope.estimators.eigenpairs import top_eigenpairs
from eigenscope.estimators.lapack import small_eigenpairs
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.products import Products
from eigenscope.estimators.recurrences import Recurrences
from eigenscope.estimators.whole import spectrum
from eigenscope.progress import progress
from eigenscope.spectra import Estimate, Spectrum

NormKind = Literal["frobenius", "nuclear", "spectral"]
Function = Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]

_STEP: Final = 4  # steps between two looks at a result


def spectral_sum(
    operator_or_spectrum: Operand | Spectrum, function: Function, **options: Any
) -> Estimate:
    """Tr f(A) = Σ_i f(λ_i) over all D eigenvalues.

    Through `es.spectrum`, so exact where that is. An estimate has its standard error
    over probes, and as `bias` what half the steps change.

    Args:
        operator_or_spectrum: A symmetric operator or matrix, or its spectrum, from
            which any number of sums cost nothing.
        function: f, applied to NumPy arrays; finite on the whole spectrum.
        **options: As for `es.spectrum`.

    Returns:
        The sum.

    Raises:
        ValueError: If f is not finite at an eigenvalue, or as for `es.spectrum`.

    Cost:
        That of `es.spectrum`.

    Example:
        >>> print(spectral_sum(np.diag([1.0, 2.0]), np.exp))
        10.1073 ± 0
    """
    if isinstance(operator_or_spectrum, Spectrum):
        found = operator_or_spectrum
    else:
        found = spectrum(operator_or_spectrum, **options)

    def checked(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        with np.errstate(all="ignore"):
            result = np.asarray(function(values), dtype=np.float64)
        broken = ~np.isfinite(result)
        if bool(broken.any()):
            raise ValueError(
                "the function must be finite on the whole spectrum; it is "
                f"{result[broken][0]} at {values[broken][0]:.6g}. Shift the operator, "
                "or choose a function that is defined there."
            )
        return result

    return found.sum(checked)


def log_determinant(
    operator_or_spectrum: Operand | Spectrum, **options: Any
) -> Estimate:
    """Log det A = Σ_i log λ_i of a positive definite matrix.

    Args:
        operator_or_spectrum: A symmetric operator or matrix, or its spectrum.
        **options: As for `es.spectrum`.

    Returns:
        The logarithm of the determinant.

    Raises:
        ValueError: If an eigenvalue is not above the noise floor, or as for
            `es.spectrum`.

    Cost:
        That of `es.spectrum`.

    Example:
        >>> print(log_determinant(np.diag([1.0, 2.0, 4.0])))
        2.07944 ± 0
    """
    if isinstance(operator_or_spectrum, Spectrum):
        found = operator_or_spectrum
    else:
        found = spectrum(operator_or_spectrum, **options)
    least = float(found.values[0])
    if least <= found.noise_floor:
        raise ValueError(
            "log det needs a positive definite matrix; its least eigenvalue is "
            f"{least:.6g}, and the noise floor {found.noise_floor:.3g}. Add a multiple "
            "of the identity, or use es.spectral_sum with another function."
        )
    return spectral_sum(found, np.log)


def norm(
    operator_or_spectrum: Operand | Spectrum,
    kind: NormKind = "frobenius",
    **options: Any,
) -> Estimate:
    """√Σλ² ("frobenius"), Σ|λ| ("nuclear") or max|λ| ("spectral").

    Args:
        operator_or_spectrum: A symmetric operator or matrix, or its spectrum.
        kind: Which norm.
        **options: As for `es.spectrum`, or with "spectral" as for
            `es.top_eigenpairs`.

    Returns:
        The norm. The spectral one has the residual of its eigenpair as `bias`: an
        eigenvalue is that near.

    Raises:
        ValueError: If the kind is unknown, or as for `es.spectrum`.

    Cost:
        That of `es.spectrum` or `es.top_eigenpairs`.

    Example:
        >>> print(norm(np.diag([3.0, -4.0])), norm(np.diag([3.0, -4.0]), "nuclear"))
        5 ± 0 7 ± 0
    """
    require_choice("kind", kind, NormKind)
    if kind == "nuclear":
        return spectral_sum(operator_or_spectrum, np.abs, **options)
    if kind == "frobenius":
        squares = spectral_sum(operator_or_spectrum, np.square, **options)
        value = max(float(squares.value), 0.0) ** 0.5
        slope = 0.5 / value if value else 0.0
        return Estimate(
            value=value,
            stderr=float(squares.stderr) * slope,
            bias=squares.bias * slope,
            num_matvecs=squares.num_matvecs,
            converged=squares.converged,
            provenance=squares.provenance,
        )
    if isinstance(operator_or_spectrum, Spectrum):
        found = operator_or_spectrum
        largest = float(np.abs(found.values).max())
        return Estimate(value=largest, stderr=0.0, num_matvecs=0)
    pairs = top_eigenpairs(operator_or_spectrum, 1, which="magnitude", **options)
    return Estimate(
        value=abs(float(pairs.values[0])),
        stderr=0.0,
        bias=float(pairs.residuals[0]),
        num_matvecs=int(str(pairs.provenance.get("num_matvecs", 0))),
        converged=bool(pairs.converged[0]),
        provenance=pairs.provenance,
    )


def apply_function(
    operator_or_matrix: Operand,
    function: Function,
    vectors: Float[Tensor, "dim"] | Float[Tensor, "dim vector"],
    *,
    tolerance: float | None = None,
    max_steps: int = 256,
    memory: str | int | None = None,
) -> Tensor:
    """f(A) B ≈ ‖b‖ V f(T) e₁ for every column b, T = VᵀAV from its Lanczos steps.

    Exact for polynomials of a lower degree than steps. Steps are taken until four more
    change no column by more than `tolerance` of its length.

    Args:
        operator_or_matrix: A symmetric operator, tensor or NumPy array A.
        function: f, applied to NumPy arrays; finite on the spectrum.
        vectors: B, one vector or columns, as `operator @ B` takes it.
        tolerance: Relative change; None for 1e-8 in float64 and 1e-4 below.
        max_steps: The most products for each column.
        memory: Budget such as "4GiB"; None for half of what is available. Bases that
            do not fit go to disk.

    Returns:
        f(A) B, of the shape, dtype and device of B.

    Raises:
        ValueError: If the operator is not symmetric or a product not finite; if the
            vectors do not fit it; if max_steps do not suffice.
        TypeError: If it is no matrix of real floating-point numbers.

    Cost:
        One product per column and step, and their steps · D numbers each.

    References:
        Higham (2008), Functions of Matrices, section 13.2.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
        >>> ones = torch.ones(3, dtype=torch.float64)
        >>> apply_function(A, np.sqrt, ones).round(decimals=9)
        tensor([1., 2., 3.], dtype=torch.float64)
    """
    products = Products(operator_or_matrix)
    if vectors.ndim not in {1, 2} or len(vectors) != products.dim:
        raise ValueError(
            f"vectors must have shape ({products.dim},) or ({products.dim}, m); got "
            f"{tuple(vectors.shape)}. If they are rows, pass vectors.T."
        )
    rows = vectors.reshape(products.dim, -1).T.to(products.device, products.dtype)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    limit = tolerance or (1e-8 if products.dtype == torch.float64 else 1e-4)
    starts = rows / torch.where(lengths > 0, lengths, 1.0)
    if not bool((lengths > 0).all()):
        raise ValueError("vectors must not be zero; f(A) 0 is 0. Leave them out.")
    running = Recurrences(
        products,
        starts.clone(),
        outer=rows[:0],
        norm=0.0,
        memory=resolve(memory),
    )
    weights = np.zeros((len(rows), 0))
    for step in progress(itertools.count(1), label="f(A) B", total=max_steps):
        running.step()
        is_over = not running.is_running.any()
        if not is_over and step % _STEP and step < max_steps:
            continue
        before = np.pad(weights, ((0, 0), (0, step - weights.shape[1])))
        weights = _first_columns(running.tridiagonals(), function)
        change = np.linalg.norm(weights - before, axis=1)
        size = np.linalg.norm(weights, axis=1)
        if is_over or bool((change <= limit * size).all()):
            break
        if step >= max_steps:
            raise ValueError(
                f"f(A) B needs more than max_steps = {max_steps} steps; the last ones "
                f"changed it by {float((change / size).max()):.2g} of its length. "
                "Allow more, or a larger tolerance."
            )
    result = (running.combine(weights) * lengths).T.to(vectors)
    return result.reshape(vectors.shape)


def _first_columns(
    matrices: Float[np.ndarray, "probe step step"], function: Function
) -> Float[np.ndarray, "probe step"]:
    """f(T) e₁ for each T."""
    values, turns = small_eigenpairs(matrices)
    first = turns[:, 0]
    # Behind a breakdown T has eigenvalues that e₁ knows nothing of.
    counted = np.abs(first) > 0
    filled = np.where(
        counted,
        values,
        np.take_along_axis(values, np.argmax(np.abs(first), 1)[:, None], 1),
    )
    images = np.where(counted, function(filled), 0.0)
    return np.einsum("pij,pj,pj->pi", turns, images, first)
