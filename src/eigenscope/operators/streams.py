"""Products and norms of a matrix whose rows come a block at a time.

Sums over half-precision rows grow in float32: in their own type they would stop growing
after some hundred terms.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.rows import Jacobian

ROW_NORMS = "squared norms of rows"
COLUMN_NORMS = "squared norms of columns"


def streamed_product(
    jacobian: Jacobian, block: Float[Tensor, "column vector"]
) -> Float[Tensor, "row vector"]:
    """Return A X from one pass over the rows of A."""
    result = block.new_zeros(jacobian.shape[0], block.shape[1])
    with jacobian.ranks.sum_over_ranks(result, same=block):
        for start, rows in jacobian.row_blocks():
            torch.mm(rows, block, out=result[start : start + len(rows)])
    return result


def streamed_transpose_product(
    jacobian: Jacobian, block: Float[Tensor, "row vector"]
) -> Float[Tensor, "column vector"]:
    """Return Aᵀ Y from one pass over the rows of A."""
    wide = sum_dtype(block.dtype)
    result = block.new_zeros(jacobian.shape[1], block.shape[1], dtype=wide)
    with jacobian.ranks.sum_over_ranks(result, same=block):
        for start, rows in jacobian.row_blocks():
            part = block[start : start + len(rows)]
            result.addmm_(rows.to(wide).T, part.to(wide))
    return result.to(block.dtype)


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


def streamed_row_norms(jacobian: Jacobian) -> Float[Tensor, " row"]:
    """Return the squared norms of the rows; the blocks' memory is overwritten."""
    wide = sum_dtype(jacobian.dtype)
    result = torch.zeros(jacobian.shape[0], dtype=wide, device=jacobian.device)
    with jacobian.ranks.sum_over_ranks(result):
        for start, rows in jacobian.row_blocks():
            result[start : start + len(rows)] = rows.to(wide).square_().sum(1)
    return require_no_overflow(result.to(jacobian.dtype), ROW_NORMS)


def streamed_column_norms(jacobian: Jacobian) -> Float[Tensor, " column"]:
    """Return the squared norms of the columns; the blocks' memory is overwritten."""
    wide = sum_dtype(jacobian.dtype)
    result = torch.zeros(jacobian.shape[1], dtype=wide, device=jacobian.device)
    with jacobian.ranks.sum_over_ranks(result):
        for _, rows in jacobian.row_blocks():
            result += rows.to(wide).square_().sum(0)
    return require_no_overflow(result.to(jacobian.dtype), COLUMN_NORMS)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which entries of a type are added up."""
    return torch.float32 if dtype.itemsize < 4 else dtype
