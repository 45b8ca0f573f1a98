"""Which of two laws a tail follows rather, by the ratio of their likelihoods."""

from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import erfc
from scipy.stats import chi2

from eigenscope._types import require_choice
from eigenscope.analysis.tail_laws import LawFit, TailLaw, fit_law
from eigenscope.analysis.tail_values import Sample

NESTED = ({"power_law", "truncated_power_law"}, {"exponential", "truncated_power_law"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodRatio:
    """R = Σ log p₁(x) − log p₂(x) over a tail, each law at its own best parameters.

    Attributes:
        first: The law that R > 0 prefers.
        second: The law that R < 0 prefers.
        ratio: R.
        normalized_ratio: R / (√n σ), σ the standard deviation of the summands; 0 if
            the two laws agree on every value.
        p_value: Probability of an |R| at least as large if both laws were equally
            good; where it is not small, the sign of R means nothing.
        nested: Whether p is that of nested laws (χ² with one degree of freedom for
            2|R|) rather than that of a normal R / (√n σ).
        first_parameters: Name and value of each parameter of the first law.
        second_parameters: The same of the second.
        converged: Whether both fits solve their likelihood equations.
    """

    first: TailLaw
    second: TailLaw
    ratio: float
    normalized_ratio: float
    p_value: float
    nested: bool
    first_parameters: dict[str, float]
    second_parameters: dict[str, float]
    converged: bool


def compare_laws(
    first: TailLaw, second: TailLaw, *, tail: Sample, xmin: float, xmax: float | None
) -> LikelihoodRatio:
    """Fit both laws to a tail on [xmin, xmax] and compare their likelihoods.

    Returns:
        The ratio and what it means.

    Raises:
        ValueError: If a law is unknown or both are the same.
    """
    require_choice("first", first, TailLaw)
    require_choice("second", second, TailLaw)
    if first == second:
        raise ValueError(
            f"first and second must be different laws; both are {first!r}."
        )
    fits = fit_law(first, tail, xmin, xmax), fit_law(second, tail, xmin, xmax)
    ratio, spread = _sum_and_spread(fits, tail)
    nested = {first, second} in NESTED
    normalized = ratio / spread if spread > 0 else 0.0
    p_value = chi2.sf(2 * abs(ratio), 1) if nested else erfc(abs(normalized) / 2**0.5)
    return LikelihoodRatio(
        first=first,
        second=second,
        ratio=ratio,
        normalized_ratio=normalized,
        p_value=float(p_value),
        nested=nested,
        first_parameters=fits[0].parameters,
        second_parameters=fits[1].parameters,
        converged=fits[0].converged and fits[1].converged,
    )


def _sum_and_spread(fits: tuple[LawFit, LawFit], tail: Sample) -> tuple[float, float]:
    # Rounding in laws that agree is neither a ratio nor a spread.
    scores = fits[0].log_likelihoods, fits[1].log_likelihoods
    summands = scores[0] - scores[1]
    mean = float(tail.counts @ summands) / tail.size
    variance = float(tail.counts @ (summands - mean) ** 2) / tail.size
    rounding = 64 * np.finfo(np.float64).eps * float(np.abs(scores[0]).max() + 1)
    if np.abs(summands).max() <= rounding:
        return 0.0, 0.0
    return mean * tail.size, (tail.size * variance) ** 0.5
