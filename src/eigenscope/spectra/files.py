"""One versioned file format for results: arrays and a JSON header, no pickle."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eigenscope._types import JsonValue
from eigenscope.store import write_atomically

FORMAT = "eigenscope"
VERSION = 2
_WALL_TIME = "seconds"  # the one entry of a provenance that no two computations share


def write(
    path: Path,
    *,
    kind: str,
    header: Mapping[str, JsonValue],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write arrays and header as one NumPy archive, all or nothing.

    Args:
        path: The file's name, taken as it is.
        kind: What the file holds, checked on reading.
        header: Everything that is not an array.
        arrays: The arrays by name.
    """
    head = {"format": FORMAT, "version": VERSION, "kind": kind, "header": dict(header)}
    encoded = np.frombuffer(json.dumps(head, allow_nan=False).encode(), dtype=np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{"_header": encoded, **arrays})
    write_atomically(path, content.getvalue())


def kept(
    provenance: Mapping[str, JsonValue], *, wall_time: bool
) -> dict[str, JsonValue]:
    """Return what a file holds of a provenance.

    Args:
        provenance: How a result was made.
        wall_time: Whether the seconds that it took are part of it; without them it is
            the same whenever it is computed.

    Returns:
        All of it, or all but the wall time.
    """
    left_out = () if wall_time else (_WALL_TIME,)
    return {name: value for name, value in provenance.items() if name not in left_out}


def read(path: Path, *, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read header and arrays of a file that `write` made.

    Args:
        path: The file's name.
        kind: What the file must hold.

    Returns:
        The header and the arrays by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not ours, of another kind or of a newer format.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no saved {kind} at {str(path)!r}; check the path (no suffix is added)."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays.pop("_header").tobytes())
        found = (head["format"], head["kind"], head["version"], head["header"])
    except (
        AttributeError,
        EOFError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            f"{str(path)!r} is not a saved {kind}, or it is damaged or cut short "
            f"({type(error).__name__}: {error}); save it again."
        ) from error
    name, found_kind, version, header = found
    if name != FORMAT or found_kind != kind:
        raise ValueError(
            f"{str(path)!r} must hold a saved {kind}; it holds {name!r} {found_kind!r}."
        )
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"{str(path)!r} has format version {version}; this Eigenscope reads up to "
            f"{VERSION}. Upgrade Eigenscope."
        )
    return header, arrays
