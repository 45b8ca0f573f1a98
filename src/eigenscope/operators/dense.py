"""A plain matrix as an operator."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.rows import Jacobian
from eigenscope.operators.streams import COLUMN_NORMS, ROW_NORMS


@final
class Dense(Jacobian):
    """A matrix in memory as an operator.

    Args:
        matrix: The matrix; kept, not copied.

    Raises:
        ValueError: If it is not two-dimensional.

    Example:
        >>> A = Dense(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        >>> (A.T @ torch.tensor([1.0, 1.0])).tolist()
        [1.0, 5.0]
    """

    def __init__(self, matrix: Float[Tensor, "row column"]) -> None:
        if matrix.ndim != 2:
            raise ValueError(
                f"matrix must have two axes; got shape {tuple(matrix.shape)}. Flatten "
                "a Jacobian to (row, column)."
            )
        self._matrix = matrix.detach()

    @property
    @override
    def shape(self) -> tuple[int, int]:
        rows, columns = self._matrix.shape
        return rows, columns

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._matrix.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self._matrix.device

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return self._matrix @ block

    @override
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        return self._matrix.T @ block

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        return self._matrix

    @override
    def row_blocks(self) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        yield 0, self._matrix

    @override
    def column_panels(self, max_bytes: int) -> Iterator[Float[Tensor, "row column"]]:
        yield self._matrix

    @override
    def row_panels(self, max_bytes: int) -> Iterator[Float[Tensor, "row column"]]:
        yield self._matrix

    @override
    def squared_row_norms(self) -> Float[Tensor, " row"]:
        return require_no_overflow(self._matrix.square().sum(1), ROW_NORMS)

    @override
    def squared_column_norms(self) -> Float[Tensor, " column"]:
        return require_no_overflow(self._matrix.square().sum(0), COLUMN_NORMS)
