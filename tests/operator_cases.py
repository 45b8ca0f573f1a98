"""Every operator over small problems, with its matrix from the oracles."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import oracles
import pytest
import zoo
from torch import Tensor

import eigenscope as es
from eigenscope.operators import LinearOperator


def squares(z: Tensor) -> Tensor:
    return z.flatten(1) ** 2


SOURCES: list[tuple[str, Any]] = [
    ("mlp", "logits"),
    ("mlp", "probabilities"),
    ("mlp", squares),
    ("bottleneck", "probabilities"),
    ("sequence", "log_probabilities"),
    ("mapping", "logits"),
]
LAYOUTS: list[Any] = ["samples", "outputs"]
JACOBIANS = ["computed", "stored", "dense"]
GRAMS = ["gram rows", "gram columns", "stored gram rows", "stored gram columns"]
KINDS = [*JACOBIANS, *GRAMS, "transpose", "transpose of stored"]

_FOLDER = TemporaryDirectory()


@dataclass(frozen=True)
class Subject:
    operator: Any
    matrix: Tensor


@cache
def jacobian_blocks(name: str, output: Any) -> Tensor:
    case = zoo.make(name)
    return oracles.jacobian(case.model, case.batches, output)


def problem(name: str, output: Any, **options: Any) -> es.Problem:
    case = zoo.make(name)
    return es.Problem(case.model, case.batches, output=output, **options)


@cache
def _run(name: str, output: Any) -> es.Run:
    path = Path(_FOLDER.name) / f"{name}_{SOURCES.index((name, output))}"
    return es.Run.create(path, verb="test", arguments={})


@cache
def make(kind: str, name: str, output: Any, layout: Any) -> Subject:
    """Return an operator of one kind; stored ones lie in ragged tiles of few rows."""
    matrix = oracles.laid_out(jacobian_blocks(name, output), layout)
    jacobian = es.InputJacobian(problem(name, output, batch_size=2), layout=layout)
    side: Any = "rows" if kind.endswith("rows") else "columns"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eigenscope.operators.computed_blocks._TILE_BYTES", 1)
        patch.setattr("eigenscope.operators.gram_tiles._TILE", 5)
        run = _run(name, output)
        if "stored" in kind and "gram" not in kind:
            jacobian = jacobian.write(run)
        if "gram" in kind:
            operator: LinearOperator = es.gram(jacobian, side=side)
            if "stored" in kind:
                array = f"gram_{layout}_{side}"
                operator = es.gram(jacobian, side=side).write(run, name=array)
            return Subject(operator, oracles.gram(matrix, side))
    if kind == "dense":
        return Subject(es.Dense(matrix.clone()), matrix)
    if "transpose" in kind:
        return Subject(jacobian.T, matrix.T)
    return Subject(jacobian, matrix)
