"""Eigenpairs at an end of a spectrum from products alone: block Lanczos."""

import itertools
import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.estimators.checkpoint import Checkpoint
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.krylov import KrylovSpace, Ritz
from eigenscope.estimators.order import Which, best_first
from eigenscope.estimators.probes import draw_probes
from eigenscope.estimators.products import Products
from eigenscope.precision import wide_lengths, widened
from eigenscope.progress import progress

_MISSED: Final = 10.0  # growth, over √D, of a missed eigenvector before it is ruled out
_POLISHES: Final = 3
_INDEPENDENT: Final = 1e-3  # of the longest direction, for one of a start to count
_MARGIN: Final = 0.5  # of the tolerance, for what the recurrence does not see


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Ritz pairs, best first, with the residuals of the vectors that are returned.

    Attributes:
        values: θ.
        vectors: Unit vectors, as rows.
        residuals: ‖A v - θ v‖, from products taken anew unless interrupted.
        norm: Largest |λ| that was seen.
        num_confirmed: Times that fresh random blocks found nothing better.
        num_restarts: Times that the basis was cut down.
    """

    values: Float[np.ndarray, "k"]
    vectors: Float[Tensor, "k dim"]
    residuals: Float[np.ndarray, "k"]
    norm: float
    num_confirmed: int
    num_restarts: int


@final
class Search:
    """Thick-restart block Lanczos with full reorthogonalization.

    When the wanted pairs have converged, everything else is forgotten and a fresh
    random block has to find nothing better beside them: a block finds no more copies
    of a multiple eigenvalue than it has vectors. The new block is trusted after so
    many steps that a missed eigenvector would have grown by 10 √D against the rest,
    by the Chebyshev bound of the gap that the Ritz values show.

    Args:
        products: Products with A.
        k: Number of pairs.
        which: Which of them.
        tolerance: Residual, relative to |λ|_max.
        block_size: Vectors in a block.
        max_matvecs: Products that may be taken; the last step may exceed it.
        seed: Seed of the random blocks.
        start: Vectors to begin with, as columns; a random block if None.
        memory: Bytes for the basis; what does not fit goes to disk.
        checkpoint: Where the state goes at every restart.

    References:
        Wu and Simon (2000), SIAM J. Matrix Anal. Appl. 22(2), thick restart.
    """

    def __init__(
        self,
        products: Products,
        *,
        k: int,
        which: Which,
        tolerance: float,
        block_size: int,
        max_matvecs: int,
        seed: int,
        start: Float[Tensor, "dim vector"] | None,
        memory: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._products = products
        self._k, self._tolerance = k, tolerance
        self._which: Which = which
        self._block_size, self._max_matvecs = block_size, max_matvecs
        self._checkpoint = checkpoint
        self._capacity = basis_capacity(products, k, block_size, memory)
        self._space = KrylovSpace(products, seed=seed, memory=memory)
        self._start, self._seed = start, seed
        self._sealed: np.ndarray | None = None
        self._steps = 0
        self._num_confirmed = self._num_restarts = 0

    def run(self) -> Found:
        """Search until all pairs have converged, or the products are spent.

        Returns:
            The pairs.

        Raises:
            Interrupted: On Ctrl-C, with the pairs as they are.
        """
        try:
            self._begin()
            self._iterate()
            return self._polished()
        except KeyboardInterrupt:
            raise Interrupted(self._as_they_are()) from None

    def _begin(self) -> None:
        """Draw the first block, or take up what an earlier process left."""
        saved = self._checkpoint.load() if self._checkpoint else None
        state, vectors = saved or ({}, None)
        if vectors is None:
            self._begin_anew()
            return
        self._space.take_up(state, vectors.to(self._products.device))
        counts = (int(count) for count in state["search"])
        self._products.count, self._steps = next(counts), next(counts)
        self._num_confirmed, self._num_restarts = counts
        self._sealed = state["sealed"] if len(state["sealed"]) else None

    def _begin_anew(self) -> None:
        """Begin with mixtures of the start's directions, or with a random block.

        A block as wide as the start would have to stay so wide: mixtures find all
        of its directions within a few more steps.
        """
        products = self._products
        if self._start is not None:
            wide = widened(self._start.detach().to(products.device))
            left, lengths, _ = torch.linalg.svd(wide, full_matrices=False)
            rows = left[:, lengths > _INDEPENDENT * lengths[0]].T
            count = min(self._block_size, len(rows))
            mixing = draw_probes(
                range(count), len(rows), seed=self._seed, device=wide.device
            )
            mixed = (mixing @ rows) * (products.dim / max(1, len(rows))) ** 0.5
            self._space.lead(mixed.to(products.dtype).to(products.device))
        if not self._space.num_next:
            self._space.draw(self._block_size)

    def _iterate(self) -> None:
        """Expand the space until what is wanted is there."""
        most = -(-self._max_matvecs // self._block_size)
        for _ in progress(itertools.count(), label="Lanczos", total=most):
            self._space.expand()
            self._steps += 1
            ritz = self._space.ritz()
            if self._is_done(ritz) or self._products.count >= self._max_matvecs:
                return
            if not self._space.num_next:
                self._space.draw(self._block_size)
            if self._space.size + self._space.num_next > self._capacity:
                self._restart(ritz)

    def _is_done(self, ritz: Ritz) -> bool:
        """Whether the wanted pairs have converged and are all; seals them if not."""
        if self._space.is_whole:
            return True
        if self._space.size < self._k:
            return False
        wanted = self._wanted(ritz)
        limit = _MARGIN * self._tolerance * self._space.norm
        if bool((ritz.residuals[wanted] > limit).any()):
            return False
        values = ritz.values[wanted]
        if self._sealed is not None and bool(
            (abs(values - self._sealed) <= limit).all()
        ):
            if not self._has_explored(ritz, wanted, limit):
                return False
            self._num_confirmed += 1
            return True
        self._sealed, self._steps = values, 0
        self._space.restart(ritz, wanted)
        self._space.draw(self._block_size)
        self._save()
        return False

    def _has_explored(self, ritz: Ritz, wanted: np.ndarray, limit: float) -> bool:
        """Whether a better pair outside of the wanted ones would have shown itself."""
        rest = np.setdiff1d(np.arange(len(ritz.values)), wanted)
        if not len(rest):
            return False
        values, residuals = ritz.values[rest], ritz.residuals[rest]
        low, high = values[0] - residuals[0], values[-1] + residuals[-1]
        above, below = boundaries(ritz.values[wanted], self._which)
        needed = math.acosh(_MISSED * self._products.dim**0.5)
        for gap, residual in (
            (above - values[-1], residuals[-1]),
            (values[0] - below, residuals[0]),
        ):
            if gap <= limit:
                if residual > limit:
                    return False
            elif high > low:
                growth = math.acosh(1 + 2 * min(gap / (high - low), 1e15))
                if (self._steps - 1) * growth < needed:
                    return False
        return True

    def _wanted(self, ritz: Ritz) -> np.ndarray:
        count = min(self._k, len(ritz.values))
        return best_first(torch.from_numpy(ritz.values), count, self._which).numpy()

    def _restart(self, ritz: Ritz) -> None:
        """Keep the wanted Ritz vectors and those next in line."""
        room = self._capacity - 2 * self._block_size
        count = min(room, self._k + max(self._block_size, (room - self._k) // 3))
        values = torch.from_numpy(ritz.values)
        self._space.restart(ritz, best_first(values, count, self._which).numpy())
        self._num_restarts += 1
        self._save()

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        counts = (self._products.count, self._steps)
        counts += (self._num_confirmed, self._num_restarts)
        state = self._space.state() | {
            "search": np.array(counts),
            "sealed": np.zeros(0) if self._sealed is None else self._sealed,
        }
        most = self._capacity + self._block_size
        self._checkpoint.save(state, self._space.all_vectors(), most=most)

    def _polished(self) -> Found:
        """Measure the residuals anew; what misses the tolerance is worked on."""
        for attempt in itertools.count():
            ritz = self._space.ritz()
            wanted = self._wanted(ritz)
            vectors = self._space.vectors(ritz.turns[:, wanted])
            # As the caller gets them: residuals are those of the rounded vectors.
            given = vectors.to(self._products.operator.dtype).to(vectors)
            images = self._products(given)
            values = torch.from_numpy(ritz.values[wanted]).to(vectors)
            gaps = images - values[:, None] * given
            lengths = wide_lengths(gaps)
            residuals = lengths.cpu().numpy()
            is_last = attempt == _POLISHES or self._products.count >= self._max_matvecs
            if is_last or bool((residuals <= self._tolerance * self._space.norm).all()):
                return self._found(ritz.values[wanted], given, residuals)
            self._space.begin(vectors, self._products(vectors))
            if not self._space.num_next:
                return self._found(ritz.values[wanted], given, residuals)
            self._sealed = ritz.values[wanted] if self._num_confirmed else None
            self._iterate()
        raise AssertionError

    def _as_they_are(self) -> Found | None:
        """The wanted Ritz pairs with the residuals of the recurrence."""
        ritz = self._space.ritz()
        if len(ritz.values) != self._space.size or self._space.size < self._k:
            return None
        wanted = self._wanted(ritz)
        vectors = self._space.vectors(ritz.turns[:, wanted])
        return self._found(ritz.values[wanted], vectors, ritz.residuals[wanted])

    def _found(
        self, values: np.ndarray, vectors: Tensor, residuals: np.ndarray
    ) -> Found:
        return Found(
            values=values,
            vectors=vectors,
            residuals=residuals,
            norm=self._space.norm,
            num_confirmed=self._num_confirmed,
            num_restarts=self._num_restarts,
        )


def basis_capacity(products: Products, k: int, block_size: int, memory: int) -> int:
    """Most vectors that the basis holds before it is cut down.

    Args:
        products: Products with A.
        k: Number of wanted pairs.
        block_size: Vectors in a block.
        memory: Bytes for the basis.

    Returns:
        max(4 k, 100) where it fits the memory and D; at least 2 k and three blocks,
        on disk if need be.
    """
    least = 2 * k + 3 * block_size
    fitting = memory // (products.dim * products.dtype.itemsize)
    return min(products.dim, max(least, min(max(4 * k, 100), fitting)))


def boundaries(values: Float[np.ndarray, "k"], which: Which) -> tuple[float, float]:
    """Where an eigenvalue would have to be to belong to the wanted ones.

    Args:
        values: The wanted ones.
        which: What they were chosen by.

    Returns:
        Above the first or below the second; infinite where nothing is asked.
    """
    if which == "largest":
        return float(values.min()), -math.inf
    if which == "smallest":
        return math.inf, float(values.max())
    if which == "magnitude":
        edge = float(np.abs(values).min())
        return edge, -edge
    upper = len(values) - len(values) // 2
    lower = float(values[upper:].max()) if len(values) > 1 else -math.inf
    return float(values[:upper].min()), lower
