"""What a recorder has measured, read from its run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int64

from eigenscope.spectra import Spectrum
from eigenscope.store import Run

_PREFIX = "record_"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything recorded so far, by number of the epoch or step.

    Attributes:
        entries: Number → name → a float, [value, standard error], or the file of a
            spectrum.
        folder: Where the spectra are.

    Example:
        >>> entries = {0: {"loss": 2.0}, 5: {"loss": 1.0}}
        >>> history = History(entries=entries, folder=Path())
        >>> numbers, losses = history.series("loss")
        >>> numbers.tolist(), losses.tolist()
        ([0, 5], [2.0, 1.0])
    """

    entries: dict[int, dict[str, Any]]
    folder: Path

    @classmethod
    def load(cls, run: Run) -> "History":
        """Read what is complete; a recording that was cut short is not there.

        Args:
            run: The recorder's run, open or not.

        Returns:
            The history.
        """
        folder = run.results_path("x").parent
        entries: dict[int, dict[str, Any]] = {}
        for path in sorted(folder.glob(f"{_PREFIX}*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            entries[int(content["number"])] = content["entries"]
        return cls(entries=entries, folder=folder)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The epochs or steps, ascending."""
        return tuple(sorted(self.entries))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all quantities, in the order in which they first came."""
        found = {name: None for n in self.numbers for name in self.entries[n]}
        return tuple(found)

    def series(
        self, name: str
    ) -> tuple[Int64[np.ndarray, " record"], Float[np.ndarray, " record"]]:
        """Return the numbers at which a scalar was recorded, and its values.

        Args:
            name: One of `names`.

        Returns:
            Two arrays of one length; NaN where the value was not finite.

        Raises:
            KeyError: If nothing of that name was recorded.
            TypeError: If it is a spectrum.
        """
        found = self._of(name)
        values: list[float] = []
        for entry in found.values():
            if isinstance(entry, dict):
                raise TypeError(f"{name!r} is a spectrum; use spectra({name!r}).")
            value = entry[0] if isinstance(entry, list) else entry
            values.append(float("nan") if value is None else float(value))
        return np.array(list(found), dtype=np.int64), np.array(values)

    def spectra(self, name: str) -> dict[int, Spectrum]:
        """Return the spectra of one name by number.

        Args:
            name: One of `names`.

        Returns:
            Number to spectrum, ascending.

        Raises:
            KeyError: If nothing of that name was recorded.
            TypeError: If it is a scalar.
        """
        found = self._of(name)
        if not all(isinstance(entry, dict) for entry in found.values()):
            raise TypeError(f"{name!r} is a scalar; use series({name!r}).")
        return {
            number: Spectrum.load(self.folder / entry["spectrum"])
            for number, entry in found.items()
        }

    def _of(self, name: str) -> dict[int, Any]:
        found = {
            number: self.entries[number][name]
            for number in self.numbers
            if name in self.entries[number]
        }
        if not found:
            names = ", ".join(repr(known) for known in self.names) or "nothing yet"
            raise KeyError(f"name must be one of those recorded, {names}; got {name!r}")
        return found


def record_name(number: int) -> str:
    """Return the start of the names of the files of one recording."""
    return f"{_PREFIX}{number:09d}"
