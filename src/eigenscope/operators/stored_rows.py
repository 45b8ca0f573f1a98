"""A matrix that is read from a run, some whole rows at a time."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.operators.streams import StreamedJacobian
from eigenscope.store import TiledArray


@final
class StoredRows(StreamedJacobian):
    """A matrix in a run whose tiles are whole rows.

    Args:
        array: The array (row, column).

    Attributes:
        array: The array.
    """

    def __init__(self, array: TiledArray) -> None:
        self.array = array
        self._dtype = torch.from_numpy(array[:0]).dtype

    @property
    @override
    def shape(self) -> tuple[int, int]:
        rows, columns = self.array.shape
        return rows, columns

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    @override
    def device(self) -> torch.device:
        return torch.device("cpu")

    @override
    def row_blocks(self) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        rows, columns = self.shape
        tile = self.array.tile_shape[0]
        buffer = torch.empty(tile, columns, dtype=self.dtype)
        for start in range(0, rows, tile):
            stop = min(start + tile, rows)
            block = buffer[: stop - start]
            self.array.read_into(block.numpy(), (slice(start, stop),))
            yield start, block

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        return torch.from_numpy(self.array[()])
