"""What makes two arrays a spectrum, and a mapping a provenance."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue

Numbers = int | float | Sequence[int | float] | np.ndarray | Tensor
WEIGHT_TOLERANCE = 1e-8


def require_measure(
    values: Float[np.ndarray, "..."], weights: Float[np.ndarray, "..."]
) -> None:
    """Raise unless the arrays are a probability measure in ascending order."""
    if values.ndim != 1 or values.shape != weights.shape or values.size == 0:
        raise ValueError(
            "values and weights must be vectors of one length, at least 1; got shapes "
            f"{values.shape} and {weights.shape}."
        )
    for name, array in (("values", values), ("weights", weights)):
        finite = np.isfinite(array)
        if not bool(finite.all()):
            place = int(np.argmin(finite))
            raise ValueError(
                f"{name} must be finite; {name}[{place}] is {array[place]}."
            )
    falls = np.diff(values) < 0
    if bool(falls.any()):
        place = int(np.argmax(falls))
        raise ValueError(
            f"values must be ascending; values[{place}] = {values[place]:.6g} is above "
            f"values[{place + 1}] = {values[place + 1]:.6g}. Sort them with their "
            "weights, or use Spectrum.from_eigenvalues."
        )
    total = float(weights.sum())
    if float(weights.min()) < 0 or abs(total - 1) > WEIGHT_TOLERANCE:
        raise ValueError(
            "weights must be non-negative and add up to 1; the least is "
            f"{weights.min():.6g} and the sum {total:.12g}."
        )


def as_json(provenance: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What comes back after writing `provenance` as JSON."""
    try:
        return json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            "provenance must hold only what JSON can (None, bool, int, finite float, "
            f"str, lists and dictionaries of these): {error}."
        ) from error


def with_zeros(
    known: Float[np.ndarray, "known"], size: int
) -> tuple[Float[np.ndarray, "eig"], Float[np.ndarray, "eig"]]:
    """Ascending values and their weights 1/D, with the D - len(known) zeros as one."""
    weights = np.full(len(known), 1.0 / max(size, 1))
    if len(known) == size:
        return known, weights
    place = int(np.searchsorted(known, 0.0))
    zeros = (size - len(known)) / size
    return np.insert(known, place, 0.0), np.insert(weights, place, zeros)
