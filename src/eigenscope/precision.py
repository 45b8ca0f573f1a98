"""Sums that single precision would spoil, on devices with and without doubles."""

from typing import Final

import torch
from jaxtyping import Float, Num
from torch import Tensor

_CPU = torch.device("cpu")
_WIDENED_AT_ONCE: Final = 2**19
_LEAST_WIDTH: Final = 2**10


def has_float64(device: torch.device) -> bool:
    """Whether a device knows torch.float64; Apple's (MPS) does not.

    Args:
        device: The device.

    Returns:
        Whether tensors of that type can be there.
    """
    return device.type != "mps"


def to_host(x: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
    """The same numbers, on the CPU.

    Args:
        x: A tensor.

    Returns:
        The tensor itself if it is there already.
    """
    return x.cpu()


def wide_device(device: torch.device) -> torch.device:
    """Where numbers of a device are kept in float64.

    Args:
        device: The device.

    Returns:
        The device, or the CPU if it has no such numbers.
    """
    return device if has_float64(device) else _CPU


def widened(x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same numbers in float64.

    Args:
        x: A tensor.

    Returns:
        On its device, or on the CPU if the device has no such numbers.

    Example:
        >>> widened(torch.ones(2)).dtype
        torch.float64
    """
    return (x if has_float64(x.device) else to_host(x)).double()


def wide_sum(x: Float[Tensor, "..."], dim: int | None = None) -> Float[Tensor, "..."]:
    """Σ x, added up in float64.

    Args:
        x: A tensor.
        dim: The axis; all of them if None.

    Returns:
        Where `widened` would be.
    """
    x = x if has_float64(x.device) else to_host(x)
    return x.sum(dim=dim, dtype=torch.float64)


def wide_lengths(
    rows: Float[Tensor, "row column"], *, keepdim: bool = False
) -> Float[Tensor, "..."]:
    """‖x‖ of every row, in float64.

    Squares of float32 numbers leave its range long before the numbers do.

    Args:
        rows: The x.
        keepdim: Return a column.

    Returns:
        Where `widened` would be.
    """
    rows = rows if has_float64(rows.device) else to_host(rows)
    width = max(_LEAST_WIDTH, _WIDENED_AT_ONCE // max(1, len(rows)))
    if rows.dtype == torch.float64 or not rows.is_cpu or rows.shape[1] <= width:
        return torch.linalg.vector_norm(
            rows, dim=1, keepdim=keepdim, dtype=torch.float64
        )
    # What torch converts on the way is ten times slower than copies in the cache.
    total = torch.zeros(len(rows), dtype=torch.float64)
    for start in range(0, rows.shape[1], width):
        total += rows[:, start : start + width].double().square_().sum(1)
    return total.sqrt_()[:, None] if keepdim else total.sqrt_()


def is_finite(x: Float[Tensor, "..."]) -> bool:
    """Whether no entry is NaN or infinite; reads x once and makes nothing of its size.

    Args:
        x: A tensor.

    Returns:
        Whether all entries are numbers.
    """
    if not x.numel():
        return True
    # Rows that are in order are read faster than columns.
    low, high = torch.aminmax(x.T if x.ndim == 2 and x.T.is_contiguous() else x)
    return bool(low.isfinite() & high.isfinite())
