"""Writing one triangle of a Gram matrix from Jacobian rows on disk, tile by tile."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from eigenscope._types import Side
from eigenscope.budget import format_bytes
from eigenscope.distributed import Ranks
from eigenscope.kernels.triangles import (
    add_lower_product,
    add_product,
    mirror_lower,
)
from eigenscope.operators.jacobian import InputJacobian
from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.stored_blocks import StoredBlocks
from eigenscope.progress import progress
from eigenscope.store import Run, TiledArray

FACTOR_DTYPE = "factor_dtype"
_TILE = 2048


def write_gram(
    jacobian: InputJacobian,
    side: Side,
    accumulate: torch.dtype,
    run: Run,
    name: str,
    budget: int,
) -> TiledArray:
    """Write the lower triangle of tiles of a stored Jacobian's Gram matrix.

    Tile size and, for 𝒥ᵀ𝒥, the rows that are added up together are recorded in the
    run's settings at the first call, so that a resumed run adds in the same order.

    Args:
        jacobian: A Jacobian that reads from a run.
        side: "rows" or "columns".
        accumulate: Type in which partial products are added up, and of the result.
        run: A run that is open for writing.
        name: The array's name.
        budget: Bytes of memory to use.

    Returns:
        The array; tiles above the diagonal stay absent.

    Raises:
        ValueError: If the budget does not hold two tiles' rows.
        OSError: If the disk cannot take what is missing.
    """
    source = cast("StoredBlocks", jacobian.source)
    rows, columns = jacobian.shape
    size = rows if side == "rows" else columns
    key = f"{name}_tiles"
    if key not in run.settings:
        tile = _tile_size(jacobian, source, side, budget)
        together = _tile_rows_together(source, columns, tile, accumulate, budget)
        run.record_settings({key: {"size": tile, "rows_together": together}})
    recorded = cast("dict[str, int]", run.settings[key])
    tile = recorded["size"]
    array = run.array(
        name,
        shape=(size, size),
        dtype=str(accumulate).removeprefix("torch."),
        tile_shape=(tile, tile),
        attributes={
            "side": side,
            "layout": jacobian.layout,
            **source.identity(),
            FACTOR_DTYPE: str(jacobian.dtype).removeprefix("torch."),
        },
    )
    pending = [
        index for index in run.ranks.from_first(array.missing) if index[0] >= index[1]
    ]
    run.require_space(len(pending) * array.tile_bytes)
    if side == "rows":
        steps = _write_row_side(
            jacobian, array, accumulate, run.ranks.deal(pending), run.ranks.size
        )
        run.ranks.in_step(steps, rounds=-(-len(pending) // run.ranks.size))
    else:
        together = recorded["rows_together"]
        _write_column_side(source, array, accumulate, pending, together, run.ranks)
    return array


def _tile_size(
    jacobian: InputJacobian, source: StoredBlocks, side: Side, budget: int
) -> int:
    """Return about 2048 rows, in whole tiles of the Jacobian where they are rows.

    Raises:
        ValueError: If the budget does not hold two tiles' rows.
    """
    rows, columns = jacobian.shape
    if side == "columns":
        return min(_TILE, columns)
    unit = min(source.array.tile_shape[0] * jacobian.rows_per_sample, rows)
    return rows_of_tile(unit, columns * source.dtype.itemsize, budget)


def rows_of_tile(unit: int, row_bytes: int, budget: int) -> int:
    """Return about 2048 rows of a Gram matrix of rows, in whole units.

    Args:
        unit: Rows of a tile of the Jacobian.
        row_bytes: Bytes of one of them.
        budget: Bytes of memory to use.

    Returns:
        Rows, maybe more than there are.

    Raises:
        ValueError: If the budget does not hold two tiles' rows.
    """
    fitting = (budget - unit * row_bytes) // (2 * row_bytes) // unit * unit
    if fitting < unit:
        raise ValueError(
            f"the memory budget must hold three blocks of {unit} Jacobian rows, "
            f"{format_bytes(3 * unit * row_bytes)}; got {format_bytes(budget)}. Give "
            "more memory (--memory)."
        )
    return min(max(unit, round(_TILE / unit) * unit), fitting)


def _tile_rows_together(
    source: StoredBlocks, size: int, tile: int, accumulate: torch.dtype, budget: int
) -> int:
    """Return the rows of tiles of 𝒥ᵀ𝒥 that fit in memory beside two blocks of 𝒥."""
    _, k, d = source.shape
    block_bytes = source.array.tile_shape[0] * k * d * source.dtype.itemsize
    free = budget - 2 * block_bytes
    return max(1, free // (size * tile * accumulate.itemsize))


def _write_row_side(
    jacobian: InputJacobian,
    array: TiledArray,
    accumulate: torch.dtype,
    mine: list[tuple[int, ...]],
    num_ranks: int,
) -> Iterator[None]:
    """Write some tiles, one whenever the iterator is advanced."""
    source = cast("StoredBlocks", jacobian.source)
    tile, per_sample = array.tile_shape[0], jacobian.rows_per_sample
    shape = (-(-tile // per_sample), *source.shape[1:])
    left = torch.empty(shape, dtype=source.dtype)
    right = torch.empty_like(left) if array.grid[0] > 1 else left
    product = torch.empty(tile, tile, dtype=accumulate)

    def read(number: int, buffer: Tensor) -> Tensor:
        start = number * tile // per_sample
        stop = min(start + len(buffer), source.num_samples)
        source.read(start, stop, buffer[: stop - start])
        return buffer[: stop - start].view(-1, jacobian.shape[1])

    total = array.grid[0] * (array.grid[0] + 1) // 2
    done = total - len(mine) * num_ranks
    panel, in_memory = left, -1
    for row, column in progress(mine, label="Gram", total=total, done=done):
        if row != in_memory:
            panel, in_memory = read(row, left), row
        other = panel if column == row else read(column, right)
        target = product[: len(panel), : len(other)]
        if column == row:
            add_lower_product(target, panel, fresh=True)
            mirror_lower(target)
        else:
            add_product(target, panel, other, fresh=True)
        require_no_overflow(target, "rows of a Gram matrix", first=row * tile)
        array.write((row, column), target.numpy())
        yield


def _write_column_side(
    source: StoredBlocks,
    array: TiledArray,
    accumulate: torch.dtype,
    pending: list[tuple[int, ...]],
    together: int,
    ranks: Ranks,
) -> None:
    """Add up 𝒥ᵀ𝒥 over all rows, `together` rows of tiles at a time.

    A group is added up whole even if only one of its tiles is missing: the same
    products in the same order give the same bits. Each rank adds some of the rows.
    """
    size, tile = array.shape[0], array.tile_shape[0]
    own = source.share_of(ranks)
    groups = sorted({row // together for row, _ in pending})
    for place, group in enumerate(groups, start=1):
        first = group * together * tile
        last = min(first + together * tile, size)
        total = torch.empty(last - first, last, dtype=accumulate)
        if not own.tiles:
            total.zero_()
        label = f"Gram {place}/{len(groups)}"
        blocks = progress(own.blocks(), label=label, total=len(own.tiles))
        with ranks.sum_over_ranks(total):
            for number, (_, block) in enumerate(blocks):
                part, fresh = block.reshape(-1, size).T, number == 0
                if first:
                    before = part[:first]
                    add_product(total[:, :first], part[first:last], before, fresh=fresh)
                add_lower_product(total[:, first:], part[first:last], fresh=fresh)
        mirror_lower(total[:, first:])
        require_no_overflow(total, "rows of a Gram matrix", first=first)
        with ranks.together():
            for index in ranks.deal([i for i in pending if i[0] // together == group]):
                whole, columns = array.selection(index)
                inside = slice(whole.start - first, whole.stop - first)
                array.write(index, total[inside, columns].numpy())
