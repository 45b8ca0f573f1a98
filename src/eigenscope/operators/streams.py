"""Products and norms of a matrix whose rows come a block at a time.

Sums over half-precision rows grow in float32: in their own type they would stop growing
after some hundred terms.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.rows import Jacobian

ROW_NORMS = "squared norms of rows"
COLUMN_NORMS = "squared norms of columns"


class StreamedJacobian(Jacobian):
    """A Jacobian whose products and norms take one pass over its rows."""

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        result = block.new_zeros(self.shape[0], block.shape[1])
        with self.ranks.sum_over_ranks(result, same=block):
            for start, rows in self.row_blocks():
                torch.mm(rows, block, out=result[start : start + len(rows)])
        return result

    @override
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        wide = sum_dtype(block.dtype)
        result = block.new_zeros(self.shape[1], block.shape[1], dtype=wide)
        with self.ranks.sum_over_ranks(result, same=block):
            for start, rows in self.row_blocks():
                part = block[start : start + len(rows)]
                result.addmm_(rows.to(wide).T, part.to(wide))
        return result.to(block.dtype)

    @override
    def squared_row_norms(self) -> Float[Tensor, " row"]:
        wide = sum_dtype(self.dtype)
        result = torch.zeros(self.shape[0], dtype=wide, device=self.device)
        with self.ranks.sum_over_ranks(result):
            for start, rows in self.row_blocks():  # their memory is overwritten
                result[start : start + len(rows)] = rows.to(wide).square_().sum(1)
        return require_no_overflow(result.to(self.dtype), ROW_NORMS)

    @override
    def squared_column_norms(self) -> Float[Tensor, " column"]:
        wide = sum_dtype(self.dtype)
        result = torch.zeros(self.shape[1], dtype=wide, device=self.device)
        with self.ranks.sum_over_ranks(result):
            for _, rows in self.row_blocks():  # their memory is overwritten
                result += rows.to(wide).square_().sum(0)
        return require_no_overflow(result.to(self.dtype), COLUMN_NORMS)


def streamed_gram_product(
    jacobian: Jacobian, block: Float[Tensor, "column vector"]
) -> Float[Tensor, "column vector"]:
    """Return AᵀA X from one pass over the rows of A."""
    wide = sum_dtype(block.dtype)
    vectors = block.to(wide)
    result = torch.zeros_like(vectors)
    with jacobian.ranks.sum_over_ranks(result, same=block):
        for _, rows in jacobian.row_blocks():
            part = rows.to(wide)
            result.addmm_(part.T, part @ vectors)
    return result.to(block.dtype)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which entries of a type are added up."""
    return torch.float32 if dtype.itemsize < 4 else dtype
