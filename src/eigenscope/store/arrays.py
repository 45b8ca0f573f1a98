"""Chunked arrays in the zarr v3 format, written and read one whole tile at a time.

zarr makes and reads the metadata. The tiles, raw little-endian numbers and a CRC-32C,
are written here: atomically, and read into memory that the caller already has.
"""

import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

import google_crc32c
import numpy as np
from jaxtyping import Num, UInt8

from eigenscope.store.layout import Layout
from eigenscope.store.places import Place
from eigenscope.store.tiling import Index, Selection, extent

if TYPE_CHECKING:
    from eigenscope._types import JsonValue
else:  # beartype cannot follow the recursive alias, and its module imports torch
    JsonValue = object

_CHECKSUM_BYTES: Final = 4
_TILES: Final = "c"
_BLOCK_BYTES: Final = 2**20  # copied and summed while it is in the processor's cache


@final
class TiledArray:
    """An array in tiles, on disk or in an object store, each either whole or absent.

    Made and opened by `Run.array` and `Run.open_array`. Tile (i, j, …) covers the
    rows [i·t₀, (i+1)·t₀) and so on; the last tile of an axis may be smaller. Writing a
    tile replaces it at once; a reader or a killed writer never meets a half one.
    Reading checks the checksum of every tile that it touches. Different tiles may be
    written, and any read, from several threads. zarr itself reads the same folder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from eigenscope.store import Run
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "run"
        >>> with Run.create(path, verb="demo", arguments={}) as run:
        ...     gram = run.array(
        ...         "gram", shape=(3, 2), dtype="float32", tile_shape=(2, 2)
        ...     )
        ...     gram.write((1, 0), np.ones((1, 2), dtype="float32"))
        ...     gram.grid, gram.missing(), gram[2].tolist()
        ((2, 1), [(0, 0)], [1.0, 1.0])
        >>> folder.cleanup()
    """

    def __init__(
        self,
        place: Place,
        name: str,
        layout: Layout,
        *,
        before_write: Callable[[], None],
    ) -> None:
        self._place, self._name = place, name
        self._layout = layout
        self._tiling = layout.tiling
        self._dtype = np.dtype(layout.dtype).newbyteorder("<")
        self._before_write = before_write
        self._local = threading.local()

    @property
    def name(self) -> str:
        """The array's name in its run."""
        return self._name

    @property
    def shape(self) -> Index:
        """Entries along each axis."""
        return self._tiling.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type of an entry."""
        return self._dtype

    @property
    def tile_shape(self) -> Index:
        """Entries of an inner tile along each axis, at most `shape`."""
        return self._tiling.tile_shape

    @property
    def attributes(self) -> Mapping[str, JsonValue]:
        """What was recorded when the array was made."""
        return self._layout.attributes

    @property
    def grid(self) -> Index:
        """Tiles along each axis."""
        return self._tiling.grid

    @property
    def num_tiles(self) -> int:
        """All tiles, written or not."""
        return self._tiling.num_tiles

    @property
    def num_written(self) -> int:
        """Tiles that are on disk."""
        return self.num_tiles - len(self.missing())

    @property
    def tile_bytes(self) -> int:
        """Bytes that a tile takes on disk; ragged tiles are padded to the same."""
        return math.prod(self.tile_shape) * self._dtype.itemsize + _CHECKSUM_BYTES

    def is_written(self, index: Index) -> bool:
        """Whether a tile is on disk at its full size.

        Args:
            index: The tile's place in `grid`.

        Returns:
            False also for a file cut short, as a power failure can leave it; what is
            inside is checked on reading.

        Raises:
            IndexError: If the grid has no such place.
        """
        self._tiling.box(index)
        return self._place.size(self._key(index)) == self.tile_bytes

    def missing(self) -> list[Index]:
        """Places of the tiles that are not on disk, in C order.

        Returns:
            Indices into `grid`.

        Cost:
            One listing of all tiles.
        """
        sizes = self._place.sizes(f"{self._name}/{_TILES}")
        return [
            index
            for index in self._tiling.indices()
            if sizes.get(self._key(index)) != self.tile_bytes
        ]

    def location(self, index: Index) -> str:
        """Where a tile is, or will be.

        Args:
            index: The tile's place in `grid`.

        Returns:
            The path of a file, or the URL of an object.
        """
        return self._place.location(self._key(index))

    def selection(self, index: Index) -> tuple[slice, ...]:
        """Part of the whole array that a tile covers, at its true size.

        Args:
            index: The tile's place in `grid`.

        Returns:
            One slice per axis.

        Raises:
            IndexError: If the grid has no such place.
        """
        return self._tiling.box(index)

    def write(self, index: Index, values: Num[np.ndarray, "..."]) -> None:
        """Write one whole tile; afterwards it is on disk, or nothing has changed.

        Args:
            index: The tile's place in `grid`.
            values: The entries of `selection(index)`, of the array's dtype.

        Raises:
            IndexError: If the grid has no such place.
            ValueError: If shape or dtype are not the tile's.
            PermissionError: If the run is not open for writing.
            OSError: If the disk is full, with its `errno`, or the object store fails;
                all other tiles are safe.

        Cost:
            One pass over the tile, and a copy of it if `values` are not contiguous or
            the tile is ragged. Not synced: it survives the process, not a power
            failure (which `is_written` or the checksum then shows).
        """
        true_shape = extent(self.selection(index))
        if values.shape != true_shape or values.dtype != self._dtype:
            raise ValueError(
                f"tile {index} of array {self.name!r} must be {self._dtype} of shape "
                f"{true_shape}, got {values.dtype} of shape {values.shape}; pass the "
                "entries of array.selection(index), converted to the array's dtype."
            )
        self._before_write()
        if true_shape != self.tile_shape:
            padded = np.zeros(self.tile_shape, self._dtype)
            padded[tuple(map(slice, true_shape))] = values
            values = padded
        key, what = self._key(index), lambda: self._progress(index)
        with self._place.writing(key, what, self.tile_bytes) as file:
            checksum = 0
            for block in _blocks(np.ascontiguousarray(values, self._dtype)):
                checksum = google_crc32c.extend(checksum, block)
                file.write(block.data)
            file.write(checksum.to_bytes(_CHECKSUM_BYTES, "little"))

    def read_tile(self, index: Index) -> Num[np.ndarray, "..."]:
        """Entries of one tile, at its true size, in new memory.

        Args:
            index: The tile's place in `grid`.

        Returns:
            The entries of `selection(index)`.

        Raises:
            IndexError: If the grid has no such place.
            FileNotFoundError: If the tile is not written.
            ValueError: If it is damaged; the message says how to heal it.
        """
        return self[self.selection(index)]

    def __getitem__(self, selection: Selection) -> Num[np.ndarray, "..."]:
        """Entries of a selection, in new memory.

        Args:
            selection: Integers (which drop their axis) and slices without steps, as
                NumPy takes them; axes that are left out are taken whole.

        Returns:
            The entries.

        Raises:
            IndexError: If the selection is outside the array or has steps.
            FileNotFoundError: If a tile that it touches is not written.
            ValueError: If such a tile is damaged; the message says how to heal it.

        Cost:
            Reads every tile that the selection touches whole.
        """
        box, kept = self._tiling.bounds(selection)
        lengths = extent(box)
        out = np.empty([lengths[axis] for axis in kept], self._dtype)
        self.read_into(out, selection)
        return out

    def read_into(self, out: Num[np.ndarray, "..."], selection: Selection = ()) -> None:
        """Read a selection into memory that is already there.

        Whole tiles go straight into `out` where their entries are contiguous there;
        otherwise through one tile of memory that is kept for the next call.

        Args:
            out: Where the entries go: the selection's shape, the array's dtype.
            selection: As for indexing; everything if empty.

        Raises:
            IndexError: If the selection is outside the array or has steps.
            FileNotFoundError: If a tile that it touches is not written.
            ValueError: If `out` has another shape or dtype, or a tile is damaged.
        """
        box, kept = self._tiling.bounds(selection)
        lengths = extent(box)
        shape = tuple(lengths[axis] for axis in kept)
        if out.shape != shape or out.dtype != self._dtype:
            raise ValueError(
                f"out must be {self._dtype} of shape {shape} for this selection of "
                f"array {self.name!r}, got {out.dtype} of shape {out.shape}."
            )
        axes = (slice(None) if axis in kept else None for axis in range(len(box)))
        whole = out[tuple(axes)]
        for index, target, source in self._tiling.overlaps(box):
            part = whole[target]
            if part.shape == self.tile_shape and part.flags.c_contiguous:
                self._load(index, part)
            else:
                tile = self._scratch()
                self._load(index, tile)
                part[...] = tile[source]

    def _key(self, index: Index) -> str:
        return "/".join((self._name, _TILES, *map(str, index)))

    def _progress(self, index: Index) -> str:
        return (
            f"writing tile {index} of array {self.name!r} "
            f"({self.num_written} of its {self.num_tiles} tiles are safe)"
        )

    def _scratch(self) -> Num[np.ndarray, "..."]:
        # One tile for each thread that reads, kept for the next call.
        if not hasattr(self._local, "tile"):
            self._local.tile = np.empty(self.tile_shape, self._dtype)
        return self._local.tile

    def _load(self, index: Index, out: Num[np.ndarray, "..."]) -> None:
        # Reads a tile, padding included, into contiguous memory.
        try:
            with self._place.reading(self._key(index)) as file:
                checksum = num_read = 0
                for block in _blocks(out):
                    num_read += file.readinto(block.data)
                    checksum = google_crc32c.extend(checksum, block)
                stored = file.read(_CHECKSUM_BYTES + 1)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"tile {index} of array {self.name!r} must be written before it is "
                f"read, and {self.num_written} of {self.num_tiles} tiles are; finish "
                "the run with --resume."
            ) from None
        expected = checksum.to_bytes(_CHECKSUM_BYTES, "little")
        if num_read != out.nbytes or stored != expected:
            raise ValueError(
                f"tile {index} of array {self.name!r} must be {self.tile_bytes} bytes "
                "that match their checksum; it was cut short or changed after it was "
                f"written. Delete {self.location(index)} and run again with --resume "
                "to compute it anew."
            )


def _blocks(values: Num[np.ndarray, "..."]) -> list[UInt8[np.ndarray, "_"]]:
    # Views of a contiguous array's bytes.
    entries = values.reshape(-1).view(np.uint8)
    starts = range(0, entries.size, _BLOCK_BYTES)
    return [entries[start : start + _BLOCK_BYTES] for start in starts]
