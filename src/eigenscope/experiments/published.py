"""The published procedure for layer-wise Hessian spectra, step by step."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from eigenscope.operators import SymmetricOperator
from eigenscope.spectra import Spectrum, rounding_floor

METHOD: Final = "single probe, not reorthogonalized"
_BOUND_STEPS, _DENSITY_STEPS = 64, 128
NUM_PRODUCTS: Final = _BOUND_STEPS + _DENSITY_STEPS
_MARGIN, _KAPPA, _KERNEL_FLOOR, _NUM_POINTS = 0.05, 1.25, 1e-8, 1024

Nodes = tuple[Float[np.ndarray, " node"], Float[np.ndarray, " node"]]


def published_spectrum(operator: SymmetricOperator, *, seed: int) -> Spectrum:
    """Ritz values of one Lanczos recurrence of 128 steps as a measure.

    In the operator's own precision and without reorthogonalization, so that copies of
    outer eigenvalues appear once they have converged. The interval comes from another
    probe's 64 steps: extreme Ritz values ∓ |β s|, and 5 % of that on each side.

    Args:
        operator: A symmetric operator.
        seed: Of the two probes.

    Returns:
        An estimate that makes no claim: its `error` is the length of the interval,
        which stands in the provenance as "interval".

    Cost:
        192 products.

    References:
        Papyan (2019), arXiv:1901.08244, whose procedure LayerHessians uses.
    """
    generator = torch.Generator().manual_seed(seed)
    diagonal, off = _recurrence(operator, _BOUND_STEPS, generator)
    values, vectors = eigh_tridiagonal(diagonal, off[:-1])
    slack = np.abs(off[-1] * vectors[-1])
    low, high = float(values[0] - slack[0]), float(values[-1] + slack[-1])
    margin = _MARGIN * (high - low)
    low, high = low - margin, high + margin
    diagonal, off = _recurrence(operator, _DENSITY_STEPS, generator)
    values, vectors = eigh_tridiagonal(diagonal, off[:-1])
    weights = vectors[0] ** 2
    return Spectrum(
        values=values,
        weights=weights / weights.sum(),
        dimension=operator.shape[0],
        exact=False,
        noise_floor=rounding_floor(
            float(np.abs(values).max()),
            dimension=operator.shape[0],
            epsilon=torch.finfo(operator.dtype).eps,
        ),
        error=high - low,
        converged=False,
        provenance={
            "method": METHOD,
            "interval": [low, high],
            "num_matvecs": len(diagonal) + _BOUND_STEPS,
            "seed": seed,
        },
    )


def published_spectra(
    parts: Mapping[str, SymmetricOperator], *, seed: int
) -> dict[str, Spectrum]:
    """Return the published spectrum of each of several operators by name."""
    return {name: published_spectrum(part, seed=seed) for name, part in parts.items()}


def published_density(
    found: Spectrum,
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Gaussians of the published width on the published grid, for any spectrum.

    The interval is mapped to [−1, 1], where the 1024 points and the standard
    deviation σ = (2/127)/√(8 ln 1.25) are fixed; a Gaussian ends where it is 1e-8 of
    its height. In units of λ the heights are divided by half the interval.

    Args:
        found: A spectrum; without a recorded interval it is that of its values with
            5 % of it on each side.

    Returns:
        Grid and heights, in units of λ.

    Example:
        >>> grid, heights = published_density(Spectrum.from_eigenvalues([0.0, 1.0]))
        >>> round(float(heights.sum() * (grid[1] - grid[0])), 3)
        1.0
    """
    low, high = interval_of(found)
    center, half = (high + low) / 2, (high - low) / 2 or 1.0
    grid = np.linspace(-1, 1, _NUM_POINTS)
    sigma = 2 / (_DENSITY_STEPS - 1) / np.sqrt(8 * np.log(_KAPPA))
    places = (found.values - center) / half
    kernel = np.exp(-(((grid[:, None] - places) / sigma) ** 2) / 2)
    kernel[kernel < _KERNEL_FLOOR] = 0.0
    heights = kernel @ found.weights / (sigma * np.sqrt(2 * np.pi))
    return grid * half + center, heights / half


def interval_of(found: Spectrum) -> tuple[float, float]:
    """Return the interval that the published density of a spectrum covers."""
    recorded = found.provenance.get("interval")
    if isinstance(recorded, list):
        return float(str(recorded[0])), float(str(recorded[1]))
    low, high = float(found.values[0]), float(found.values[-1])
    margin = _MARGIN * (high - low)
    return low - margin, high + margin


def _recurrence(
    operator: SymmetricOperator, num_steps: int, generator: torch.Generator
) -> Nodes:
    """Return the diagonals of the Lanczos matrix of a random start, β after each."""
    start = torch.randn(operator.shape[0], generator=generator)
    vector = start.to(operator.device, operator.dtype)
    vector = vector / vector.norm()
    before, beta = torch.zeros_like(vector), 0.0
    diagonal: list[float] = []
    off: list[float] = []
    for _ in range(num_steps):
        product: Tensor = operator @ vector - beta * before
        diagonal.append(float(product @ vector))
        product = product - diagonal[-1] * vector
        beta = float(product.norm())
        off.append(beta)
        if beta == 0.0:
            break
        before, vector = vector, product / beta
    return np.array(diagonal), np.array(off)
