"""Files that are either whole or absent, and what to say when the disk is full."""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from eigenscope.budget import format_bytes

PARTIAL_SUFFIX: Final = ".partial"

_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a small file so that it is whole, old or absent, whatever happens.

    A temporary file in the same folder is synced to the disk and renamed over
    `path`; then the folder is synced.

    Args:
        path: The file; its folder must exist. An existing file is replaced.
        content: The new content; text is encoded as UTF-8.

    Raises:
        OSError: If the file cannot be written; a full disk (same `errno`) says how
            much is needed and how much is free.

    Cost:
        Two disk synchronisations.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / "alpha.txt", "2.5")
        ...     (Path(folder) / "alpha.txt").read_text()
        '2.5'
    """
    data = content.encode() if isinstance(content, str) else content
    with explained_disk_errors(path.parent, lambda: f"writing {path}", len(data)):
        with replacing(path) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file beside `path`, renamed to it at the end, else removed.

    Args:
        path: The file to be made or replaced.

    Yields:
        The temporary file, open for writing.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed writers left anywhere in a folder.

    Args:
        folder: A run, with its lock held.
    """
    for path in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)


def remove_files(folder: Path) -> None:
    """Remove all files of a folder, which stays.

    Args:
        folder: The folder.
    """
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


@contextmanager
def explained_disk_errors(
    folder: Path, what: Callable[[], str], num_bytes: int
) -> Generator[None]:
    """Give a full disk, quota or file-size limit a message with numbers.

    Args:
        folder: Where the block writes.
        what: Names what it writes; called when it fails.
        num_bytes: What it writes, in bytes.

    Yields:
        Nothing.

    Raises:
        OSError: With the block's own `errno`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        message = disk_full_message(error.errno, folder, what(), num_bytes)
        raise OSError(error.errno, message) from error


def disk_full_message(code: int, folder: Path, what: str, num_bytes: int) -> str:
    """Say what needed how many bytes, how many there are, and what to do.

    Args:
        code: The `errno`.
        folder: Where on the disk.
        what: What was to be written.
        num_bytes: What it needs, in bytes.

    Returns:
        The message of an OSError.
    """
    return (
        f"{os.strerror(code)}: {what} needs {format_bytes(num_bytes)} ({num_bytes} "
        f"bytes), and {format_bytes(free_bytes(folder))} are free on the disk of "
        f"{folder}; free space (or raise the quota or file-size limit) and run again "
        "with --resume."
    )


def require_free(folder: Path, num_bytes: int) -> None:
    """Raise unless the disk of a folder can take what is still to be written.

    Args:
        folder: Where on the disk.
        num_bytes: What is still to come.

    Raises:
        OSError: With errno ENOSPC, if fewer bytes are free.
    """
    if num_bytes > free_bytes(folder):
        what = "what is still to be written"
        message = disk_full_message(errno.ENOSPC, folder, what, num_bytes)
        raise OSError(errno.ENOSPC, message)


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write to the disk of a folder.

    Args:
        folder: Any folder that exists.

    Returns:
        The bytes.
    """
    return shutil.disk_usage(folder).free


def _sync_folder(folder: Path) -> None:
    # Without this a power failure can undo the rename.
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
