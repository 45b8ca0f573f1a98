"""Rows that come in small blocks, gathered to larger panels."""

from collections.abc import Iterator

import torch
from torch import Tensor


def gathered(blocks: Iterator[tuple[int, Tensor]], together: int) -> Iterator[Tensor]:
    """Yield the rows of small blocks in larger ones, in memory that is used again.

    Args:
        blocks: First row and rows, in order.
        together: Rows of a panel, or those of one block if these are more.

    Yields:
        Panels of whole blocks.
    """
    buffer, filled = torch.empty(0), 0
    for _, rows in blocks:
        if not len(buffer):
            size = max(together, len(rows))
            buffer = rows.new_empty(size, rows.shape[1])
        if filled + len(rows) > len(buffer):
            yield buffer[:filled]
            filled = 0
        buffer[filled : filled + len(rows)] = rows
        filled += len(rows)
    if filled:
        yield buffer[:filled]
