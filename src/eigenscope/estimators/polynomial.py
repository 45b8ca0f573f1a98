"""The kernel polynomial method: Chebyshev moments of random probes, damped."""

from typing import Final, final

import numpy as np
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.estimators.long_vectors import inner, normalize, project_off
from eigenscope.estimators.outer import Outer
from eigenscope.estimators.probes import draw_probes
from eigenscope.estimators.products import Products
from eigenscope.estimators.recurrences import Recurrences
from eigenscope.estimators.sampling import Sample, Sampler

_MARGIN: Final = 0.02  # of the interval, at either end
_STEPS: Final = 20  # of the recurrence that finds the interval
_GROWTH: Final = 1.001  # of a probe: T_n is at most 1 inside of the interval
_MOST_TOGETHER: Final = 64
_BLOCKS: Final = 4  # of a group's vectors that live at once


@final
class ChebyshevSampler(Sampler):
    """Each probe's measure from its moments μ_n = vᵀ T_n(Ã) v.

    Ã is A without its outer pairs, mapped to [-1, 1]. Two moments come from one
    product. Jackson's kernel damps the series, so weights are never negative, and
    widens every eigenvalue by about π/N of half the interval for N moments. Nothing
    but three vectors per probe is kept. The interval comes from a short Lanczos
    recurrence; if it turns out to be too short,
    because a probe grows, it is widened and the group starts again.

    Args:
        products: Products with A.
        outer: Eigenpairs that are projected off.
        seed: Seed of the probes.
        memory: Bytes for the vectors.

    References:
        Weiße, Wellein, Alvermann, Fehske (2006), Rev. Mod. Phys. 78, section II.C.
    """

    def __init__(
        self, products: Products, outer: Outer, *, seed: int, memory: int
    ) -> None:
        self._products, self._outer = products, outer
        self._seed, self._memory = seed, memory
        self._low = self._high = 0.0
        self._indices = range(0)
        self._moments: list[Float[np.ndarray, " probe"]] = []
        self._pair: tuple[Tensor, Tensor] | None = None

    @property
    @override
    def most_together(self) -> int:
        bytes_each = _BLOCKS * self._products.dim * self._products.dtype.itemsize
        return max(1, min(_MOST_TOGETHER, self._memory // bytes_each))

    @property
    @override
    def num_steps(self) -> int:
        return max(0, len(self._moments) - 1) // 2

    @property
    def interval(self) -> tuple[float, float]:
        """What is mapped to [-1, 1]."""
        return self._low, self._high

    @property
    @override
    def coarse_ratio(self) -> float:
        # The kernel widens everything by almost twice as much for half the moments.
        return 1.25

    @property
    @override
    def kernel_width(self) -> float:
        half = (self._high - self._low) / 2
        return half * np.pi / (len(self._moments) + 1)

    @override
    def begin(self, indices: range) -> None:
        self._indices = indices
        if self._high == self._low:
            self._low, self._high = self._short_interval()
        probes = draw_probes(
            indices,
            self._products.dim,
            seed=self._seed,
            law="normal",
            dtype=self._products.dtype,
            device=self._products.device,
        )
        project_off(probes, self._outer.vectors)
        normalize(probes)
        self._moments = [np.ones(len(indices))]
        self._pair = (probes, probes)

    @override
    def advance(self, num_steps: int) -> bool:
        while self.num_steps < num_steps:
            if not self._step():
                self._widen()
                self.begin(self._indices)
        return True

    @override
    def sample(self) -> Sample | None:
        if self.num_steps < 1:
            return None
        moments = np.array(self._moments).T
        places = 2 * moments.shape[1]
        nodes, weights = chebyshev_measure(moments, places)
        _, coarse = chebyshev_measure(moments[:, : self.num_steps + 1], places)
        center, half = (self._high + self._low) / 2, (self._high - self._low) / 2
        nodes = np.tile(center + half * nodes, (len(moments), 1))
        return Sample(
            nodes=nodes, weights=weights, coarse_nodes=nodes, coarse_weights=coarse
        )

    def _step(self) -> bool:
        """Two more moments from one product; False if a probe has grown."""
        if self._pair is None:
            raise AssertionError
        before, last = self._pair
        center, half = (self._high + self._low) / 2, (self._high - self._low) / 2
        images = self._products(last)
        project_off(images, self._outer.vectors)
        images.add_(last, alpha=-center).div_(half)
        first = len(self._moments) == 1
        new = images if first else images.mul_(2).sub_(before)
        squares = inner(new, new).numpy()
        if bool((squares > _GROWTH).any()):
            return False
        mixed = inner(new, last).numpy()
        start = self._moments[0]
        if first:
            self._moments += [mixed, 2 * squares - start]
        else:
            self._moments += [2 * mixed - self._moments[1], 2 * squares - start]
        self._pair = (last, new)
        return True

    def _short_interval(self) -> tuple[float, float]:
        """Ritz values of one short recurrence, and a margin around them."""
        seed = self._seed - 1
        products = self._products
        probe = draw_probes(range(1), products.dim, seed=seed, dtype=products.dtype).to(
            products.device
        )
        running = Recurrences(
            products,
            probe,
            outer=self._outer.vectors,
            norm=self._outer.norm,
            memory=self._memory,
        )
        while running.num_steps < _STEPS and running.is_running.any():
            running.step()
        values, weights = running.quadrature()
        found = values[weights > 0]
        low, high = float(found.min()), float(found.max())
        largest = max(self._outer.norm, abs(low), abs(high)) or 1.0
        spare = max(_MARGIN * (high - low), 1e-6 * largest)
        return low - spare, high + spare

    def _widen(self) -> None:
        """Make the interval half as long again at either end."""
        spare = 0.5 * (self._high - self._low)
        self._low, self._high = self._low - spare, self._high + spare


def chebyshev_measure(
    moments: Float[np.ndarray, "probe moment"], num_places: int
) -> tuple[Float[np.ndarray, "place"], Float[np.ndarray, "probe place"]]:
    """w_k = (g₀ μ₀ + 2 Σ_n g_n μ_n cos nφ_k) / K at x_k = cos φ_k, φ_k = (k + ½)π/K.

    Args:
        moments: μ, beginning with μ₀ = 1.
        num_places: K, at least the number of moments.

    Returns:
        The x ascending, and weights that add up to 1; Jackson's kernel g leaves none
        negative but by rounding, which is cut off.
    """
    count = moments.shape[1]
    order = np.arange(count)
    angle = np.pi / (count + 1)
    damping = (count - order + 1) * np.cos(order * angle)
    damping = (damping + np.sin(order * angle) / np.tan(angle)) / (count + 1)
    angles = (np.arange(num_places)[::-1] + 0.5) * np.pi / num_places
    factors = np.where(order > 0, 2.0, 1.0) * damping
    weights = (moments * factors) @ np.cos(np.outer(order, angles)) / num_places
    weights = np.maximum(weights, 0.0)
    return np.cos(angles), weights / weights.sum(1, keepdims=True)
