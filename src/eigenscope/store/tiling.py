"""How an array is cut into tiles, and which of them a selection touches."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

Index = tuple[int, ...]
Selection = int | slice | tuple[int | slice, ...]
Box = tuple[slice, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """A regular grid: tile (i, j, …) covers rows [i·t₀, (i+1)·t₀) and so on.

    The last tile of an axis may be ragged, that is, smaller.
    """

    shape: Index
    tile_shape: Index

    @property
    def grid(self) -> Index:
        """Tiles along each axis."""
        return tuple(
            -(-length // tile)
            for length, tile in zip(self.shape, self.tile_shape, strict=True)
        )

    @property
    def num_tiles(self) -> int:
        """All tiles."""
        return math.prod(self.grid)

    def indices(self) -> Iterator[Index]:
        """Every tile's place in the grid, in C order.

        Returns:
            The places, lazily.
        """
        return itertools.product(*(range(count) for count in self.grid))

    def box(self, index: Index) -> Box:
        """What a tile covers, at its true size.

        Args:
            index: The tile's place in the grid.

        Returns:
            One slice per axis.

        Raises:
            IndexError: If the grid has no such place.
        """
        grid = self.grid
        if len(index) != len(grid) or not all(
            0 <= place < count for place, count in zip(index, grid, strict=True)
        ):
            raise IndexError(
                f"a tile must be in a grid of {grid} tiles, counted from 0; got "
                f"{index}."
            )
        return tuple(
            slice(place * tile, min((place + 1) * tile, length))
            for place, tile, length in zip(
                index, self.tile_shape, self.shape, strict=True
            )
        )

    def bounds(self, selection: Selection) -> tuple[Box, list[int]]:
        """A NumPy selection as a box.

        Args:
            selection: Integers and slices without steps, one per axis or fewer.

        Returns:
            The box, and the axes that integers do not drop.

        Raises:
            IndexError: If the selection is outside the array or has steps.
        """
        items = selection if isinstance(selection, tuple) else (selection,)
        if len(items) > len(self.shape):
            raise IndexError(
                f"a selection must have at most one item for each of the "
                f"{len(self.shape)} axes; got {len(items)}."
            )
        box = [slice(0, length) for length in self.shape]
        kept = list(range(len(box)))
        for axis, (item, length) in enumerate(zip(items, self.shape, strict=False)):
            if isinstance(item, slice):
                start, stop, step = item.indices(length)
                if step != 1:
                    raise IndexError(
                        f"a selection must be slices without steps, got a step of "
                        f"{step}; read the whole slice and take the step in NumPy."
                    )
                box[axis] = slice(start, max(start, stop))
            elif -length <= item < length:
                start = item % length
                box[axis] = slice(start, start + 1)
                kept.remove(axis)
            else:
                raise IndexError(
                    f"an index of axis {axis} must be between {-length} and "
                    f"{length - 1}, got {item}."
                )
        return tuple(box), kept

    def overlaps(self, box: Box) -> Iterator[tuple[Index, Box, Box]]:
        """Tiles that a box touches.

        Args:
            box: One slice per axis, inside the array.

        Yields:
            The tile's place, where its part lies in the box, and where in the tile.
        """
        axes: list[list[tuple[int, slice, slice]]] = []
        for bound, tile in zip(box, self.tile_shape, strict=True):
            if bound.stop == bound.start:
                return
            pieces: list[tuple[int, slice, slice]] = []
            for place in range(bound.start // tile, -(-bound.stop // tile)):
                first = max(bound.start, place * tile)
                last = min(bound.stop, (place + 1) * tile)
                target = slice(first - bound.start, last - bound.start)
                source = slice(first - place * tile, last - place * tile)
                pieces.append((place, target, source))
            axes.append(pieces)
        for combination in itertools.product(*axes):
            index, target, source = zip(*combination, strict=True)
            yield index, target, source


def extent(box: Box) -> Index:
    """Entries of a box along each axis.

    Args:
        box: One slice per axis.

    Returns:
        Their lengths.
    """
    return tuple(bound.stop - bound.start for bound in box)
