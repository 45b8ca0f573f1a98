"""An array's description on disk: zarr v3 metadata, checked when it is met again."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from eigenscope.store.manifest import plain_json
from eigenscope.store.places import Place
from eigenscope.store.tiling import Tiling

if TYPE_CHECKING:
    from eigenscope._types import JsonValue
else:  # beartype cannot follow the recursive alias, and its module imports torch
    JsonValue = object

METADATA: Final = "zarr.json"

_DATA: Final = "data"  # the attribute that is a digest of the samples

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DTYPES: Final = (
    *("float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_CODECS: Final = ["bytes", "crc32c"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Shape, dtype (by NumPy's name), tile shape and attributes of an array."""

    shape: tuple[int, ...]
    dtype: str
    tile_shape: tuple[int, ...]
    attributes: Mapping[str, JsonValue]

    @property
    def tiling(self) -> Tiling:
        """How it is cut."""
        return Tiling(shape=self.shape, tile_shape=self.tile_shape)

    @classmethod
    def asked(
        cls,
        name: str,
        *,
        shape: tuple[int, ...],
        dtype: str | np.dtype[Any],
        tile_shape: tuple[int, ...],
        attributes: Mapping[str, JsonValue] | None,
    ) -> "Layout":
        """The layout that an array's arguments mean.

        Args:
            name: The array's name.
            shape: Entries along each axis, at least 1.
            dtype: A real number type by name ("float32", "torch.float32"), or NumPy's.
            tile_shape: Entries of a tile along each axis; cut to `shape`.
            attributes: JSON.

        Returns:
            The layout.

        Raises:
            ValueError: If one of them cannot be stored.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(
                "an array's name must be letters, digits, '_', '-' and '.', with a "
                f"letter or digit first; got {name!r}."
            )
        if not shape or len(shape) != len(tile_shape) or min(*shape, *tile_shape) < 1:
            raise ValueError(
                f"array {name!r} must have at least one axis, a tile length for each, "
                f"and all lengths at least 1; got shape {shape}, tiles of {tile_shape}."
            )
        dtype_name = str(dtype).removeprefix("torch.")
        if dtype_name not in _DTYPES:
            raise ValueError(
                f"array {name!r} must have one of the dtypes {', '.join(_DTYPES)}; got "
                f"{dtype_name}; store bfloat16 as float32, which holds it exactly "
                "(tensor.float()), and complex numbers as two arrays."
            )
        return cls(
            shape=shape,
            dtype=dtype_name,
            tile_shape=tuple(map(min, shape, tile_shape)),
            attributes=plain_json("attributes", dict(attributes or {})),
        )

    @classmethod
    def read(cls, place: Place, name: str) -> "Layout":
        """The layout of an array that is there.

        Args:
            place: Where the arrays are.
            name: The array's name.

        Returns:
            The layout.

        Raises:
            ValueError: If it is not stored as plain tiles with checksums.
        """
        held = default_buffer_prototype().buffer.from_bytes(
            place.read(f"{name}/{METADATA}")
        )
        array = zarr.open_array(MemoryStore({METADATA: held}), mode="r", zarr_format=3)
        description: dict[str, Any] = dict(array.metadata.to_dict())
        found = [codec["name"] for codec in description["codecs"]]
        if found != _CODECS:
            raise ValueError(
                f"{place.location(name)} must be stored with the codecs {_CODECS}, got "
                f"{found}: Eigenscope did not write it; choose another folder with "
                "--out."
            )
        return cls(
            shape=array.shape,
            dtype=array.dtype.name,
            tile_shape=array.chunks,
            attributes=plain_json("attributes", array.attrs.asdict()),
        )

    def write(self, place: Place, name: str) -> None:
        """Make an array without tiles.

        Args:
            place: Where the arrays are.
            name: The array's name.

        Raises:
            OSError: If the disk is full, or the object store fails.
        """
        made: dict[str, Buffer] = {}
        zarr.create_array(
            MemoryStore(made),
            shape=self.shape,
            chunks=self.tile_shape,
            dtype=self.dtype,
            filters=None,
            compressors=[Crc32cCodec()],
            attributes=dict(self.attributes),
            zarr_format=3,
        )
        _write_metadata(place, f"{name}/{METADATA}", made)

    def grow(self, larger: "Layout", place: Place, name: str) -> None:
        """Make room for more samples in an array; whole tiles stay as they are.

        An array that is cut otherwise or holds something else is made anew.

        Args:
            larger: What it is to be.
            place: Where the arrays are.
            name: The array's name.
        """
        if self == larger:
            return
        kept = {METADATA, *(self._whole_tiles(larger) if self._fits(larger) else ())}
        for key in place.sizes(name):
            if key.removeprefix(f"{name}/") not in kept:
                place.remove(key)
        larger.write(place, name)

    def _fits(self, larger: "Layout") -> bool:
        """Return whether this is the beginning of a larger array."""
        mine, others = (
            {key: value for key, value in layout.attributes.items() if key != _DATA}
            for layout in (self, larger)
        )
        grown = any(a < b for a, b in zip(self.shape, larger.shape, strict=False))
        same = (self.dtype, self.tile_shape) == (larger.dtype, larger.tile_shape)
        return same and grown and mine == others

    def _whole_tiles(self, larger: "Layout") -> Iterator[str]:
        """Yield the keys of tiles that cover the same entries in a larger array."""
        for index in self.tiling.indices():
            if self.tiling.box(index) == larger.tiling.box(index):
                yield "/".join(("c", *map(str, index)))

    def require_same(self, other: "Layout", name: str) -> None:
        """Raise unless another layout is this one.

        Args:
            other: What is asked for.
            name: The array's name.

        Raises:
            ValueError: If they differ; the message lists old → new.
        """
        pairs = [
            (item.name, getattr(self, item.name), getattr(other, item.name))
            for item in fields(self)
        ]
        differences = [f"{label}: {a} → {b}" for label, a, b in pairs if a != b]
        if differences:
            raise ValueError(
                f"array {name!r} must be taken up as it was made; these differ "
                f"(old → new): {'; '.join(differences)}; take tile and batch sizes "
                "from the run's settings, or choose another folder with --out."
            )


def create_group(place: Place) -> None:
    """Make the group that holds a run's arrays, unless it is there.

    Args:
        place: Where the arrays are.

    Raises:
        OSError: If the disk is full, or the object store fails.
    """
    if place.size(METADATA) is not None:
        return
    made: dict[str, Buffer] = {}
    zarr.create_group(MemoryStore(made), zarr_format=3)
    _write_metadata(place, METADATA, made)


def _write_metadata(place: Place, key: str, made: Mapping[str, Buffer]) -> None:
    content = made[METADATA].to_bytes()
    what = f"making {place.location(key)}"
    with place.writing(key, lambda: what, len(content)) as file:
        file.write(content)
