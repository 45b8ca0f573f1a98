"""Inner products, lengths and orthonormal bases of vectors with millions of entries."""

from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.precision import wide_lengths, wide_sum, widened

# Entries that are summed in the vectors' own dtype. A float32 sum that has come to 1
# takes no more terms below 6e-8: |v|² of 28 million entries came out 0.3 % too small.
_PIECE: Final = 2**14
WIDENED: Final = 2**9
"""Entries of vectors of which copies in float64 are held at one time."""


def inner_products(
    left: Float[Tensor, "*group m dim"], right: Float[Tensor, "*group n dim"]
) -> Float[Tensor, "*group m n"]:
    """⟨x_i, y_j⟩ of rows, summed in float64 over pieces of 16,384 entries.

    Args:
        left: The x, one or more groups of them.
        right: The y, in as many groups.

    Returns:
        Float64, on the vectors' device.

    Example:
        >>> rows = torch.full((1, 2**25), 2.0**-12)
        >>> inner_products(rows, rows).tolist()
        [[2.0]]
    """
    if left.ndim == 2:
        return _pair(left, right)
    return torch.stack([_pair(x, y) for x, y in zip(left, right, strict=True)])


def pieces(dim: int) -> Iterator[slice]:
    """Entries 0 … dim - 1, as many at a time as may be copied in float64.

    Args:
        dim: The entries.

    Yields:
        Consecutive ones.
    """
    for start in range(0, dim, WIDENED):
        yield slice(start, min(start + WIDENED, dim))


def wide_products(
    left: Float[Tensor, "m dim"], right: Float[Tensor, "n dim"]
) -> Float[Tensor, "m n"]:
    """⟨x_i, y_j⟩ of rows, each product in float64, without copies of whole rows.

    Args:
        left: The x.
        right: The y.

    Returns:
        Float64, where `widened` would be.
    """
    total = widened(left[:, :0]) @ widened(right[:, :0]).T
    for part in pieces(left.shape[1]):
        total += widened(left[:, part]) @ widened(right[:, part]).T
    return total


def inner(
    left: Float[Tensor, "vector dim"], right: Float[Tensor, "vector dim"]
) -> Float[Tensor, "vector"]:
    """⟨x, y⟩ of rows, in float64 on the CPU.

    Args:
        left: The x.
        right: The y.

    Returns:
        One number a row.
    """
    return (widened(left) * widened(right)).sum(1).cpu()


def normalize(rows: Float[Tensor, "vector dim"]) -> None:
    """Scale rows to unit length, in place.

    Args:
        rows: Changed in place.
    """
    lengths = wide_lengths(rows, keepdim=True)
    rows /= lengths.to(rows)


def project_off(
    rows: Float[Tensor, "vector dim"], outer: Float[Tensor, "outer dim"]
) -> None:
    """Make rows orthogonal to orthonormal ones, in place, by two passes.

    Args:
        rows: Changed in place.
        outer: Orthonormal rows; there may be none.
    """
    if len(outer):
        for _ in range(2):
            rows.addmm_(inner_products(rows, outer).to(rows), outer, alpha=-1)


def orthonormal_rows(
    rows: Float[Tensor, "vector dim"],
) -> tuple[Float[Tensor, "vector dim"], Float[Tensor, "vector vector"]]:
    """Q and R with rows = Rᵀ Q: the QR factorization of long columns, piece by piece.

    Every piece of 16,384 entries is factorized by itself, and the stacked factors R
    of the pieces in float64; so no sum in the rows' own dtype is longer than a piece.

    Args:
        rows: The vectors, at most as many as they have entries.

    Returns:
        Q with orthonormal rows, in new memory, and the upper triangle R in float64.

    References:
        Demmel, Grigori, Hoemmen, Langou (2012), SIAM J. Sci. Comput. 34(1).
    """
    count, dim = rows.shape
    whole = dim - dim % max(_PIECE, count)
    result = torch.empty_like(rows, memory_format=torch.contiguous_format)
    parts: list[tuple[Tensor, Tensor]] = []  # where a part of Q goes, and its columns
    triangles: list[Tensor] = []
    for place in (slice(0, whole), slice(whole, dim)):
        width = place.stop - place.start
        if width:
            length = max(_PIECE, count) if place.start < whole else width
            shape = (width // length, length)
            columns = rows[:, place].unflatten(1, shape).permute(1, 2, 0)
            found, triangle = torch.linalg.qr(columns)
            target = result[:, place].unflatten(1, shape).permute(1, 2, 0)
            parts.append((target, found))
            triangles.append(triangle)
    stacked = widened(torch.cat([part.flatten(0, 1) for part in triangles]))
    turns, final = torch.linalg.qr(stacked)
    start = 0
    for (target, found), triangle in zip(parts, triangles, strict=True):
        pieces, rank = triangle.shape[:2]
        turn = turns[start : start + pieces * rank].unflatten(0, (pieces, rank))
        start += pieces * rank
        target.copy_(found @ turn.to(found))
    return result, final


def _pair(
    left: Float[Tensor, "m dim"], right: Float[Tensor, "n dim"]
) -> Float[Tensor, "m n"]:
    """The inner products of one group."""
    pieces, beyond = divmod(left.shape[1], _PIECE)
    whole = left.shape[1] - beyond
    total = widened(left[:, whole:] @ right[:, whole:].T)
    if pieces:
        columns, others = (
            rows[:, :whole].unflatten(1, (pieces, _PIECE)) for rows in (left, right)
        )
        found = torch.bmm(columns.transpose(0, 1), others.permute(1, 2, 0))
        total += wide_sum(found, 0)
    return total
