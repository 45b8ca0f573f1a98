"""How much the stored results of runs take in memory, before they are read."""

from collections.abc import Sequence
from typing import Final

from eigenscope.budget import require_fits
from eigenscope.store import Run

_READ: Final = {".json", ".npz"}  # not weights, and not what trainings go on from


def result_bytes(run: Run) -> int:
    """Return the bytes of a run's spectra and numbers, which are not compressed.

    Args:
        run: The run.

    Returns:
        Those of the files that pages and tables are made of.
    """
    files = [run.path / "manifest.json", *run.path.glob("results/**/*")]
    kept = (file for file in files if file.suffix in _READ and file.is_file())
    return sum(file.stat().st_size for file in kept)


def require_results_fit(
    runs: Sequence[Run],
    memory: str | int | None,
    *,
    purpose: str,
    one_by_one: bool = False,
) -> int:
    """Raise, before any is read, unless the results of runs fit a memory budget.

    Args:
        runs: The runs.
        memory: The budget.
        purpose: The verb that reads them.
        one_by_one: Whether those of one run are let go before the next is read.

    Returns:
        The budget in bytes.

    Raises:
        ValueError: If they do not fit.
    """
    sizes = [result_bytes(run) for run in runs]
    what = f"the results of {len(runs)} runs" if len(runs) > 1 else "the run's results"
    if one_by_one and len(runs) > 1:
        what = "the results of the largest run"
    return require_fits(
        max(sizes, default=0) if one_by_one else sum(sizes),
        memory,
        what=f"{what}, read by `{purpose}`,",
        way_out="or name fewer runs",
    )
