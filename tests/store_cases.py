"""Small runs and arrays that the tests of the store share."""

from pathlib import Path
from typing import Any

import numpy as np

from eigenscope.store import Run

ARGUMENTS: dict[str, Any] = {"seed": 7, "model": "lenet", "sizes": (3, 4)}


def make(path: Path, **changes: Any) -> Run:
    return Run.create(path, verb="jacobian", arguments={**ARGUMENTS, **changes})


def take_up(path: Path, **changes: Any) -> Run:
    return Run.resume(path, verb="jacobian", arguments={**ARGUMENTS, **changes})


def filled(run: Run, shape=(5, 7), tile_shape=(2, 3), dtype="float32"):
    array = run.array("gram", shape=shape, dtype=dtype, tile_shape=tile_shape)
    values = (np.arange(np.prod(shape)) - 9).reshape(shape).astype(dtype)
    for index in array.missing():
        array.write(index, values[array.selection(index)])
    return array, values


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
