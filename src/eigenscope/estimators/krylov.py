"""The space that blocks of vectors span with their images: A V = V H + W B."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.estimators.basis import Basis
from eigenscope.estimators.lapack import small_eigenpairs
from eigenscope.estimators.long_vectors import inner_products, orthonormal_rows
from eigenscope.estimators.probes import draw_probes
from eigenscope.estimators.products import Products, require_symmetric_part
from eigenscope.precision import wide_lengths

_SLACK: Final = 20.0  # roundings of a product: what is below is no new direction


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ritz:
    """Eigenpairs of H = VᵀAV, ascending.

    Attributes:
        values: θ.
        turns: Coefficients s of the Ritz vectors V s, as columns.
        residuals: ‖A V s - θ V s‖ as the recurrence has it.
    """

    values: Float[np.ndarray, "basis"]
    turns: Float[np.ndarray, "basis basis"]
    residuals: Float[np.ndarray, "basis"]


@final
class KrylovSpace:
    """An orthonormal V, H = VᵀAV, and the block W that comes next.

    Args:
        products: Products with A.
        seed: Seed of the random blocks.
        memory: Bytes for the basis.

    Attributes:
        norm: Largest |θ| or ‖A w‖ seen so far, a lower bound of ‖A‖ of its size.
        num_drawn: Random vectors drawn so far.
    """

    def __init__(self, products: Products, *, seed: int, memory: int) -> None:
        self._products = products
        self._seed, self._memory = seed, memory
        self._basis = self._empty()
        self._projected = np.zeros((0, 0))
        self._next = torch.empty(0, products.dim, dtype=products.dtype)
        self._coupling = np.zeros((0, 0))
        self.norm = 0.0
        self.num_drawn = 0
        self._forgotten = 0.0

    @property
    def size(self) -> int:
        """Vectors in V."""
        return self._basis.size

    @property
    def num_next(self) -> int:
        """Vectors in W; none if V is invariant."""
        return len(self._next)

    @property
    def is_whole(self) -> bool:
        """Whether V spans everything."""
        return self.size == self._products.dim

    def draw(self, count: int) -> None:
        """Let W be random vectors, orthogonal to V; what W was is forgotten.

        Args:
            count: How many; fewer where V leaves no room.
        """
        products = self._products
        count = min(count, products.dim - self.size)
        indices = range(self.num_drawn, self.num_drawn + count)
        self.num_drawn += count
        self._forgotten += float(np.abs(self._coupling).max(initial=0.0))
        rows = draw_probes(
            indices,
            products.dim,
            seed=self._seed,
            dtype=products.dtype,
            device=products.device,
        )
        self.lead(rows)

    def lead(self, rows: Float[Tensor, "vector dim"]) -> None:
        """Let W be some vectors, less their part in V.

        Args:
            rows: The vectors, overwritten; of length √D or so.
        """
        self._basis.remove(rows[None])
        self._next, _ = self._orthonormal(rows, scale=float(self._products.dim) ** 0.5)
        self._coupling = np.zeros((len(self._next), self.size))

    def expand(self) -> None:
        """Multiply W, add it to V and find the next W.

        Raises:
            ValueError: If the operator turns out not to be symmetric, or a product is
                not finite.
        """
        block, old = self._next, self.size
        images = self._products(block)
        # Squares of float32 numbers leave its range long before the numbers do.
        lengths = wide_lengths(images)
        self.norm = max(self.norm, float(lengths.max()))
        self._basis.append(block[None])
        taken = self._basis.remove(images[None])[0].cpu().numpy()
        self._require_symmetric(taken, old)
        corner = taken[old:]
        projected = np.zeros((self.size, self.size))
        projected[:old, :old] = self._projected
        projected[:old, old:] = taken[:old]
        projected[old:, :old] = taken[:old].T
        projected[old:, old:] = (corner + corner.T) / 2
        self._projected = projected
        self._next, mixing = self._orthonormal(images, scale=self.norm)
        self._coupling = np.zeros((len(self._next), self.size))
        self._coupling[:, old:] = mixing

    def ritz(self) -> Ritz:
        """Solve H s = θ s.

        Returns:
            All pairs.
        """
        values, turns = small_eigenpairs(self._projected)
        if len(values):
            self.norm = max(self.norm, float(np.abs(values).max()))
        residuals = np.linalg.norm(self._coupling @ turns, axis=0)
        return Ritz(values=values, turns=turns, residuals=residuals)

    def vectors(
        self, turns: Float[np.ndarray, "basis kept"]
    ) -> Float[Tensor, "kept dim"]:
        """V s for some columns s.

        Args:
            turns: The columns.

        Returns:
            The vectors, as rows.
        """
        return self._basis.combine(torch.from_numpy(turns)[None].to(self._next))[0]

    def restart(self, ritz: Ritz, kept: np.ndarray) -> None:
        """Keep some Ritz vectors; W stays.

        Args:
            ritz: All pairs.
            kept: Places of those to keep.
        """
        turns = ritz.turns[:, kept]
        self._basis.rotate(torch.from_numpy(np.ascontiguousarray(turns)))
        self._projected = np.diag(ritz.values[kept])
        self._coupling = self._coupling @ turns

    def begin(
        self,
        vectors: Float[Tensor, "vector dim"],
        images: Float[Tensor, "vector dim"],
    ) -> None:
        """Let V be some orthonormal vectors and W what A adds to them.

        Args:
            vectors: The vectors v.
            images: A v for each; overwritten.
        """
        self._basis = self._empty()
        self._basis.append(vectors[None])
        taken = self._basis.remove(images[None])[0].cpu().numpy()
        self._projected = (taken + taken.T) / 2
        self.norm = max(self.norm, float(np.abs(self._projected).max()))
        self._next, self._coupling = self._orthonormal(images, scale=self.norm)

    def state(self) -> dict[str, np.ndarray]:
        """What a later process needs to go on from here, but for V and W.

        Returns:
            Small arrays.
        """
        return {
            "projected": self._projected,
            "coupling": self._coupling,
            "counts": np.array([self.size, self.num_next, self.num_drawn]),
            "norms": np.array([self.norm, self._forgotten]),
        }

    def all_vectors(self) -> Float[Tensor, "vector dim"]:
        """V and then W, as rows in new memory.

        Returns:
            The vectors.
        """
        return torch.cat([self._basis.vectors()[0], self._next])

    def take_up(
        self, state: dict[str, np.ndarray], vectors: Float[Tensor, "vector dim"]
    ) -> None:
        """Go on from what `state` and `all_vectors` gave.

        Args:
            state: The small arrays.
            vectors: V and then W.
        """
        size, _, num_drawn = (int(count) for count in state["counts"])
        self._basis = self._empty()
        self._basis.append(vectors[None, :size])
        self._next = vectors[size:].clone()
        self._projected, self._coupling = state["projected"], state["coupling"]
        self.num_drawn = num_drawn
        self.norm, self._forgotten = (float(norm) for norm in state["norms"])

    def _empty(self) -> Basis:
        products = self._products
        return Basis(
            1,
            products.dim,
            dtype=products.dtype,
            device=products.device,
            memory=self._memory,
        )

    def _require_symmetric(self, taken: np.ndarray, old: int) -> None:
        """Compare the new column of H with what its mirror image already says."""
        corner = taken[old:]
        for found, expected in ((taken[:old], self._coupling.T), (corner, corner.T)):
            require_symmetric_part(
                torch.from_numpy(found),
                torch.from_numpy(expected),
                norm=self.norm,
                tolerance=self._products.epsilon**0.5 * self.norm + self._forgotten,
            )

    def _orthonormal(
        self, rows: Float[Tensor, "vector dim"], *, scale: float
    ) -> tuple[Float[Tensor, "rank dim"], Float[np.ndarray, "rank vector"]]:
        """Directions W of rows without part in V, and B with rowsᵀ = Wᵀ B, to rounding.

        Args:
            rows: What is left of some vectors.
            scale: Length of which they were: what is shorter than its rounding is none.

        Returns:
            W, as rows, and B.
        """
        if self.is_whole or not len(rows):
            return rows[:0], np.zeros((0, len(rows)))
        rounding = self._products.epsilon * scale
        orthonormal, triangle = orthonormal_rows(rows)
        left, lengths, _ = torch.linalg.svd(triangle)
        count = int((lengths > _SLACK * rounding).sum())
        count = min(count, self._products.dim - self.size)
        found = left[:, :count].T.to(orthonormal) @ orthonormal
        mixing = left[:, :count].T @ triangle
        # What was short has lost its orthogonality by the factor that it grew.
        shortest = 0.01 * float(lengths[0]) + 1e4 * rounding
        if count and float(lengths[count - 1]) < shortest:
            self._basis.remove(found[None])
            found, _ = orthonormal_rows(found)
            self._basis.remove(found[None])
            mixing = inner_products(found, rows)
        return found, mixing.cpu().numpy()
