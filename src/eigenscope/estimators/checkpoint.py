"""What an estimator needs to go on after it was killed, kept in a run."""

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.spectra import files
from eigenscope.store import Run

_KIND: Final = "checkpoint"


@final
class Checkpoint:
    """The latest state of one estimator: small arrays, and vectors of length D.

    Two slots are written in turn, and one small file, replaced in one step, says
    which of them is whole: a killed process leaves the last state or the one before.

    Args:
        run: A run that is open for writing.
        name: Name of the estimate within the run.
        identity: What must be the same on resume.

    Raises:
        ValueError: If the run holds the state of another estimate by that name.
    """

    def __init__(self, run: Run, name: str, identity: Mapping[str, JsonValue]) -> None:
        self._run, self._name = run, name
        self._identity = dict(identity)
        self._path = run.results_path(f"{name}.checkpoint")
        self._slot = 0
        self._found: dict[str, np.ndarray] | None = None
        with run.ranks.together():
            if self._path.is_file():
                header, self._found = files.read(self._path, kind=_KIND)
                self._slot = int(header["slot"])
                require_same(name, header["identity"], self._identity)

    def load(self) -> tuple[dict[str, np.ndarray], Tensor | None] | None:
        """Return the last state, or None if there is none.

        Returns:
            The small arrays and, where there were any, the vectors, on the CPU.
        """
        if self._found is None:
            return None
        stored = self._array_name(self._slot)
        if stored not in self._run.array_names:
            return self._found, None
        count = int(self._found["_num_vectors"])
        array = self._run.open_array(stored)
        with self._run.ranks.together():
            return self._found, torch.from_numpy(array[:count])

    def save(
        self,
        state: Mapping[str, np.ndarray],
        vectors: Float[Tensor, "vector dim"] | None = None,
        *,
        most: int = 0,
    ) -> None:
        """Replace the last state.

        Args:
            state: Small arrays.
            vectors: Vectors, as rows.
            most: The most vectors there will ever be.
        """
        slot, count = 1 - self._slot, 0
        if vectors is not None:
            rows, count = vectors.cpu().numpy(), len(vectors)
            array = self._run.array(
                self._array_name(slot),
                shape=(most, rows.shape[1]),
                dtype=rows.dtype,
                tile_shape=(1, rows.shape[1]),
            )
            with self._run.ranks.together():
                if self._run.ranks.is_first:
                    for place, row in enumerate(rows):
                        array.write((place, 0), row[None])
        arrays = {**state, "_num_vectors": np.array(count)}
        header: dict[str, Any] = {"slot": slot, "identity": self._identity}
        self._run.keep(
            self._path,
            lambda path: files.write(path, kind=_KIND, header=header, arrays=arrays),
        )
        self._slot, self._found = slot, arrays

    def _array_name(self, slot: int) -> str:
        return f"{self._name}.{slot}"


def require_same(
    name: str, old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]
) -> None:
    """Raise unless an estimate is the one that was begun.

    Args:
        name: The estimate's name in its run.
        old: What was asked for then.
        new: What is asked for now.

    Raises:
        ValueError: If they differ; the message lists how.
    """
    changed = [
        f"{key}: {old.get(key)} → {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise ValueError(
            f"the estimate {name!r} in this run must be resumed with what it was begun "
            f"with; these differ (old → new): {'; '.join(changed)}. Repeat the old "
            "ones, or give the estimate another name."
        )
