"""A run: one job's folder, written by one process at a time and resumable."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import numpy as np

from eigenscope.distributed import ALONE, Ranks, RanksChoice, current_ranks
from eigenscope.store.arrays import TiledArray
from eigenscope.store.files import remove_files
from eigenscope.store.folder import ARRAYS, FIGURES, RESULTS, Lock, plain_name
from eigenscope.store.layout import METADATA, Layout, create_group
from eigenscope.store.manifest import Manifest, changed_values, plain_json, resumption
from eigenscope.store.objects import place_at
from eigenscope.store.opening import begun, taken_up
from eigenscope.store.record import Record

if TYPE_CHECKING:
    from eigenscope._types import JsonValue
else:  # beartype cannot follow the recursive alias, and its module imports torch
    JsonValue = object


@final
class Run:
    """A job's folder: manifest.json, arrays.zarr, results/ and figures/.

    Made by `Run.create`, taken up again by `Run.resume`, read by `Run.open`. As a
    context manager it holds a lock that no second writer gets, freed by the operating
    system even when the process is killed. Leaving `with` does not mark the run as
    complete; `complete` does.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "run"
        >>> with Run.create(path, verb="jacobian", arguments={"seed": 0}) as run:
        ...     with run.stage("gram"):
        ...         run.record_result("trace", 2.5)
        >>> with Run.resume(path, verb="jacobian", arguments={"seed": 0}) as run:
        ...     run.complete()
        >>> Run.open(path).results, len(Run.open(path).manifest.resumes)
        ({'trace': 2.5}, 1)
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        lock: Lock | None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self._path, self.ranks = path, ranks
        self._place = place_at(manifest.store, path / ARRAYS)
        self._record = Record(path, manifest, lock, is_helper=not ranks.is_first)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        verb: str,
        arguments: Mapping[str, JsonValue],
        settings: Mapping[str, JsonValue] | None = None,
        store: str | None = None,
        ranks: RanksChoice = "all",
    ) -> "Run":
        """Start a run in a folder that is new or empty, and lock it.

        Args:
            path: The folder; it and its parents are made.
            verb: The job, for example "jacobian".
            arguments: What decides the result, as JSON; "seed", if there, is recorded
                as the run's. Leave out what may change on resume (memory, progress).
            settings: What is already chosen to compute it; see `record_settings`.
            store: URL to put the arrays at, such as "s3://bucket/run", of any protocol
                that fsspec knows; None for the folder itself. Lock, manifest, results
                and figures stay in the folder.
            ranks: As for `es.Problem`. Ranks that share a run all make it, in a folder
                that all of their hosts see.

        Returns:
            The run, open for writing.

        Raises:
            FileExistsError: If the folder holds a run (the message lists what differs)
                or other files.
            BlockingIOError: If another process writes it.
            ValueError: If arguments or settings are not JSON, the manifest that is
                there is damaged, or `store` is no URL of a known protocol.
            ImportError: If what reaches such a store is not installed.
            OSError: If the store cannot be reached.
        """
        group = current_ranks(ranks)
        folder = Path(path)
        manifest, lock = begun(folder, verb, arguments, settings or {}, store, group)
        return cls(folder, manifest, lock, ranks=group)

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        verb: str,
        arguments: Mapping[str, JsonValue],
        ranks: RanksChoice = "all",
    ) -> "Run":
        """Take up a run again with the same arguments, and lock it.

        What a killed process left half-written is removed. A complete run is returned
        as it is (`is_complete`), unless tiles have been deleted since.

        Args:
            path: The run's folder.
            verb: The job, as when it was created.
            arguments: Its arguments, as when it was created.
            ranks: As for `create`; their number may differ from before.

        Returns:
            The run, open for writing; take its `settings` rather than choose again.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If it is another run (the message lists old → new), or its
                manifest is damaged or of a newer version.
            BlockingIOError: If another process writes it.
        """
        group = current_ranks(ranks)
        folder = Path(path)
        manifest, lock = taken_up(folder, verb, arguments, group)
        try:
            run = cls(folder, manifest, lock, ranks=group)
            run._take_up()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """Read a run, complete or not, without locking it.

        Args:
            path: The run's folder.

        Returns:
            The run, closed for writing.

        Raises:
            FileNotFoundError: If the folder is not a run.
            ValueError: If its manifest is damaged or of a newer version.
        """
        folder = Path(path)
        return cls(folder, Manifest.load(folder), None)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the lock; the run can be read but not written any more."""
        self._record.close()

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """The whole record: verb, versions, commit, times, timing, resumes …."""
        return self._record.manifest

    @property
    def arguments(self) -> Mapping[str, JsonValue]:
        """What was asked for."""
        return self.manifest.arguments

    @property
    def settings(self) -> Mapping[str, JsonValue]:
        """What was chosen to compute it; empty until recorded."""
        return self.manifest.settings

    @property
    def results(self) -> Mapping[str, JsonValue]:
        """Summary numbers by name."""
        return self.manifest.results

    @property
    def is_complete(self) -> bool:
        """Whether `complete` was called and no tile has been taken away since."""
        return self.manifest.status == "complete"

    @property
    def array_names(self) -> list[str]:
        """Names of the arrays that have been made, sorted; stale ones not."""
        absent = {METADATA, *self.manifest.stale}
        found = [name for name in self._place.names() if name not in absent]
        return [name for name in found if self._has(name)]

    def array(
        self,
        name: str,
        *,
        shape: tuple[int, ...],
        dtype: str | np.dtype[Any],
        tile_shape: tuple[int, ...],
        attributes: Mapping[str, JsonValue] | None = None,
    ) -> TiledArray:
        """Make an array, or open it again on resume.

        Args:
            name: Letters, digits, "_", "-" and ".".
            shape: Entries along each axis.
            dtype: A real number type by name ("float32", or str(tensor.dtype)), or
                NumPy's. bfloat16 is refused: float32 holds it exactly.
            tile_shape: Entries of a tile along each axis; cut to `shape`.
            attributes: JSON that must be the same on resume, for example a
                fingerprint of model and data.

        Returns:
            The array, with the tiles that are already written.

        Raises:
            ValueError: If an argument cannot be stored, or the array on disk differs.
            PermissionError: If the array is new and the run not open for writing.
            OSError: If the disk is full.
        """
        asked = Layout.asked(
            name, shape=shape, dtype=dtype, tile_shape=tile_shape, attributes=attributes
        )

        def make() -> None:
            if not self._has(name):
                self._record.require_writable()
                create_group(self._place)
                asked.write(self._place, name)
            elif name in self.manifest.stale:
                Layout.read(self._place, name).grow(asked, self._place, name)

        self.ranks.from_first(make)
        if name in (stale := self.manifest.stale):
            self._record.save(stale=tuple(own for own in stale if own != name))
        Layout.read(self._place, name).require_same(asked, name)
        return self.open_array(name)

    def open_array(self, name: str) -> TiledArray:
        """An array that is there, as it was made.

        Args:
            name: One of `array_names`.

        Returns:
            The array.

        Raises:
            KeyError: If there is none of that name.
        """
        if name not in (names := self.array_names):
            raise KeyError(
                f"an array of the run {self._path} must be one of "
                f"{', '.join(names) or '(none yet)'}; got {name!r}."
            )
        return TiledArray(
            self._place,
            name,
            Layout.read(self._place, name),
            before_write=self._record.before_write,
        )

    def tile_shape(self, name: str) -> tuple[int, ...] | None:
        """How an array is cut, also a stale one; None if there is none."""
        return Layout.read(self._place, name).tile_shape if self._has(name) else None

    def grow(self, *, num_samples: int) -> None:
        """Take more samples into a run, after those that it has.

        Arrays keep their whole tiles, and are of more samples once they are asked for
        again; results are removed, for they are of fewer. Compare the first samples
        with the run's before.

        Args:
            num_samples: All samples, as the argument of that name.

        Raises:
            PermissionError: If the run is not open for writing.
        """
        self._record.require_writable()
        there = self.ranks.from_first(lambda: self.array_names)
        self.ranks.from_first(partial(remove_files, self._path / RESULTS))
        self._record.save(**self.manifest.grown(num_samples, there))

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Add the wall seconds of a `with` block to `manifest.timing[name]`.

        The manifest is saved at the end and, while tiles are written, every few
        seconds, so that a killed run loses no more than those.

        Args:
            name: The stage, for example "jacobian".

        Returns:
            The context manager; PermissionError if the run is not open for writing.
        """
        return self._record.stage(name)

    def record_settings(self, settings: Mapping[str, JsonValue]) -> None:
        """Record how the result is computed: engine, tile and batch sizes.

        A resumed run must read `settings` instead of choosing again. More names may
        be added later; a recorded one never changes. Of ranks that share the run, what
        rank 0 gives is recorded and is in the `settings` of all.

        Args:
            settings: Names and JSON values.

        Raises:
            ValueError: If one is recorded with another value, or is not JSON.
            PermissionError: If the run is not open for writing.
        """
        own = plain_json("settings", dict(settings))
        new = self.ranks.from_first(lambda: own)
        if changed := changed_values(self.settings, new):
            raise ValueError(
                f"the settings of {self._path} must stay as they were recorded; these "
                f"differ (old → new): {'; '.join(changed)}; on resume take them from "
                "run.settings."
            )
        self._record.save(settings={**self.settings, **new})

    def record_result(self, name: str, value: JsonValue) -> None:
        """Record one number, or a small JSON value, of the results' summary.

        Args:
            name: What it is, for example "alpha"; an old value is replaced.
            value: JSON; None where a number is not finite.

        Raises:
            ValueError: If it is not JSON.
            PermissionError: If the run is not open for writing.
        """
        plain = plain_json(f"result {name!r}", value)
        self._record.save(results={**self.results, name: plain})

    def complete(self) -> None:
        """Mark the run as complete; tiles above a diagonal, say, may be absent."""
        tiles = self.ranks.from_first(self._tiles_written)
        self._record.save(status="complete", tiles=tiles)

    def require_space(self, num_bytes: int) -> None:
        """Raise OSError (ENOSPC) unless the disk can take so many bytes more."""
        with self.ranks.together():
            self._place.require_room(num_bytes)

    def has(self, path: Path) -> bool:
        """Return whether a file is there, as rank 0 sees it, on all ranks."""
        return self.ranks.from_first(path.exists)

    def keep(self, path: Path, save: Callable[[Path], object]) -> None:
        """Let rank 0 save a result; the others wait, and raise what it raises."""
        self.ranks.from_first(partial(save, path))

    def results_path(self, name: str) -> Path:
        """Return where a plain file goes; write it with `write_atomically`."""
        return self._path / RESULTS / plain_name(name)

    def figures_path(self, name: str) -> Path:
        """Return where a plain figure goes."""
        return self._path / FIGURES / plain_name(name)

    def _has(self, name: str) -> bool:
        return self._place.size(f"{name}/{METADATA}") is not None

    def _tiles_written(self) -> dict[str, int]:
        names = self.array_names
        return {name: self.open_array(name).num_written for name in names}

    def _take_up(self) -> None:
        if self.is_complete:
            written = self.ranks.from_first(self._tiles_written)
            if written == self.manifest.tiles:
                return
        resumes = (*self.manifest.resumes, resumption())
        self._record.save(status="running", resumes=resumes)
