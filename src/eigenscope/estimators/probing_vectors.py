"""How many vectors an estimate from random ones holds, within a memory budget."""

from dataclasses import dataclass
from typing import Final, final

from eigenscope.budget import require_fits
from eigenscope.estimators.long_vectors import WIDENED

_TOGETHER: Final = 8
_DRAWN, _GIVEN = 8, 5  # copies of a vector in products, some of them in float64
_BEFORE: Final = 2  # of the probes before these, and of their images
_WIDENED_COPIES: Final = 6  # of some entries of all vectors
_SUMS: Final = 13  # of vectors: mean, squares, and what is added, in float64


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbingVectors:
    """Vectors of D numbers that an estimate holds.

    Attributes:
        during: Beside those that are multiplied.
        most: At any time.
        width: Those that are multiplied together.
    """

    during: int
    most: int
    width: int


def probing_vectors(
    method: str,
    num_matvecs: int,
    *,
    dim: int,
    itemsize: int,
    has_entries: bool,
    memory: str | int | None,
) -> ProbingVectors:
    """Which vectors an estimate holds within a budget, and multiplies together.

    Args:
        method: What is done with them.
        num_matvecs: Products to take.
        dim: D.
        itemsize: Bytes of a number.
        has_entries: Whether a number is estimated for each of the D entries.
        memory: Budget.

    Returns:
        The vectors.

    Raises:
        ValueError: If not even one fits beside those that are held.
    """
    sums = _SUMS if has_entries else 0
    drawing = given = most = 0
    drawn = num_matvecs
    # A factorization holds its input, Q in two arrangements, and LAPACK's copy.
    if method == "xtrace" and num_matvecs < dim:
        half = num_matvecs // 2
        drawn = half
        widened = 8 * _WIDENED_COPIES * half * min(dim, WIDENED)
        drawing, given = 2 * half, 4 * half
        most = max(5 * half, given - (-widened // (dim * itemsize)))
    elif method == "hutch++" and num_matvecs < dim:
        drawing = given = num_matvecs // 3
        drawn = num_matvecs - 2 * given
        most = 4 * given
    drawing, given = drawing + sums, given + sums
    each = _DRAWN + _BEFORE
    needed = max(most, drawing + each, given + _GIVEN)
    budget = require_fits(
        needed * dim * itemsize,
        memory,
        what=f"{needed} vectors of {dim} numbers with method={method!r}",
        way_out="take fewer products with num_matvecs=, or method='hutchinson'",
    )
    room = budget // (dim * itemsize)
    width = min(_TOGETHER, (room - drawing) // each, (room - given) // _GIVEN)
    most = max(most, drawing + _held(drawn, width), given + _GIVEN * width)
    return ProbingVectors(during=given, most=most, width=width)


def _held(count: int, width: int) -> int:
    """Return the most copies of probes that are held while so many are drawn."""
    groups, rest = divmod(count, width)
    if groups > 1:
        return (_DRAWN + _BEFORE) * width
    return max(_DRAWN * width * groups, _DRAWN * rest + _BEFORE * width * groups)
