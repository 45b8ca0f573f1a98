"""Gram matrices of Jacobians, in memory or written tile by tile into a run."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from eigenscope._types import JsonValue, Side, require_choice
from eigenscope.budget import format_bytes, resolve
from eigenscope.distributed import Ranks
from eigenscope.kernels.triangles import add_lower_product, mirror_lower
from eigenscope.operators.base import SymmetricOperator
from eigenscope.operators.dense import Dense
from eigenscope.operators.gram_tiles import FACTOR_DTYPE, write_gram
from eigenscope.operators.jacobian import InputJacobian
from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.rows import Jacobian
from eigenscope.operators.streams import streamed_gram_product
from eigenscope.store import Run, TiledArray


@final
class Gram(SymmetricOperator):
    """𝒥𝒥ᵀ (side "rows") or 𝒥ᵀ𝒥 (side "columns") of a Jacobian 𝒥.

    Made by `es.gram`. Both sides have the same non-zero eigenvalues. Products with
    vectors are taken in 𝒥's dtype; `dense()` and what `write` stores have the dtype
    `accumulate`.

    Attributes:
        factor: 𝒥.
        side: "rows" or "columns".
    """

    def __init__(
        self,
        factor: Jacobian,
        *,
        side: Side,
        accumulate: torch.dtype | None,
        memory: str | int | None,
    ) -> None:
        require_choice("side", side, Side)
        _require_at_least_as_wide(accumulate, factor.dtype)
        rows, columns = factor.shape
        if side == "auto":
            side = "rows" if rows <= columns else "columns"
        self.factor = factor
        self.side: Side = side
        self._accumulate = accumulate or factor.dtype
        self.memory = memory

    @property
    @override
    def shape(self) -> tuple[int, int]:
        size = self.factor.shape[0 if self.side == "rows" else 1]
        return size, size

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self.factor.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self.factor.device

    @property
    @override
    def ranks(self) -> Ranks:
        return self.factor.ranks

    def other_side(self) -> "Gram":
        """Return the Gram matrix of the other side, with the same non-zero spectrum."""
        other: Side = "columns" if self.side == "rows" else "rows"
        return Gram(
            self.factor, side=other, accumulate=self._accumulate, memory=self.memory
        )

    @override
    def smaller_side(self) -> "Gram | None":
        return self.other_side() if self.shape[0] > min(self.factor.shape) else None

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        if self.side == "rows":
            return self.factor.multiply(self.factor.multiply_transpose(block))
        return streamed_gram_product(self.factor, block)

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        if self.side == "rows":
            return self.factor.squared_row_norms()
        return self.factor.squared_column_norms()

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        size = self.shape[0]
        budget = resolve(self.memory)
        rest = budget - size * size * self._accumulate.itemsize
        if rest <= 0:
            raise ValueError(
                f"the {size} × {size} Gram matrix takes "
                f"{format_bytes(budget - rest)} and must fit the memory budget of "
                f"{format_bytes(budget)}. Give more memory, take the other side, or "
                "write it to a run: es.gram(jacobian).write(run)."
            )
        result = torch.empty(size, size, dtype=self._accumulate, device=self.device)
        if self.ranks.size > 1:
            result.zero_()
        if self.side == "rows":
            # All ranks make and hold each panel, and multiply some of its columns.
            self._add_up(result, self.factor.column_panels(rest))
            with self.ranks.sum_over_ranks(result):
                pass
        else:
            with self.ranks.sum_over_ranks(result):
                panels = self.factor.row_panels(rest)
                self._add_up(result, (panel.T for panel in panels))
        mirror_lower(result)
        return require_no_overflow(result, "rows of a Gram matrix")

    def _add_up(self, result: Tensor, panels: Iterator[Tensor]) -> None:
        """Add P Pᵀ for this rank's columns of every panel P."""
        fresh = self.ranks.size == 1
        for panel in panels:
            own = panel
            if self.side == "rows" and self.ranks.size > 1:
                share = self.ranks.share(panel.shape[1])
                own = panel[:, share.start : share.stop]
            if own.shape[1]:
                add_lower_product(result, own, fresh=fresh)
                fresh = False

    def write(self, run: Run, *, name: str = "gram") -> "StoredGram":
        """Write the lower triangle into a run, tile by tile; what is there stays.

        The Jacobian goes to the run first, unless it is there, so every tile needs no
        more than reading.

        Args:
            run: A run that is open for writing.
            name: The array's name.

        Returns:
            The stored matrix.

        Raises:
            ValueError: If the Jacobian is no `InputJacobian`, or a tile does not fit.
            OSError: If the disk is too small; before work starts where that is known.

        Cost:
            D(D + 1) · columns operations, D² numbers on disk at most, and reading the
            Jacobian about D / tile times.
        """
        if not isinstance(self.factor, InputJacobian):
            raise ValueError(
                "only the Gram matrix of an InputJacobian can be written to a run; got "
                f"{type(self.factor).__name__}. Use dense()."
            )
        stored = self.factor.write(run, memory=self.memory)
        return StoredGram(
            write_gram(
                stored, self.side, self._accumulate, run, name, resolve(self.memory)
            )
        )


@final
class StoredGram(SymmetricOperator):
    """A symmetric matrix whose lower triangle of tiles is in a run.

    Vectors have the dtype of the Jacobian behind it, as for `Gram`; `dense()` has the
    dtype that is stored.
    """

    def __init__(self, array: TiledArray) -> None:
        self.array = array
        self._dtype = getattr(torch, str(array.attributes[FACTOR_DTYPE]))

    def identity(self) -> dict[str, JsonValue]:
        """Return what tells this matrix from all others.

        Returns:
            Side, layout, output, and the digests of data and weights, as stored.
        """
        known = ("side", "layout", "output", "data", "weights")
        found = self.array.attributes
        return {key: found[key] for key in known if key in found}

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    @override
    def device(self) -> torch.device:
        return torch.device("cpu")

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        wide = block.to(self._stored_dtype())
        result = torch.zeros_like(wide)
        for rows, columns, tile in self._tiles():
            result[rows] += tile @ wide[columns]
            if rows != columns:
                result[columns] += tile.T @ wide[rows]
        return result.to(self.dtype)

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        places = [(row, row) for row in range(self.array.grid[0])]
        tiles = [torch.from_numpy(self.array.read_tile(place)) for place in places]
        return torch.cat([tile.diagonal() for tile in tiles])

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        result = torch.empty(self.shape, dtype=self._stored_dtype())
        for rows, columns, tile in self._tiles():
            result[rows, columns] = tile
        mirror_lower(result)
        return result

    def submatrix(self, rows: Int64[Tensor, " chosen"]) -> Float[Tensor, "row column"]:
        """Return A restricted to some rows and columns, reading a tile at a time.

        Args:
            rows: Indices of rows and columns, in any order.

        Returns:
            The entries, in the dtype that is stored.
        """
        result = torch.zeros(len(rows), len(rows), dtype=self._stored_dtype())
        for first, second, tile in self._tiles():
            own = ((rows >= first.start) & (rows < first.stop)).nonzero()[:, 0]
            other = ((rows >= second.start) & (rows < second.stop)).nonzero()[:, 0]
            part = tile[rows[own] - first.start][:, rows[other] - second.start]
            result[own.unsqueeze(1), other] = part
            result[other.unsqueeze(1), own] = part.T
        return result

    def inner(self, other: "StoredGram") -> float:
        """Return ⟨A, B⟩ = Σ A_ij B_ij with another stored matrix, a tile at a time.

        Args:
            other: B, of the same shape; A itself for ‖A‖².

        Returns:
            The sum, taken in float64.
        """
        total = 0.0
        for rows, columns, tile in self._tiles():
            same = tile if other is self else other.block(rows, columns)
            part = float((tile.double() * same.double()).sum())
            total += part if rows == columns else 2 * part
        return total

    def block(self, rows: slice, columns: slice) -> Float[Tensor, "row column"]:
        """Return A[rows, columns], reading the tiles that meet it or its mirror image.

        Args:
            rows: Consecutive rows.
            columns: Consecutive columns.

        Returns:
            The entries, in the dtype that is stored.
        """
        shape = rows.stop - rows.start, columns.stop - columns.start
        result = torch.zeros(shape, dtype=self._stored_dtype())
        size = self.array.tile_shape[0]
        for i in range(rows.start // size, -(-rows.stop // size)):
            for j in range(columns.start // size, -(-columns.stop // size)):
                place = (max(i, j), min(i, j))
                tile = torch.from_numpy(self.array.read_tile(place))
                tile = tile if i >= j else tile.T
                into, out = zip(
                    _overlap(rows, i * size, len(tile)),
                    _overlap(columns, j * size, tile.shape[1]),
                    strict=True,
                )
                result[into] = tile[out]
        return result

    def _stored_dtype(self) -> torch.dtype:
        return torch.from_numpy(self.array[:0]).dtype

    def _tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for row in range(self.array.grid[0]):
            for column in range(row + 1):
                rows, columns = self.array.selection((row, column))
                tile = torch.from_numpy(self.array.read_tile((row, column)))
                yield rows, columns, tile


def gram(
    jacobian: Jacobian | Float[Tensor, "row column"],
    *,
    side: Side = "auto",
    accumulate: torch.dtype | None = None,
    memory: str | int | None = None,
) -> Gram:
    """𝒥𝒥ᵀ or 𝒥ᵀ𝒥 as a symmetric operator; one triangle is computed and mirrored.

    Exact to rounding: entries carry an error of about ε·‖row‖² of the dtype that the
    products are taken in, so eigenvalues below ε·λ_max·√D are rounding.

    Args:
        jacobian: 𝒥, or a matrix.
        side: "rows" for 𝒥𝒥ᵀ, "columns" for 𝒥ᵀ𝒥, "auto" for the smaller one.
        accumulate: A wider dtype to add up partial products in; None for 𝒥's own.
        memory: Budget such as "4GiB" for the dense form; None for half of what is
            available.

    Returns:
        The operator, with products, an exact `diagonal()`, `dense()` and `write(run)`.

    Raises:
        TypeError: If `jacobian` is another kind of operator.
        ValueError: If `side` is unknown, or `accumulate` narrower than 𝒥's dtype.

    Cost:
        `dense()`: D² · (other dimension) operations and 𝒥 once; 𝒥 is cut into panels
        of outputs where it does not fit the budget beside the result.

    Example:
        >>> G = gram(torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]))
        >>> G.side, G.dense().tolist(), G.diagonal().tolist()
        ('rows', [[5.0, 0.0], [0.0, 9.0]], [5.0, 9.0])
    """
    factor = Dense(jacobian) if isinstance(jacobian, Tensor) else jacobian
    if not isinstance(factor, Jacobian):
        raise TypeError(
            "jacobian must be a matrix or a Jacobian, whose rows can be read; got "
            f"{type(factor).__name__}. Pass the Jacobian and choose the side, or "
            "op.dense()."
        )
    return Gram(factor, side=side, accumulate=accumulate, memory=memory)


def _overlap(wanted: slice, start: int, size: int) -> tuple[slice, slice]:
    """Return where a tile's rows go, and which of them, counted from their starts."""
    first, stop = max(wanted.start, start), min(wanted.stop, start + size)
    into = slice(first - wanted.start, stop - wanted.start)
    return into, slice(first - start, stop - start)


def _require_at_least_as_wide(
    accumulate: torch.dtype | None, dtype: torch.dtype
) -> None:
    if accumulate is None:
        return
    is_float = accumulate.is_floating_point
    if not is_float or torch.finfo(accumulate).eps > torch.finfo(dtype).eps:
        raise ValueError(
            f"accumulate must be a floating-point type at least as precise as the "
            f"Jacobian's {dtype}; got {accumulate}. Use torch.float64."
        )
