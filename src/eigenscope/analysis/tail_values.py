"""What a tail fit may use of the values that it is given."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from eigenscope.budget import require_fits
from eigenscope.spectra import Spectrum

MIN_VALUES = 3
MIN_ABOVE_FLOOR = 10
_VALUE_BYTES: Final = 170  # of a value, while all starts are tried

Values = Real[np.ndarray, " value"] | Real[Tensor, " value"] | Spectrum
Weights = Real[np.ndarray, " value"] | Real[Tensor, " value"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Distinct positive values and how often each occurs.

    Attributes:
        values: Distinct values, ascending.
        counts: How many times each value stands, positive.
        below: How many stand below each value.
        at_least: How many stand at or above it.
    """

    values: Float[np.ndarray, " distinct"]
    counts: Float[np.ndarray, " distinct"]
    below: Float[np.ndarray, " distinct"]
    at_least: Float[np.ndarray, " distinct"]

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, " value"],
        counts: Float[np.ndarray, " value"] | None = None,
    ) -> "Sample":
        """Collect equal values; `counts` None means that each one stands once.

        Returns:
            The sample.
        """
        if counts is None:
            ordered = np.sort(values)
            starts = _run_starts(ordered)
            totals = np.diff(starts, append=len(ordered)).astype(np.float64)
        else:
            order = np.argsort(values, kind="stable")
            ordered = values[order]
            starts = _run_starts(ordered)
            totals = np.add.reduceat(counts[order], starts)
        return cls.of_distinct(ordered[starts], totals)

    @classmethod
    def of_distinct(
        cls,
        values: Float[np.ndarray, " distinct"],
        counts: Float[np.ndarray, " distinct"],
    ) -> "Sample":
        """Take values that are distinct and ascending already.

        Returns:
            The sample.
        """
        at_least = np.cumsum(counts[::-1])[::-1]
        below = np.cumsum(counts) - counts
        return cls(values=values, counts=counts, below=below, at_least=at_least)

    def from_value(self, start: float) -> "Sample":
        """Leave out what is below `start`.

        Returns:
            The sample of the rest.
        """
        first = int(np.searchsorted(self.values, start))
        return type(self).of_distinct(self.values[first:], self.counts[first:])

    @property
    def size(self) -> float:
        """How many values there are, equal ones included."""
        return float(self.counts.sum())


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailValues:
    """The sample that a fit sees, and how many values it does not see."""

    sample: Sample
    noise_floor: float
    num_below_floor: float
    num_above_xmax: float


def read_tail_values(
    values: Values,
    *,
    weights: Weights | None,
    noise_floor: float | None,
    xmax: float | None,
    memory: str | int | None,
) -> TailValues:
    """Check `values` and keep those above the noise floor and up to `xmax`.

    Returns:
        The sample of those, and the counts of the others.

    Raises:
        TypeError: If the values are complex.
        ValueError: If values, weights, floor or xmax are unusable, or there is no
            memory for a fit.
    """
    array, counts = _arrays(values, weights)
    require_tail_fits(len(array), memory)
    own = values.noise_floor if isinstance(values, Spectrum) else 0.0
    floor = own if noise_floor is None else float(noise_floor)
    if not (np.isfinite(floor) and floor >= 0):
        raise ValueError(f"noise_floor must be finite and at least 0; got {floor}.")
    _require_finite(array)
    _require_no_negatives(array, floor)
    _require_limit(xmax)
    weight = np.ones(len(array)) if counts is None else counts
    low = (array <= floor) & (weight > 0)
    high = array > (np.inf if xmax is None else xmax)
    kept = ~low & ~high & (weight > 0)
    num_low = float(weight[low].sum())
    sample = Sample.of(array[kept], None if counts is None else counts[kept])
    _require_enough(sample, floor, num_low, xmax)
    return TailValues(
        sample=sample,
        noise_floor=floor,
        num_below_floor=num_low,
        num_above_xmax=float(weight[high & ~low].sum()),
    )


def require_tail_fits(count: int, memory: str | int | None) -> None:
    """Raise unless tails of so many values can be fitted within a memory budget.

    Args:
        count: The values.
        memory: The budget.

    Raises:
        ValueError: If they cannot.
    """
    require_fits(
        _VALUE_BYTES * count,
        memory,
        what=f"the tails of {count} values",
        way_out="or fit some of them",
    )


def _run_starts(ordered: Float[np.ndarray, " value"]) -> np.ndarray:
    return np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)


def _arrays(
    values: Values, weights: Weights | None
) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(values, Spectrum):
        if weights is not None:
            raise ValueError(
                "weights must be None when values is a Spectrum, which has its own; "
                "pass spectrum.values to weigh them differently."
            )
        counts = values.weights * values.dimension
        return values.values, np.rint(counts) if values.exact else counts
    array = _real_array("values", values)
    if weights is None:
        return array, None
    counts = _real_array("weights", weights)
    if counts.shape != array.shape:
        raise ValueError(
            f"weights must be as many as the values, {len(array)}; got {len(counts)}."
        )
    if not np.all(np.isfinite(counts) & (counts >= 0)):
        raise ValueError(
            f"weights must be finite and not negative; the least is {counts.min()}."
        )
    return array, counts


def _real_array(name: str, given: np.ndarray | Tensor) -> np.ndarray:
    array = (
        given.detach().cpu().resolve_conj().numpy(force=True)
        if isinstance(given, Tensor) and given.is_complex()
        else given.detach().double().cpu().numpy()
        if isinstance(given, Tensor)
        else np.asarray(given)
    )
    if np.iscomplexobj(array):
        raise TypeError(
            f"{name} must be real numbers; got dtype {array.dtype}: pass their real "
            f"parts or moduli."
        )
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be one-dimensional; got shape {array.shape}: pass the "
            f"eigenvalues of a matrix, or the flattened array."
        )
    return array.astype(np.float64)


def _require_finite(array: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(array))
    if len(broken):
        raise ValueError(
            f"values must be finite; {len(broken)} of {len(array)} are not, the first "
            f"is number {broken[0]}: {array[broken[0]]}. Leave them out, or find what "
            f"made them."
        )


def _require_no_negatives(array: np.ndarray, floor: float) -> None:
    negative = array < -floor
    if negative.any():
        raise ValueError(
            f"values must not be negative (below -noise_floor = {-floor:g}); "
            f"{int(negative.sum())} of {len(array)} are, the least is "
            f"{array.min():g}. If they are rounding, pass noise_floor={-array.min():g} "
            f"or more; if not, fit values[values > 0] or abs(values)."
        )


def _require_limit(xmax: float | None) -> None:
    if xmax is not None and not xmax > 0:
        raise ValueError(f"xmax must be positive; got {xmax}.")


def _require_enough(
    sample: Sample, floor: float, num_low: float, xmax: float | None
) -> None:
    distinct, total = len(sample.values), sample.size
    if floor > 0 and num_low > 0 and distinct < MIN_ABOVE_FLOOR:
        raise ValueError(
            f"a tail needs at least {MIN_ABOVE_FLOOR} distinct values above the noise "
            f"floor {floor:g}; only {distinct} of {total + num_low:g} are. Such a "
            f"spectrum (near low rank, or saturated) has no meaningful tail: look at "
            f"its leading values themselves."
        )
    if distinct == 1 and total >= MIN_VALUES:
        raise ValueError(
            f"values must not all be equal; all {total:g} positive ones are "
            f"{sample.values[0]:g}, and one atom has no tail."
        )
    if distinct < MIN_VALUES:
        limit = "" if xmax is None else f" up to xmax={xmax:g}"
        raise ValueError(
            f"values must hold at least {MIN_VALUES} distinct positive ones{limit}; "
            f"got {distinct}. Pass more eigenvalues."
        )
