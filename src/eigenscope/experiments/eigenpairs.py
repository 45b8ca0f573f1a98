"""Eigenpairs of a matrix in a run, computed once."""

from functools import partial
from pathlib import Path

import torch

from eigenscope.estimators import top_eigenpairs
from eigenscope.estimators.order import Which
from eigenscope.operators import SymmetricOperator
from eigenscope.store import Run


def eigenpairs_path(run: Run, name: str) -> Path:
    """Return the file of some eigenpairs.

    Args:
        run: The run.
        name: Of the matrix.

    Returns:
        The path, whether or not there is a file.
    """
    return run.results_path(f"eigenpairs_{name}.npz")


def write_eigenpairs(
    run: Run,
    name: str,
    operator: SymmetricOperator,
    count: int,
    *,
    which: Which,
    seed: int,
    memory: str | int | None,
) -> None:
    """Compute eigenpairs into a run, unless they are there; Lanczos goes on.

    Args:
        run: A run that is open for writing.
        name: Of the matrix.
        operator: The matrix.
        count: Number of pairs; of a smaller matrix all of them.
        which: As for `es.top_eigenpairs`.
        seed: Of the random starts.
        memory: Budget.
    """
    path = eigenpairs_path(run, name)
    if run.has(path):
        return
    stage = f"eigenpairs_{name}"
    with run.stage(stage):
        pairs = top_eigenpairs(
            operator,
            min(count, operator.shape[0]),
            which=which,
            generator=torch.Generator().manual_seed(seed),
            memory=memory,
            run=run,
            name=stage,
        )
        run.keep(path, partial(pairs.save, wall_time=False))
