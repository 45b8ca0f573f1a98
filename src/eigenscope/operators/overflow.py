"""Sums of squares of finite numbers that are too large for their type."""

from jaxtyping import Float
from torch import Tensor


def require_no_overflow(
    found: Float[Tensor, "row *column"], what: str, *, first: int = 0
) -> Float[Tensor, "row *column"]:
    """Return what was found, which is finite.

    Args:
        found: Norms, or some rows of a matrix of inner products.
        what: What it is, the start of the message.
        first: Number of the first row.

    Returns:
        The same tensor.

    Raises:
        ValueError: If an entry is NaN or infinite, naming its row.
    """
    if bool(found.sum().isfinite()):  # no memory but for one number
        return found
    bad = (~found.isfinite()).reshape(len(found), -1).any(1)
    if bool(bad.any()):
        place = int(bad.nonzero()[0, 0])
        entries = found[place].flatten()
        value = float(entries[~entries.isfinite()][0])
        raise ValueError(
            f"{what} must be finite; number {first + place} holds {value}: a factor "
            f"does, or its products overflow {found.dtype}. Look at the scale of the "
            "samples and of the weights, or compute in float64."
        )
    return found
