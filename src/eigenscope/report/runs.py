"""The runs that a page shows side by side, and what each is called."""

from collections.abc import Sequence
from pathlib import Path

from eigenscope.store import Run
from eigenscope.store.manifest import FILE_NAME


def open_runs(paths: Sequence[Path], *, purpose: str) -> dict[str, Run]:
    """Open the runs of a page.

    Args:
        paths: Their folders.
        purpose: What needs them, such as "a report".

    Returns:
        The runs by label: the folders' names, or their whole paths where names repeat.

    Raises:
        FileNotFoundError: If a folder is no run; names the runs that are in it.
        ValueError: If there is no run or one twice, or a manifest is damaged.
    """
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        given = ", ".join(str(path) for path in paths) or "none"
        raise ValueError(
            f"{purpose} needs at least one run, and none of them twice; got {given}."
        )
    for path in paths:
        inside = sorted(found.parent for found in path.glob(f"*/{FILE_NAME}"))
        if inside and not (path / FILE_NAME).exists():
            raise FileNotFoundError(
                f"{purpose} needs folders of runs; {path} is none but holds some. Give "
                f"these: {' '.join(map(str, inside))}"
            )
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return dict(zip(names, map(Run.open, paths), strict=True))
