"""Tail fits of one set of eigenvalues, and their numbers as JSON."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from eigenscope._types import JsonValue
from eigenscope.analysis import PowerLaw, fit_power_law
from eigenscope.spectra import Spectrum

RULES: tuple[Literal["scan", "peak"], ...] = ("scan", "peak")
_OTHER_LAWS = ("lognormal", "exponential", "truncated_power_law")


def fit_tails(
    values: Spectrum | Float[np.ndarray, " value"],
) -> tuple[dict[str, PowerLaw], dict[str, str]]:
    """Fit a power law from the best and from the near-peak start.

    Args:
        values: Eigenvalues.

    Returns:
        The fits by rule, and by rule why there is none.

    Cost:
        Milliseconds for thousands of eigenvalues.
    """
    fits: dict[str, PowerLaw] = {}
    notes: dict[str, str] = {}
    for rule in RULES:
        try:
            fits[rule] = fit_power_law(values, xmin=rule)
        except ValueError as error:
            notes[rule] = str(error)
    return fits, notes


def tail_numbers(
    fit: PowerLaw, *, num_replicas: int, seed: int
) -> dict[str, JsonValue]:
    """Return a fit's numbers, its p-value and its likelihood ratios.

    Args:
        fit: The fit.
        num_replicas: Bootstrap replicas for the p-value; 0 for none.
        seed: Seed of the replicas.

    Returns:
        JSON values by name; None where a number is not finite.
    """
    numbers = fit.summary()
    if num_replicas:
        source = torch.Generator().manual_seed(seed)
        goodness = fit.goodness_of_fit(num_replicas=num_replicas, generator=source)
        numbers["p_value"] = goodness.p_value
        numbers["p_value_stderr"] = goodness.stderr
        numbers["num_replicas"] = goodness.num_replicas
    for other in _OTHER_LAWS:
        ratio = fit.likelihood_ratio("power_law", other)
        numbers[f"against_{other}"] = {
            "normalized_ratio": finite(ratio.normalized_ratio),
            "p_value": finite(ratio.p_value),
        }
    return {name: finite(value) for name, value in numbers.items()}


def finite(value: JsonValue) -> JsonValue:
    """Return the value, or None for a number that JSON cannot hold.

    Example:
        >>> finite(0.5), finite(float("nan")), finite("scan")
        (0.5, None, 'scan')
    """
    is_lost = isinstance(value, float) and not math.isfinite(value)
    return None if is_lost else value
