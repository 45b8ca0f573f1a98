"""A matrix that is read from a run, some whole rows at a time."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.operators.rows import Jacobian
from eigenscope.operators.streams import (
    streamed_column_norms,
    streamed_product,
    streamed_row_norms,
    streamed_transpose_product,
)
from eigenscope.store import TiledArray


@final
class StoredRows(Jacobian):
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

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return streamed_product(self, block)

    @override
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        return streamed_transpose_product(self, block)

    @override
    def squared_row_norms(self) -> Float[Tensor, " row"]:
        return streamed_row_norms(self)

    @override
    def squared_column_norms(self) -> Float[Tensor, " column"]:
        return streamed_column_norms(self)
