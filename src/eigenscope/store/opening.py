"""Beginning a run's folder or taking it up again, by one process for all ranks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eigenscope.distributed import Ranks
from eigenscope.store.files import remove_partial_files
from eigenscope.store.folder import (
    ARRAYS,
    FIGURES,
    RESULTS,
    Lock,
    require_vacant,
    require_vacant_store,
)
from eigenscope.store.layout import create_group
from eigenscope.store.manifest import FILE_NAME, Manifest
from eigenscope.store.objects import place_at, require_local

if TYPE_CHECKING:
    from eigenscope._types import JsonValue
else:  # beartype cannot follow the recursive alias, and its module imports torch
    JsonValue = object

Opened = tuple[Manifest, Lock | None]


def begun(
    path: Path,
    verb: str,
    arguments: Mapping[str, JsonValue],
    settings: Mapping[str, JsonValue],
    store: str | None,
    ranks: Ranks,
) -> Opened:
    """Make a run's folder and its manifest; see `Run.create`.

    Args:
        path: The folder.
        verb: The job.
        arguments: What decides the result.
        settings: What is already chosen.
        store: Where the arrays go, if not into the folder.
        ranks: Who shares the run.

    Returns:
        The manifest and, on rank 0, the lock.
    """
    manifest = Manifest.new(
        verb=verb, arguments=arguments, settings=settings, store=store
    )

    def begin() -> tuple[Manifest, Lock]:
        require_local(path)
        require_vacant(path, manifest)
        place = place_at(store, path / ARRAYS)
        require_vacant_store(place)
        path.mkdir(parents=True, exist_ok=True)
        lock = Lock(path)
        try:
            require_vacant(path, manifest)  # nobody came first
            remove_partial_files(path)
            for name in (RESULTS, FIGURES):
                (path / name).mkdir(exist_ok=True)
            if store is not None:
                create_group(place)
            manifest.save(path)
        except BaseException:
            lock.release()
            raise
        return manifest, lock

    return _by_first(begin, path, ranks)


def taken_up(
    path: Path, verb: str, arguments: Mapping[str, JsonValue], ranks: Ranks
) -> Opened:
    """Lock a run that is there and clean its folder up; see `Run.resume`.

    Args:
        path: The folder.
        verb: The job.
        arguments: What decides the result.
        ranks: Who shares the run from now on.

    Returns:
        The manifest and, on rank 0, the lock.
    """

    def take_up() -> tuple[Manifest, Lock]:
        if not (path / FILE_NAME).exists():
            raise FileNotFoundError(
                f"resuming needs a run in {path}, which has no {FILE_NAME}; start the "
                "run without --resume."
            )
        lock = Lock(path)
        try:
            manifest = Manifest.load(path)
            if differences := manifest.differences(verb, arguments):
                raise ValueError(
                    f"resuming {path} needs the arguments that it was started with; "
                    f"these differ (old → new): {'; '.join(differences)}; repeat the "
                    "old ones, or choose another folder with --out."
                )
            remove_partial_files(path)
            place_at(manifest.store, path / ARRAYS).clean_up()
        except BaseException:
            lock.release()
            raise
        return manifest, lock

    return _by_first(take_up, path, ranks)


def _by_first(
    open_it: Callable[[], tuple[Manifest, Lock]], path: Path, ranks: Ranks
) -> Opened:
    """Open a run on rank 0, then read its manifest on the ranks that help it.

    Returns:
        The manifest and, on rank 0, the lock.

    Raises:
        FileNotFoundError: If a rank does not see the folder.
    """
    found: list[tuple[Manifest, Lock]] = []
    ranks.from_first(lambda: found.append(open_it()))
    with ranks.together():
        if found:
            return found[0]
        if not (path / FILE_NAME).exists():
            raise FileNotFoundError(
                "all ranks must see the folder of the run that they share; rank "
                f"{ranks.rank} does not see {path}. Choose one with --out on a disk "
                "that all hosts mount."
            )
        return Manifest.load(path), None
