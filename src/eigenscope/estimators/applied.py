"""Functions of a matrix times vectors, f(A) B."""

import hashlib
import itertools
import math
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.budget import resolve
from eigenscope.estimators.functions import Function, finite_values
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.kept import KeptImages
from eigenscope.estimators.lapack import small_eigenpairs
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.products import Products
from eigenscope.estimators.recurrences import Recurrences
from eigenscope.precision import wide_lengths
from eigenscope.progress import progress
from eigenscope.store import Run

_STEP: Final = 4  # steps between two looks at a result


def apply_function(
    operator_or_matrix: Operand,
    function: Function,
    vectors: Float[Tensor, "dim"] | Float[Tensor, "dim vector"],
    *,
    tolerance: float | None = None,
    max_steps: int = 256,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str = "function",
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
        run: A run that is open for writing: every product is left there, and taken
            from there again, also for another function of the same vectors.
        name: Name of this estimate within the run.

    Returns:
        f(A) B, of the shape, dtype and device of B.

    Raises:
        ValueError: If the operator is not symmetric or a product not finite; if the
            vectors do not fit it; if max_steps do not suffice.
        TypeError: If it is no matrix of real floating-point numbers.
        Interrupted: On Ctrl-C, with f(A) B from the steps there are.

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
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be positive and finite; got {tolerance}.")
    rows = vectors.reshape(products.dim, -1).T.to(products.device, products.dtype)
    lengths = wide_lengths(rows, keepdim=True)
    lengths = lengths.to(rows)
    if not bool((lengths > 0).all()):
        raise ValueError("vectors must not be zero; f(A) 0 is 0. Leave them out.")
    if run is not None:
        products.kept = _kept_images(products, rows, max_steps, run, name)
    series = _Series(
        Recurrences(
            products, rows / lengths, outer=rows[:0], norm=0.0, memory=resolve(memory)
        ),
        function,
        limit=tolerance or (1e-8 if products.dtype == torch.float64 else 1e-4),
        max_steps=max_steps,
    )

    def scaled(images: Float[Tensor, "vector dim"]) -> Tensor:
        return (images * lengths).T.to(vectors).reshape(vectors.shape)

    try:
        series.settle()
        return scaled(series.images())
    except KeyboardInterrupt:
        known = scaled(series.images()) if series.has_begun else None
        raise Interrupted(known) from None


@final
class _Series:
    """f(A) b as a combination of Lanczos vectors, for several b."""

    def __init__(
        self,
        running: Recurrences,
        function: Function,
        *,
        limit: float,
        max_steps: int,
    ) -> None:
        self._running, self._function = running, function
        self._limit, self._max_steps = limit, max_steps
        self._weights: Float[np.ndarray, "vector step"] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is a first approximation."""
        return self._weights is not None

    def images(self) -> Float[Tensor, "vector dim"]:
        """Return f(A) b from the steps that were looked at."""
        if self._weights is None:
            raise AssertionError
        return self._running.combine(self._weights)

    def settle(self) -> None:
        """Take steps until four more change nothing beyond the limit."""
        running, total = self._running, self._max_steps
        for step in progress(itertools.count(1), label="f(A) B", total=total):
            running.step()
            is_over = not running.is_running.any()
            if not is_over and step % _STEP and step < total:
                continue
            change = self._look()
            if is_over or change <= self._limit:
                return
            if step >= total:
                raise ValueError(
                    f"f(A) B needs more than max_steps = {total} steps; the last ones "
                    f"changed it by {change:.2g} of its length. Allow more, or a "
                    "larger tolerance."
                )

    def _look(self) -> float:
        """Take the weights of all steps; return the largest relative change."""
        weights = _first_columns(self._running.tridiagonals(), self._function)
        old = weights[:, :0] if self._weights is None else self._weights
        missing = ((0, 0), (0, weights.shape[1] - old.shape[1]))
        change = np.linalg.norm(weights - np.pad(old, missing), axis=1)
        size = np.linalg.norm(weights, axis=1)
        self._weights = weights
        return float((change / np.where(size > 0, size, 1.0)).max())


def _kept_images(
    products: Products,
    rows: Float[Tensor, "vector dim"],
    max_steps: int,
    run: Run,
    name: str,
) -> KeptImages:
    """Where the products of these vectors' recurrences are kept."""
    identity: dict[str, JsonValue] = {
        "method": "lanczos",
        "operator": type(products.operator).__name__,
        "dimension": products.dim,
        "max_steps": max_steps,
        "vectors": hashlib.sha256(rows.cpu().numpy().tobytes()).hexdigest(),
    }
    most = max_steps * len(rows)
    shape = (most, products.dim)
    return KeptImages(run, name, identity, shape=shape, dtype=products.dtype)


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
    images = np.where(counted, finite_values(function, filled), 0.0)
    return np.einsum("pij,pj,pj->pi", turns, images, first)
