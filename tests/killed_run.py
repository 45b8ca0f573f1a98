"""A process that writes a Jacobian and its Gram matrix, and may kill itself."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import zoo

import eigenscope as es
from eigenscope.operators import InputJacobian, gram
from eigenscope.problem import Problem
from eigenscope.store import TiledArray


def tile_size(patch: pytest.MonkeyPatch, jacobian_bytes: int, gram_rows: int) -> None:
    """Make tiles small enough for a test to have several."""
    jacobian = "eigenscope.operators.computed_blocks._TILE_BYTES"
    patch.setattr(jacobian, jacobian_bytes)
    patch.setattr("eigenscope.operators.gram_tiles._TILE", gram_rows)


def kill_after(patch: pytest.MonkeyPatch, num_tiles: int) -> None:
    """Let the process end by SIGKILL as soon as so many tiles are written."""
    written = 0
    write = TiledArray.write

    def counted(self: TiledArray, index: Any, values: Any) -> None:
        nonlocal written
        write(self, index, values)
        written += 1
        if written == num_tiles:
            os.kill(os.getpid(), signal.SIGKILL)

    patch.setattr(TiledArray, "write", counted)


def work(path: Path, side: Any, layout: Any, num_tiles: int | None = None) -> None:
    """Write everything into a new run, or into the one that is there."""
    case = zoo.make("residual")
    problem = Problem(
        case.model.float(), case.batches, output="probabilities", batch_size=2
    )
    with pytest.MonkeyPatch.context() as patch:
        tile_size(patch, 1, 5)
        if num_tiles is not None:
            kill_after(patch, num_tiles)
        start = es.Run.resume if path.exists() else es.Run.create
        with start(path, verb="test", arguments={}) as run:
            jacobian = InputJacobian(problem, layout=layout)
            gram(jacobian, side=side).write(run)
            run.complete()
