"""Lanczos recurrences of several probes, one product of a block for each step."""

from typing import Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eigenscope.estimators.basis import Basis
from eigenscope.estimators.lapack import small_eigenpairs
from eigenscope.estimators.long_vectors import normalize, project_off
from eigenscope.estimators.products import Products, require_symmetric_part
from eigenscope.precision import wide_lengths

_SLACK: Final = 20.0  # roundings of a product: what is below is no new direction


@final
class Recurrences:
    """T = VᵀPAPV of each probe, P projecting off vectors that are known already.

    The probes do not mix: each has its own V, reorthogonalized twice in every step.

    Args:
        products: Products with A.
        probes: First vectors, as rows of any length; overwritten.
        outer: Orthonormal rows that P projects off.
        norm: ‖A‖, or 0 if it is not known.
        memory: Bytes for the bases; what does not fit goes to disk.
    """

    def __init__(
        self,
        products: Products,
        probes: Float[Tensor, "probe dim"],
        *,
        outer: Float[Tensor, "outer dim"],
        norm: float,
        memory: int,
    ) -> None:
        self._products, self._outer, self._norm = products, outer, norm
        project_off(probes, outer)
        normalize(probes)
        self._next = probes
        self._basis = Basis(
            len(probes),
            products.dim,
            dtype=products.dtype,
            device=products.device,
            memory=memory,
        )
        self._is_running = np.ones(len(probes), dtype=bool)
        self._diagonals: list[Float[np.ndarray, " probe"]] = []
        self._couplings: list[Float[np.ndarray, " probe"]] = []

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return len(self._diagonals)

    @property
    def is_running(self) -> Bool[np.ndarray, "probe"]:
        """Which probes have more to find: their space is not invariant yet."""
        return self._is_running

    def step(self) -> None:
        """Take one more product for every probe that is running.

        Raises:
            ValueError: If the operator turns out not to be symmetric, or a product is
                not finite.
        """
        images = self._images()
        # Squares of float32 numbers leave its range long before the numbers do.
        lengths = wide_lengths(images)
        self._norm = max(self._norm, float(lengths.max()))
        project_off(images, self._outer)
        self._basis.append(self._next[:, None])
        taken = self._basis.remove(images[:, None])[..., 0].cpu().numpy()
        self._require_symmetric(taken)
        project_off(images, self._outer)
        left = wide_lengths(images)
        rest = left.cpu().numpy()
        is_new = rest > _SLACK * self._products.epsilon * self._norm
        is_new &= self.num_steps + 1 < self._products.dim - len(self._outer)
        self._is_running = self._is_running & is_new
        self._diagonals.append(taken[:, -1])
        coupling = np.where(self._is_running, rest, 0.0)
        self._couplings.append(coupling)
        scale = torch.from_numpy(np.where(coupling > 0, coupling, np.inf)).to(images)
        self._next = images.div_(scale[:, None])

    def _images(self) -> Float[Tensor, "probe dim"]:
        """Return the products of the last vectors, zero where a probe has ended."""
        if self._is_running.all():
            return self._products(self._next)
        running = torch.from_numpy(self._is_running).to(self._products.device)
        images = torch.zeros_like(self._next)
        images[running] = self._products(self._next[running])
        return images

    def quadrature(
        self, num_steps: int | None = None
    ) -> tuple[Float[np.ndarray, "probe node"], Float[np.ndarray, "probe node"]]:
        """The mean of the Gauss rules of m and of m - 1 steps, for each probe.

        A Gauss rule has the eigenvalues of T as nodes and the squared first entries of
        its eigenvectors as weights. The nodes of the two interlace and stay within the
        spectrum, so the mean follows a density about twice as closely (in W1) as
        either, and is exact for polynomials up to degree 2m - 3. Where a space is
        invariant, the rule of all its steps is the measure itself, and stands alone.

        Args:
            num_steps: Take the first so many steps; None for all.

        Returns:
            2m - 1 nodes and weights of each probe; those behind a breakdown have no
            weight.
        """
        count = num_steps or self.num_steps
        nodes, weights = _gauss_rule(self.tridiagonals(count))
        if count == 1:
            return nodes, weights
        fewer_nodes, fewer = _gauss_rule(self.tridiagonals(count - 1))
        has_ended = (np.array(self._couplings[:count]) == 0).any(0)[:, None]
        share = np.where(has_ended, 0.0, 0.5)
        return (
            np.concatenate([nodes, fewer_nodes], 1),
            np.concatenate([(1 - share) * weights, share * fewer], 1),
        )

    def tridiagonals(
        self, num_steps: int | None = None
    ) -> Float[np.ndarray, "probe step step"]:
        """T of every probe.

        Args:
            num_steps: The leading so many rows and columns; None for all.

        Returns:
            The matrices.
        """
        count = num_steps or self.num_steps
        diagonals = np.array(self._diagonals[:count]).T
        beside = np.array(self._couplings[:count]).T[:, : count - 1]
        matrices = np.zeros((len(diagonals), count, count))
        places = np.arange(count)
        matrices[:, places, places] = diagonals
        matrices[:, places[1:], places[:-1]] = beside
        matrices[:, places[:-1], places[1:]] = beside
        return matrices

    def combine(
        self, coefficients: Float[np.ndarray, "probe step"]
    ) -> Float[Tensor, "probe dim"]:
        """Σ_j c_j v_j for each probe.

        Args:
            coefficients: c of the first vectors; those that follow count nothing.

        Returns:
            One vector a probe.
        """
        missing = ((0, 0), (0, self._basis.size - coefficients.shape[1]))
        padded = torch.from_numpy(np.pad(coefficients, missing))
        return self._basis.combine(padded[..., None].to(self._next))[:, 0]

    def _require_symmetric(self, taken: Float[np.ndarray, "probe basis"]) -> None:
        """What is taken out before the last vector is the last coupling, else zero."""
        found = taken[:, :-1]
        expected = np.zeros_like(found)
        if self.num_steps:
            expected[:, -1] = self._couplings[-1]
        require_symmetric_part(
            torch.from_numpy(found),
            torch.from_numpy(expected),
            norm=self._norm,
            tolerance=self._products.epsilon**0.5 * self._norm,
        )


def _gauss_rule(
    matrices: Float[np.ndarray, "probe step step"],
) -> tuple[Float[np.ndarray, "probe step"], Float[np.ndarray, "probe step"]]:
    """Eigenvalues of each T and the squared first entries of its eigenvectors."""
    values, vectors = small_eigenpairs(matrices)
    weights = vectors[:, 0] ** 2
    return values, weights / weights.sum(1, keepdims=True)
