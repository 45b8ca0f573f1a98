"""What every run of an experiment records beside its results, and compares later."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.budget import resolve
from eigenscope.estimators import spectrum
from eigenscope.operators import StoredGram
from eigenscope.problem import Problem
from eigenscope.store import Run
from eigenscope.store.manifest import FINGERPRINT


def budget_of(run: Run, memory: str | int | None) -> str | int:
    """Return the memory to use: what is asked for, or what the run began with.

    Tiles that are cut after a resumption are then those of a run without a break.
    """
    if "memory" not in run.settings:
        run.record_settings({"memory": resolve(memory)})
    return cast("int", run.settings["memory"]) if memory is None else memory


def require_same_problem(run: Run, problem: Problem) -> None:
    """Compare model and data with those that the run started with.

    There may be more samples after those of the run, which `Run.grow` then takes in.

    Args:
        run: The run.
        problem: What it is to go on with.

    Raises:
        ValueError: If they differ.
    """
    recorded = cast("dict[str, str] | None", run.settings.get(FINGERPRINT))
    if recorded is None:
        return
    before = int(cast("int", run.results.get("num_samples", problem.num_samples)))
    is_longer = before < problem.num_samples
    now = problem.fingerprint(num_samples=before if is_longer else None)
    changed = [name for name in now if now[name] != recorded.get(name)]
    if changed:
        raise ValueError(
            f"a run must go on with the model and data that it started with; the "
            f"{' and the '.join(changed)} of {run.path} differ now. Give the original "
            "ones, or start a new run in another folder."
        )


def record_problem(run: Run, problem: Problem) -> None:
    """Record which model and data a run is of, or compare them.

    Args:
        run: The run.
        problem: What it goes on with.

    Raises:
        ValueError: If they differ, or there are more samples than the run is of.
    """
    require_same_problem(run, problem)
    now = cast("JsonValue", dict(problem.fingerprint()))
    if run.settings.get(FINGERPRINT, now) != now:
        raise ValueError(
            f"the run {run.path} is of the first {run.results['num_samples']} samples, "
            f"got {problem.num_samples}. Take the others in with "
            f"run.grow(num_samples={problem.num_samples}) (--resume with a larger "
            "--num-samples), or give the same samples."
        )
    run.record_settings({FINGERPRINT: now})
    run.record_result("num_samples", problem.num_samples)


def classes_of(problem: Problem) -> Int64[np.ndarray, " sample"] | None:
    """Return the classes of all samples, or None where samples have no class."""
    parts: list[Tensor] = []
    for batch in problem.whole().batches:
        found = batch.targets
        if not isinstance(found, Tensor) or found.shape != (batch.size,):
            return None
        if found.is_floating_point():
            return None
        parts.append(found.cpu())
    return torch.cat(parts).long().numpy()


def write_small(
    run: Run, name: str, values: np.ndarray | Callable[[], np.ndarray]
) -> None:
    """Write a small array as one tile, unless it is there; compute it only then."""
    if run.ranks.from_first(lambda: read_small(run, name) is not None):
        return
    array = values() if callable(values) else values
    whole = run.array(
        name, shape=array.shape, dtype=array.dtype, tile_shape=array.shape
    )
    with run.ranks.together():
        if run.ranks.is_first:
            whole.write((0,) * array.ndim, array)


def read_small(run: Run, name: str) -> np.ndarray | None:
    """Return a small array, or None if it is not there yet."""
    if name not in run.array_names:
        return None
    array = run.open_array(name)
    return array[()] if not array.missing() else None


def keep_spectrum(
    run: Run, path: Path, stored: StoredGram, *, seed: int, memory: str | int | None
) -> None:
    """Save the spectrum of a stored matrix; one that does not fit is estimated.

    An estimate leaves its groups of probes in the run, and goes on from them.

    Args:
        run: A run that is open for writing.
        path: Of the spectrum.
        stored: The matrix.
        seed: Of the probes.
        memory: Budget.
    """

    def save(target: Path) -> None:
        spectrum(
            stored,
            generator=torch.Generator().manual_seed(seed),
            memory=memory,
            run=run,
            name=f"estimate_{path.stem}",
        ).save(target, wall_time=False)

    run.keep(path, save)
