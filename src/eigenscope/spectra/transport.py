"""The W1 distance of discrete measures on the line."""

import numpy as np
from jaxtyping import Float


def transport_distance(
    left: Float[np.ndarray, "left"],
    left_weights: Float[np.ndarray, "left"],
    right: Float[np.ndarray, "right"],
    right_weights: Float[np.ndarray, "right"],
) -> float:
    """W₁ = ∫ |F(x) - G(x)| dx for the cdfs F and G of two discrete measures.

    Args:
        left: Values of the first, ascending.
        left_weights: Their weights, which add up to 1.
        right: Values of the second, ascending.
        right_weights: Their weights, which add up to 1.

    Returns:
        The distance, in units of the values.

    Cost:
        O(N log N) for N values.

    References:
        Villani (2003), Topics in Optimal Transportation, theorem 2.18.

    Example:
        >>> half = np.array([0.5, 0.5])
        >>> transport_distance(np.array([0.0, 1.0]), half, np.array([2.0, 3.0]), half)
        2.0
    """
    places = np.sort(np.concatenate([left, right]))
    gap = _cdf(left, left_weights, places) - _cdf(right, right_weights, places)
    return float(np.abs(gap[:-1]) @ np.diff(places))


def _cdf(
    values: Float[np.ndarray, "eig"],
    weights: Float[np.ndarray, "eig"],
    places: Float[np.ndarray, "place"],
) -> Float[np.ndarray, "place"]:
    """Weight at or below each place."""
    steps = np.concatenate([[0.0], np.cumsum(weights)])
    return steps[np.searchsorted(values, places, side="right")]
