"""Where the files of a run's arrays are, and what each such place has to do."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, final

from typing_extensions import override

from eigenscope.store.files import (
    explained_disk_errors,
    remove_partial_files,
    replacing,
    require_free,
)


class Place(ABC):
    """Files by key, such as "gram/c/0/1", each of which is whole or absent."""

    @abstractmethod
    def location(self, key: str) -> str:
        """Where a file is, as the user would look for it.

        Args:
            key: The file.

        Returns:
            A path or a URL.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """What there is at the top.

        Returns:
            First parts of keys, sorted.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes of a file.

        Args:
            key: The file.

        Returns:
            None if it is absent.
        """

    @abstractmethod
    def sizes(self, prefix: str) -> Mapping[str, int]:
        """Bytes of all files of an array, in one look.

        Args:
            prefix: What their keys begin with, up to a slash.

        Returns:
            Bytes by key.
        """

    @abstractmethod
    def reading(self, key: str) -> AbstractContextManager[BufferedIOBase]:
        """Open a file for reading.

        Args:
            key: The file.

        Returns:
            A context manager; entering it raises FileNotFoundError if it is absent.
        """

    @abstractmethod
    def writing(
        self, key: str, what: Callable[[], str], num_bytes: int
    ) -> AbstractContextManager[BinaryIO]:
        """Open a file that is put in its place at the end of a `with` block.

        Args:
            key: The file.
            what: Names what is written; called when it fails.
            num_bytes: What is written, in bytes.

        Returns:
            A context manager; after an error inside of it nothing has changed.
        """

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a file, if it is there.

        Args:
            key: The file.
        """

    @abstractmethod
    def require_room(self, num_bytes: int) -> None:
        """Raise unless there is room for what is still to be written.

        Args:
            num_bytes: What is still to come.
        """

    @abstractmethod
    def clean_up(self) -> None:
        """Remove what killed writers left."""

    @final
    def read(self, key: str) -> bytes:
        """Read a small file whole.

        Args:
            key: The file.

        Returns:
            What is in it.
        """
        with self.reading(key) as file:
            return file.read()


@final
class LocalFolder(Place):
    """Files in a folder, renamed into place once they are written.

    Args:
        folder: The folder, made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @override
    def location(self, key: str) -> str:
        return str(self._folder / key)

    @override
    def names(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir())

    @override
    def size(self, key: str) -> int | None:
        try:
            return (self._folder / key).stat().st_size
        except FileNotFoundError:
            return None

    @override
    def sizes(self, prefix: str) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for folder, _, names in os.walk(self._folder / prefix):
            within = Path(folder).relative_to(self._folder).as_posix()
            for name in names:
                key = f"{within}/{name}"
                if (size := self.size(key)) is not None:  # else renamed by its writer
                    found[key] = size
        return found

    @override
    def reading(self, key: str) -> AbstractContextManager[BufferedIOBase]:
        return (self._folder / key).open("rb")

    @override
    @contextmanager
    def writing(
        self, key: str, what: Callable[[], str], num_bytes: int
    ) -> Generator[BinaryIO]:
        path = self._folder / key
        with explained_disk_errors(_existing(path.parent), what, num_bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                yield file

    @override
    def remove(self, key: str) -> None:
        (self._folder / key).unlink(missing_ok=True)

    @override
    def require_room(self, num_bytes: int) -> None:
        require_free(_existing(self._folder), num_bytes)

    @override
    def clean_up(self) -> None:
        remove_partial_files(self._folder)


def _existing(folder: Path) -> Path:
    """Return the innermost folder around a path that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())
