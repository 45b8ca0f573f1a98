"""The outer eigenpairs of an operator, found before its bulk is sampled."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.estimators.checkpoint import Checkpoint
from eigenscope.estimators.krylov import KrylovSpace
from eigenscope.estimators.products import Products
from eigenscope.progress import progress

_BLOCK: Final = 2
_ACCURACY: Final = 1e-3  # residual over |θ|; what it leaves is part of the error


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """Ritz pairs that have converged.

    Attributes:
        values: θ.
        vectors: Orthonormal Ritz vectors, as rows.
        error: 2/D Σ residuals, a bound on the W1 distance between the spectrum and
            that of A without what couples these vectors to the rest.
        norm: Largest |θ| or ‖A w‖ seen.
    """

    values: Float[np.ndarray, "outer"]
    vectors: Float[Tensor, "outer dim"]
    error: float
    norm: float


def find_outer(
    products: Products,
    *,
    num_vectors: int,
    seed: int,
    memory: int,
    checkpoint: Checkpoint | None = None,
) -> Outer:
    """Ritz pairs of one Krylov space with a residual of at most |θ|/1000.

    By Lidskii's theorem the eigenvalues of A and of the same A without its coupling
    between these vectors and the rest differ by at most 2 Σ residuals in sum, so they
    can be projected off as they are.

    Args:
        products: Products with A.
        num_vectors: Dimension of the Krylov space.
        seed: Seed of its first block.
        memory: Bytes for the basis and the vectors.
        checkpoint: Where the pairs are left, and found by a later process.

    Returns:
        The pairs, none if `num_vectors` is 0.
    """
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        state, vectors = saved
        rows = torch.empty(0, products.dim) if vectors is None else vectors
        error, norm, count = (float(number) for number in state["numbers"])
        products.count = int(count)
        return Outer(
            values=state["values"],
            vectors=rows.to(products.device, products.dtype),
            error=error,
            norm=norm,
        )
    found = _search(products, num_vectors, seed, memory)
    if checkpoint is not None:
        numbers = (found.error, found.norm, products.count)
        state = {"values": found.values, "numbers": np.array(numbers, dtype=np.float64)}
        vectors = found.vectors if len(found.vectors) else None
        checkpoint.save(state, vectors, most=len(found.vectors))
    return found


def _search(products: Products, num_vectors: int, seed: int, memory: int) -> Outer:
    """One Krylov space, and those of its Ritz pairs that have converged."""
    space = KrylovSpace(products, seed=seed, memory=memory)
    dim = products.dim
    steps = max(1, -(-min(num_vectors, dim) // _BLOCK))
    space.draw(min(_BLOCK, dim))
    for _ in progress(range(steps), label="outer eigenpairs", total=steps):
        space.expand()
        if space.is_whole:
            break
        if not space.num_next:
            space.draw(_BLOCK)
    ritz = space.ritz()
    chosen = ritz.residuals <= _ACCURACY * np.abs(ritz.values)
    if not num_vectors:
        chosen[:] = False
    return Outer(
        values=ritz.values[chosen],
        vectors=space.vectors(ritz.turns[:, chosen]),
        error=2 * float(ritz.residuals[chosen].sum()) / dim,
        norm=space.norm,
    )
