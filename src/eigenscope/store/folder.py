"""A run's folder: what may be in it before a run starts, and who may write to it."""

import errno
import json
import os
import re
import socket
from pathlib import Path
from typing import Final, final

import filelock

from eigenscope.store.files import PARTIAL_SUFFIX, write_atomically
from eigenscope.store.layout import METADATA
from eigenscope.store.manifest import FILE_NAME, Manifest, utc_now
from eigenscope.store.places import Place

ARRAYS: Final = "arrays.zarr"
RESULTS: Final = "results"
FIGURES: Final = "figures"

_LOCK: Final = ".lock"
_HOLDER: Final = ".holder.json"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@final
class Lock:
    """The right to write to a run, held by one process from here until `release`.

    The operating system frees it when the process ends, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = filelock.FileLock(folder / _LOCK, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"only one process can write a run, and {folder} is being written by "
                f"{_holder(folder)}; wait for it, stop it, or choose another folder "
                "with --out.",
            ) from None
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
        try:
            write_atomically(folder / _HOLDER, json.dumps(holder))
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Let others write."""
        (self._folder / _HOLDER).unlink(missing_ok=True)
        self._lock.release()


def require_vacant(folder: Path, manifest: Manifest) -> None:
    """Raise unless a run can be started in a folder.

    Args:
        folder: A folder that need not exist.
        manifest: The run that is to be started.

    Raises:
        FileExistsError: If something is in it: a run (the message lists how it
            differs), other files, or it is a file itself.
        ValueError: If the manifest that is there is damaged.
    """
    required = "a new run needs a new or empty folder"
    if (folder / FILE_NAME).exists():
        there = Manifest.load(folder)
        if differences := there.differences(manifest.verb, manifest.arguments):
            raise FileExistsError(
                f"{required}; {folder} holds another run, and these differ (old → "
                f"new): {'; '.join(differences)}; choose another folder with --out."
            )
        raise FileExistsError(
            f"{required}; {folder} holds this very run, {there.status}; add --resume "
            "to continue it, or choose another folder with --out."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"{required}; {folder} is a file; choose another name with --out."
        )
    if folder.is_dir() and (found := sorted(filter(_is_foreign, folder.iterdir()))):
        raise FileExistsError(
            f"{required}; {folder} is not an Eigenscope run and holds "
            f"{found[0].name!r}; choose another folder with --out."
        )


def require_vacant_store(place: Place) -> None:
    """Raise unless a run can put its arrays in a place.

    Args:
        place: The place.

    Raises:
        FileExistsError: If there is something.
        OSError: If it cannot be reached.
    """
    # A run that was killed before its manifest was written leaves only the metadata.
    if found := [name for name in place.names() if name != METADATA]:
        raise FileExistsError(
            f"a new run needs a new or empty store; {place.location(found[0])} is "
            "there. Go on with the run that it is of (--resume), or choose another "
            "with --store."
        )


def plain_name(name: str) -> str:
    """The name of a file that cannot leave its folder.

    Args:
        name: A file name.

    Returns:
        The same.

    Raises:
        ValueError: If it has folders or unusual characters in it.
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(
            "a result or figure must have a plain file name (letters, digits, '_', "
            f"'-', '+' and '.', with a letter or digit first); got {name!r}."
        )
    return name


def _is_foreign(path: Path) -> bool:
    # A run that was killed before its manifest was written leaves only these.
    ours = path.name in {_LOCK, _HOLDER} or path.name.endswith(PARTIAL_SUFFIX)
    empty = path.name in {RESULTS, FIGURES} and not any(path.iterdir())
    return not (ours or empty)


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / _HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
