"""The distance between heights of two densities, as LayerHessians computes it."""

import numpy as np
from jaxtyping import Float

from eigenscope.spectra import Density
from eigenscope.spectra.transport import transport_distance

Heights = Density | Float[np.ndarray, " point"]
Others = Density | Float[np.ndarray, " other_point"]


def height_distance(a: Heights, b: Others, *, floor: float = 1e-8) -> float:
    """W₁ between the multisets of g(p_i) and g(q_j), heights of two densities.

    g takes the logarithm of the heights, maps them to [0, 1] and divides by their sum.
    This is the matching metric of the LayerHessians code, kept under its own name so
    that published figures can be repeated. It is *no distance between spectra*: it
    knows how often a height occurs and not where, so a density and its mirror image,
    or any permutation of it, are at distance 0, and it is at most the largest g, about
    1/1000 on a grid of 1024 points. Use `es.wasserstein` for spectra.

    Args:
        a: A density, or its heights on a uniform grid.
        b: The same.
        floor: Heights count at least as this part of the largest one; zeros have no
            logarithm.

    Returns:
        The distance, a pure number.

    Raises:
        ValueError: If heights are negative, not finite or all equal, or `floor` is not
            between 0 and 1.

    Cost:
        O(N log N) for N points.

    Example:
        >>> heights = np.array([1.0, 2.0, 8.0, 3.0])
        >>> height_distance(heights, heights[::-1])
        0.0
    """
    if not 0 < floor < 1:
        raise ValueError(f"floor must be between 0 and 1; got {floor}.")
    left, right = _shares("a", a, floor), _shares("b", b, floor)
    return transport_distance(
        left,
        np.full(len(left), 1 / len(left)),
        right,
        np.full(len(right), 1 / len(right)),
    )


def _shares(
    name: str, given: Heights | Others, floor: float
) -> Float[np.ndarray, " point"]:
    """G of the heights, ascending."""
    heights = given.heights if isinstance(given, Density) else np.asarray(given)
    if heights.ndim != 1 or len(heights) < 2 or not np.isfinite(heights).all():
        raise ValueError(
            f"{name} must be at least two finite heights; got shape {heights.shape}."
        )
    if float(heights.min()) < 0 or float(heights.max()) == float(heights.min()):
        raise ValueError(
            f"{name} must have heights that are not negative and not all equal; they "
            f"are from {heights.min():.6g} to {heights.max():.6g}."
        )
    logs = np.log(np.maximum(heights, floor * heights.max()))
    mapped = np.sort((logs - logs.min()) / (logs.max() - logs.min()))
    return mapped / mapped.sum()
