"""The numbers of a spectrum that fit into one line of a table."""

from dataclasses import dataclass
from typing import final

import numpy as np

from eigenscope.spectra import Estimate, Spectrum


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Extremes, trace, ranks and negative mass of a spectrum.

    Attributes:
        largest: λ_max.
        smallest: λ_min.
        trace: Σ λ, with its standard error if estimated.
        frobenius: √Σλ².
        effective_rank: exp of the entropy of |λ| / Σ|λ|.
        stable_rank: Σλ² / max λ².
        negative_weight: Share of the eigenvalues below minus the noise floor.
        negative_mass: Σ|λ| over them, divided by Σ|λ| over all.
        error: Bound of the W1 distance to the true spectrum; 0 if exact.
        converged: Whether an estimate reached the error that was asked for.

    Example:
        >>> found = summarize(Spectrum.from_eigenvalues([-1.0, 0.0, 3.0]))
        >>> found.largest, found.negative_mass, found.trace.value
        (3.0, 0.25, 2.0)
    """

    largest: float
    smallest: float
    trace: Estimate
    frobenius: float
    effective_rank: float
    stable_rank: float
    negative_weight: float
    negative_mass: float
    error: float
    converged: bool


def summarize(spectrum: Spectrum) -> Summary:
    """λ_max, λ_min, trace, norm, ranks and negative mass of a spectrum.

    Args:
        spectrum: Exact or estimated.

    Returns:
        The numbers.

    Cost:
        No product: O(N) for N values.

    Example:
        >>> summarize(Spectrum.from_eigenvalues([2.0, 2.0])).effective_rank
        2.0
    """
    counted = spectrum.weights > 0
    values, weights = spectrum.values[counted], spectrum.weights[counted]
    negative = values < -spectrum.noise_floor
    total = float(weights @ np.abs(values))
    mass = float(weights[negative] @ np.abs(values[negative]))
    return Summary(
        largest=float(values[-1]),
        smallest=float(values[0]),
        trace=spectrum.sum(lambda x: x),
        frobenius=float(spectrum.sum(np.square).value) ** 0.5,
        effective_rank=round(spectrum.effective_rank(), 12),
        stable_rank=spectrum.stable_rank(),
        negative_weight=float(weights[negative].sum()),
        negative_mass=mass / total if total else 0.0,
        error=spectrum.error,
        converged=spectrum.converged,
    )
