"""The parameter Jacobian of a data set as an operator, in memory and in a run."""

from pathlib import Path
from typing import Any

import numpy as np
import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import assert_close, data_of, loop_jacobian
from torch import Tensor, nn

import eigenscope as es
from eigenscope.operators import ParameterJacobian, StoredRows

NAMES = [
    "vgg",
    "vision transformer",
    "language model",
    "lstm",
    "raw use",
    "dictionary",
    "unused",
    "elementwise",
    "twice",
]


def build(name: str, **options: Any) -> tuple[ParameterJacobian, Tensor]:
    """Return the operator over ragged chunks, and the matrix by a loop."""
    model, inputs = zoo.build(name)
    batch_size = None if isinstance(inputs, dict) else 2
    problem = es.Problem(model, data_of(inputs), batch_size=batch_size, **options)
    expected = loop_jacobian(model, inputs)
    columns = [
        value.reshape(*value.shape[:2], -1)
        for name, value in expected.items()
        if name in problem.params
    ]
    return ParameterJacobian(problem), torch.cat(columns, 2).flatten(0, 1)


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_matrix_is_that_of_a_loop(name):
    jacobian, expected = build(name)
    assert jacobian.shape == tuple(expected.shape)
    assert (jacobian.dtype, jacobian.device.type) == (torch.float64, "cpu")
    assert_close(jacobian.dense(), expected)


@pytest.mark.parametrize("num_vectors", [1, 2, 40])
@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_matrix(name, num_vectors):
    jacobian, matrix = build(name)
    right, left = draw(matrix.shape[1], num_vectors), draw(len(matrix), num_vectors)
    assert_close(jacobian @ right, matrix @ right)
    assert_close(jacobian.T @ left, matrix.T @ left)
    assert_close(jacobian @ right[:, 0], matrix @ right[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_norms_are_those_of_the_matrix(name):
    jacobian, matrix = build(name)
    assert_close(jacobian.squared_row_norms(), matrix.square().sum(1))
    assert_close(jacobian.squared_column_norms(), matrix.square().sum(0))


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("name", ["vgg", "lstm"])
def test_rows_come_in_order_in_blocks_of_whole_samples(name, memory, monkeypatch):
    if memory is not None:
        name_of_limit = "eigenscope.operators.parameter_jacobian._ROW_BYTES"
        monkeypatch.setattr(name_of_limit, memory)
    jacobian, matrix = build(name)
    outputs = jacobian.problem.num_outputs
    starts = [start for start, _ in jacobian.row_blocks()]
    step = outputs if memory else 2 * outputs
    assert starts == list(range(0, len(matrix), step))
    rows = torch.cat([block.clone() for _, block in jacobian.row_blocks()])
    assert_close(rows, matrix)


def test_columns_follow_the_named_parameters():
    jacobian, matrix = build("twice", params=["norm.*", "layer.bias"])
    assert list(jacobian.columns) == ["layer.bias", "norm.weight", "norm.bias"]
    assert jacobian.columns["norm.weight"] == slice(4, 8)
    assert_close(jacobian.dense(), matrix)


def test_gram_matrices_and_spectra_of_both_sides_agree():
    jacobian, matrix = build("raw use")
    assert_close(es.gram(jacobian, side="rows").dense(), matrix @ matrix.T)
    assert_close(es.gram(jacobian, side="columns").dense(), matrix.T @ matrix)
    found = np.array(es.spectrum(es.gram(jacobian)).values)[-5:]
    expected = torch.linalg.svdvals(matrix).square()[:5].flip(0).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_coverage_names_every_parameter():
    jacobian, _ = build("raw use")
    paths = {name: served.path for name, served in jacobian.coverage.items()}
    assert paths == {
        "layer.weight": "vmap",
        "layer.bias": "rules",
        "first.weight": "rules",
        "first.bias": "rules",
    }


def run_at(path: Path) -> es.Run:
    return es.Run.create(path, verb="jacobian", arguments={})


@pytest.mark.parametrize("name", ["vgg", "lstm"])
def test_what_is_written_to_a_run_is_read_again(name, tmp_path):
    jacobian, matrix = build(name)
    with run_at(tmp_path / "run") as run:
        stored = jacobian.write(run)
        assert isinstance(stored, StoredRows)
        assert_close(stored.dense(), matrix)
        right, left = draw(matrix.shape[1], 3), draw(len(matrix), 3)
        assert_close(stored @ right, matrix @ right)
        assert_close(stored.T @ left, matrix.T @ left)
        assert_close(stored.squared_row_norms(), matrix.square().sum(1))
        assert_close(stored.squared_column_norms(), matrix.square().sum(0))
        assert stored.array.attributes["output"] == "logits"
        assert stored.array.attributes["data"] == jacobian.problem.fingerprint()["data"]


def test_a_second_write_computes_only_what_is_missing(tmp_path, monkeypatch):
    jacobian, matrix = build("vgg")
    counted: list[int] = []
    fill = type(jacobian._engine).fill

    def stopping(self: Any, batch: Any, results: Any) -> None:
        counted.append(batch.start)
        if len(counted) == 2:
            raise KeyboardInterrupt
        fill(self, batch, results)

    with run_at(tmp_path / "run") as run:
        monkeypatch.setattr(type(jacobian._engine), "fill", stopping)
        with pytest.raises(KeyboardInterrupt):
            jacobian.write(run)
        stored = jacobian.write(run)
        assert counted == [0, 2, 2, 4]
        assert_close(stored.dense(), matrix)
        assert_close(jacobian.write(run).dense(), matrix)
        assert counted == [0, 2, 2, 4]


def test_a_run_resumes_with_other_chunks(tmp_path, monkeypatch):
    """Tiles stay what they were: four samples each, now computed three at a time."""
    model, inputs = zoo.build("vgg")
    first = ParameterJacobian(es.Problem(model, inputs, batch_size=4))
    again = ParameterJacobian(es.Problem(model, inputs, batch_size=3))
    with run_at(tmp_path / "run") as run:
        monkeypatch.setattr(type(again), "_rows_at_once", lambda _: 4)
        stored = again.write(run)
        assert stored.array.tile_shape[0] == 4 * 3
        assert_close(stored.dense(), first.dense())


def test_tiles_hold_the_samples_that_the_budget_allows(tmp_path):
    jacobian, matrix = build("vgg")
    row_bytes = matrix.shape[1] * jacobian.problem.num_outputs * 8
    with run_at(tmp_path / "run") as run:
        stored = jacobian.write(run, memory=3 * row_bytes)
        assert stored.array.tile_shape == (3, matrix.shape[1])
        assert_close(stored.dense(), matrix)


@pytest.mark.message
def test_a_budget_below_one_sample_is_refused(tmp_path):
    jacobian, _ = build("vgg")
    with (
        run_at(tmp_path / "run") as run,
        pytest.raises(ValueError, match="must hold at least 1 row of"),
    ):
        jacobian.write(run, memory="1kB")


@pytest.mark.message
def test_a_model_that_changes_between_products_is_refused():
    jacobian, _ = build("twice")
    jacobian.dense()
    with torch.no_grad():
        next(jacobian.problem.model.parameters()).add_(1)
    with pytest.raises(es.DataChangedError, match="since the ParameterJacobian"):
        jacobian.squared_row_norms()


@pytest.mark.message
def test_a_model_without_parameters_is_refused():
    problem = es.Problem(nn.Flatten(), torch.ones(3, 2))
    with pytest.raises(ValueError, match="needs parameters"):
        ParameterJacobian(problem)


@pytest.mark.message
def test_samples_with_other_numbers_of_outputs_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Flatten())
    jacobian = ParameterJacobian(
        es.Problem(model, [torch.ones(4, 3, 2), torch.ones(4, 5, 2)])
    )
    with pytest.raises(ValueError, match="first have 6, those from sample 4 on 10"):
        jacobian.squared_row_norms()
