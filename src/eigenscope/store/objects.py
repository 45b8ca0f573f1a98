"""Arrays in an object store: whatever fsspec knows the protocol of."""

import importlib
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, final

from typing_extensions import override

from eigenscope.store.places import LocalFolder, Place

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+")


@final
class ObjectStore(Place):
    """Files in an object store, each put there as a whole.

    Credentials, endpoints and the like are fsspec's own to find: its configuration
    files and FSSPEC_… variables, and those of the store's client.

    Args:
        url: Where, such as "s3://bucket/run".

    Raises:
        ImportError: If what reaches such a store is not installed.
        ValueError: If the protocol is unknown.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._files, root = _opened(self._url)
        self._root = root.rstrip("/")

    @override
    def location(self, key: str) -> str:
        return f"{self._url}/{key}"

    @override
    def names(self) -> list[str]:
        with self._explained("listing what is there"):
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        names = {path.rstrip("/").rpartition("/")[2] for path in found}
        return sorted(names - {"", self._root.rpartition("/")[2]})

    @override
    def size(self, key: str) -> int | None:
        with self._explained(f"looking for {key}"):
            try:
                return self._files.size(self._path(key))
            except FileNotFoundError:
                return None

    @override
    def sizes(self, prefix: str) -> Mapping[str, int]:
        with self._explained(f"listing {prefix}"):
            found = self._files.find(self._path(prefix), detail=True)
        start = len(self._root) + 1
        return {path[start:]: int(info["size"]) for path, info in found.items()}

    @override
    @contextmanager
    def reading(self, key: str) -> Generator[BufferedIOBase]:
        with self._explained(f"reading {key}"):
            try:
                content = self._files.cat_file(self._path(key))
            except FileNotFoundError:
                content = None
        if content is None:
            raise FileNotFoundError(f"{self.location(key)} is not there.")
        yield BytesIO(content)

    @override
    @contextmanager
    def writing(
        self, key: str, what: Callable[[], str], num_bytes: int
    ) -> Generator[BinaryIO]:
        file = BytesIO()
        yield file
        with self._explained(what):
            self._files.pipe_file(self._path(key), file.getvalue())

    @override
    def remove(self, key: str) -> None:
        with self._explained(f"removing {key}"):
            if self._files.exists(self._path(key)):
                self._files.rm_file(self._path(key))

    @override
    def require_room(self, num_bytes: int) -> None:
        """Object stores have no end."""

    @override
    def clean_up(self) -> None:
        """An object that was not put whole was not put."""

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _explained(self, what: str | Callable[[], str]) -> Generator[None]:
        try:
            yield
        except Exception as error:  # each store's client has errors of its own
            raise OSError(
                f"the store {self._url} must be reachable, and be ours to read and "
                f"write; {what if isinstance(what, str) else what()} failed: "
                f"{type(error).__name__}: {error}. Check the URL, the network and "
                "the credentials; what is stored is safe, go on with --resume."
            ) from error


def place_at(url: str | None, folder: Path) -> Place:
    """The place of a run's arrays.

    Args:
        url: Where fsspec finds it, such as "s3://bucket/run"; "file:///data/run" is a
            local folder. None for a folder of the run.
        folder: That folder.

    Returns:
        The place; nothing is made or looked for yet.

    Raises:
        ValueError: If it is no URL, or one of an unknown protocol.
    """
    if url is None:
        return LocalFolder(folder)
    match = _URL.match(url)
    if match is None:
        raise ValueError(
            f"store must be a URL that fsspec knows, such as s3://bucket/run; got "
            f"{url!r}. Leave it out for a local folder, that of the run."
        )
    if match[1].lower() in {"file", "local"}:
        return LocalFolder(Path("/" + url[match.end() :]))
    return ObjectStore(url)


def require_local(folder: Path) -> None:
    """Raise if a run's folder looks like a URL.

    Args:
        folder: The folder.

    Raises:
        ValueError: If it does.
    """
    match = _URL.match(folder.as_posix())
    if match is not None and len(match[1]) > 1:
        raise ValueError(
            f"a run's folder must be local, for its lock and its page; got "
            f"{folder.as_posix()}. Put its arrays there: --store {match[1]}://… "
            "(store=) with a local --out."
        )


def _opened(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, without caches, and the path in it."""
    try:
        fsspec = importlib.import_module("fsspec.core")
        return fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise ImportError(
            f"the store {url} needs a package that is not installed ({error}); install "
            "it, for S3 with pip install 'eigenscope[remote]'."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"store must be a URL of a protocol that fsspec knows, such as s3, gs, "
            f"abfs or memory; got {url!r} ({error})."
        ) from error
