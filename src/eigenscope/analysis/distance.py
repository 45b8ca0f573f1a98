"""Distances between spectra as measures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import require_choice
from eigenscope.spectra import Estimate, Spectrum
from eigenscope.spectra.transport import transport_distance

Scale = Literal["none", "range", "max", "trace"]
Values = Sequence[int | float] | np.ndarray | Tensor
Measure = Spectrum | Values | tuple[Values, Values]


def wasserstein(a: Measure, b: Measure, *, scale: Scale = "none") -> float:
    """W₁ = ∫ |F_a(x) - F_b(x)| dx between two measures with cdfs F_a and F_b.

    Exact for discrete measures, however many values each has; multiplicities and
    zeros count with their weight.

    Args:
        a: A `Spectrum`, a tuple (values, weights), or values of equal weight. Weights
            are divided by their sum.
        b: The same.
        scale: What each measure is divided by first: nothing ("none"), its largest
            |λ| ("max"), its mean eigenvalue, trace / D ("trace"); "range" maps the
            least value to 0 and the largest to 1. A single point has no range and
            goes to 0; a measure that is all zero has no maximum and stays. Values of
            weight 0 play no part.

    Returns:
        The distance: in units of the eigenvalues for "none", else a pure number.

    Raises:
        ValueError: If `scale` is unknown; if values and weights are not finite vectors
            of one length; if weights are negative or all zero; if the mean is not
            positive for "trace".

    Cost:
        O(N log N) for N values.

    References:
        Villani (2003), Topics in Optimal Transportation, theorem 2.18.

    Example:
        >>> wasserstein([0.0, 1.0, 3.0], [5.0, 6.0, 8.0])
        5.0
        >>> wasserstein([0.0, 1.0], [0.0, 10.0], scale="range")
        0.0
    """
    require_choice("scale", scale, Scale)
    left, left_weights = _scaled(*atoms("a", a), scale, "a")
    right, right_weights = _scaled(*atoms("b", b), scale, "b")
    return transport_distance(left, left_weights, right, right_weights)


def wasserstein_estimate(
    a: Measure, b: Measure, *, scale: Scale = "none", num_replicas: int = 200
) -> Estimate:
    """W₁ between two measures, with the error that their estimates leave.

    The standard error is the spread of the distance over spectra whose probes are
    drawn from theirs again (bootstrap); two estimates of one spectrum are not at
    distance 0, and `bias` bounds what that is: the W1 errors of both, in the units of
    `scale`.

    Args:
        a: As for `es.wasserstein`; what is no estimated `Spectrum` counts as exact.
        b: The same.
        scale: As for `es.wasserstein`.
        num_replicas: Spectra drawn, at least 2.

    Returns:
        The distance; a difference below its `bias` may be none at all.

    Raises:
        ValueError: As for `es.wasserstein`, or if `num_replicas` is less than 2.

    Cost:
        `num_replicas` distances.

    Example:
        >>> print(wasserstein_estimate([0.0, 1.0], [0.0, 3.0]))
        1 ± 0
    """
    if num_replicas < 2:
        raise ValueError(f"num_replicas must be at least 2; got {num_replicas}.")
    value = wasserstein(a, b, scale=scale)
    given = [m for m in (a, b) if isinstance(m, Spectrum) and not m.exact]
    if not given:
        return Estimate(value=value, stderr=0.0, num_matvecs=0)
    drawn = np.random.default_rng(0)
    distances = [
        wasserstein(_redrawn(a, drawn), _redrawn(b, drawn), scale=scale)
        for _ in range(num_replicas)
    ]
    return Estimate(
        value=value,
        stderr=float(np.std(distances, ddof=1)),
        bias=sum(m.error / _unit(m, scale) for m in given),
        num_matvecs=0,
        converged=all(m.converged for m in given),
    )


def _redrawn(measure: Measure, drawn: np.random.Generator) -> Measure:
    """An estimate with its probes drawn again, or the measure itself."""
    if not isinstance(measure, Spectrum) or measure.quadrature is None:
        return measure
    quadrature = measure.quadrature
    rows = drawn.integers(quadrature.num_probes, size=quadrature.num_probes)
    return replace(quadrature, **quadrature.rows(rows)).measure(measure.dimension)


def _unit(measure: Spectrum, scale: Scale) -> float:
    """What one unit of the eigenvalues is divided by."""
    values, weights = atoms("measure", measure)
    if scale == "range":
        return float(values[-1] - values[0]) or 1.0
    if scale == "max":
        return float(np.abs(values).max()) or 1.0
    return float(weights @ values) if scale == "trace" else 1.0


def atoms(
    name: str, measure: Measure
) -> tuple[Float[np.ndarray, "eig"], Float[np.ndarray, "eig"]]:
    """Ascending values of positive weight, and their weights, which sum to 1.

    Args:
        name: The argument's name, for messages.
        measure: A spectrum, values, or values and weights.

    Returns:
        Values and weights.

    Raises:
        ValueError: If they are not finite vectors of one length, or weights are
            negative or all zero.
    """
    if isinstance(measure, Spectrum):
        values, weights = measure.values, measure.weights
    elif isinstance(measure, tuple):
        if len(measure) != 2:
            raise ValueError(
                f"{name} as a tuple must be (values, weights); got {len(measure)} "
                "entries. Pass plain values as a list or an array."
            )
        values, weights = _array(measure[0]), _array(measure[1])
    else:
        values = _array(measure)
        weights = np.ones(values.shape)
    if values.ndim != 1 or values.shape != weights.shape:
        raise ValueError(
            f"{name} must be a vector of values, with a weight for each where weights "
            f"are given; got shapes {values.shape} and {weights.shape}."
        )
    if not (np.isfinite(values).all() and np.isfinite(weights).all()):
        raise ValueError(f"{name} must have finite values and weights.")
    total = float(weights.sum())
    if total <= 0 or float(weights.min()) < 0:
        raise ValueError(
            f"{name} must have weights that are non-negative and not all zero; got "
            f"{len(weights)} weights with sum {total:.6g}."
        )
    counted = np.flatnonzero(weights)
    order = counted[np.argsort(values[counted], kind="stable")]
    return values[order], weights[order] / total


def _scaled(
    values: Float[np.ndarray, "eig"],
    weights: Float[np.ndarray, "eig"],
    scale: Scale,
    name: str,
) -> tuple[Float[np.ndarray, "eig"], Float[np.ndarray, "eig"]]:
    """The measure after its change of units."""
    if scale == "range":
        extent = float(values[-1] - values[0])
        return (values - values[0]) / (extent or 1.0), weights
    if scale == "max":
        return values / (float(np.abs(values).max()) or 1.0), weights
    if scale == "trace":
        mean = float(weights @ values)
        if mean <= 0:
            raise ValueError(
                f"scale='trace' needs a positive trace; the mean eigenvalue of {name} "
                f"is {mean:.6g}. Use scale='max' or 'range'."
            )
        return values / mean, weights
    return values, weights


def _array(values: Values | float) -> Float[np.ndarray, "..."]:
    """Float64 copy on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
