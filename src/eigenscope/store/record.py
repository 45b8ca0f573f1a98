"""The manifest of a run that is open: who may change it, and when it is saved."""

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, final

from eigenscope.store.folder import Lock
from eigenscope.store.manifest import Manifest, utc_now

_SECONDS_BETWEEN_SAVES: Final = 5.0


@final
class Record:
    """A manifest in memory and on disk, changed only while a lock is held.

    Where ranks share a run, rank 0 holds the lock and writes for all; what the others
    change stays in their memory.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        lock: Lock | None,
        *,
        is_helper: bool = False,
    ) -> None:
        self._is_helper = is_helper
        self._folder = folder
        self._manifest = manifest
        self._lock = lock
        self._running: dict[str, float] = {}
        self._saved_at = time.monotonic()

    @property
    def manifest(self) -> Manifest:
        """The record as it is now."""
        return self._manifest

    def close(self) -> None:
        """Free the lock."""
        self._is_helper = False
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def require_writable(self) -> None:
        """Raise unless the lock is held, by us or rank 0.

        Raises:
            PermissionError: If it is not.
        """
        if self._lock is None and not self._is_helper:
            raise PermissionError(
                f"writing to the run {self._folder} needs its lock, and the run was "
                "opened for reading or is closed; use Run.create or Run.resume."
            )

    def before_write(self) -> None:
        """Forbid a tile without the lock; save the time of a long stage now and then.

        Raises:
            PermissionError: If the lock is not held.
        """
        self.require_writable()
        if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self, **changes: Any) -> None:
        """Write the manifest, with changes and the time of the running stages.

        Args:
            changes: Fields of the manifest and their new values.

        Raises:
            PermissionError: If the lock is not held.
        """
        self.require_writable()
        timing = dict(self._manifest.timing)
        now = time.perf_counter()
        for name, start in self._running.items():
            timing[name] = timing.get(name, 0.0) + now - start
        changed = replace(self._manifest, timing=timing, updated=utc_now(), **changes)
        if not self._is_helper:
            changed.save(self._folder)
        self._manifest = changed
        self._running = dict.fromkeys(self._running, now)
        self._saved_at = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Add the wall seconds of a block to the timing of a stage.

        Args:
            name: The stage.

        Yields:
            Nothing.

        Raises:
            PermissionError: If the lock is not held.
            ValueError: If the stage is already running.
        """
        self.require_writable()
        if name in self._running:
            raise ValueError(
                f"a stage must end before it starts again; {name!r} is running; give "
                "the inner one another name."
            )
        self._running[name] = time.perf_counter()
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the error on its way says more
                self.save()
            raise
        else:
            self.save()
        finally:
            del self._running[name]
