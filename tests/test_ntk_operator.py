"""The tangent kernel of a data set as an operator, in memory and in a run."""

from pathlib import Path
from typing import Any

import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import assert_close, data_of, loop_kernels
from torch import Tensor

import eigenscope as es
from eigenscope.kernels.matrices import add_ranges
from eigenscope.operators import StoredGram


def build(name: str, outputs: Any = "full", **options: Any) -> tuple[es.NTK, Tensor]:
    """Return the operator over ragged batches, and its matrix by a loop."""
    model, inputs = zoo.build(name)
    batch_size = None if isinstance(inputs, dict) else 2
    problem = es.Problem(model, data_of(inputs), batch_size=batch_size)
    kernels = loop_kernels(model, inputs, only=problem.params)
    full = torch.stack(list(kernels.values())).sum(0)
    n, _, k, _ = full.shape
    matrix = full.transpose(1, 2).reshape(n * k, n * k)
    if outputs == "trace":
        matrix = torch.einsum("ijcc->ij", full)
    return es.NTK(problem, outputs=outputs, **options), matrix


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("outputs", ["full", "trace"])
@pytest.mark.parametrize("name", ["vgg", "language model", "lstm", "dictionary"])
def test_matrix_products_and_diagonal_are_those_of_a_loop(name, outputs):
    kernel, matrix = build(name, outputs)
    assert kernel.shape == tuple(matrix.shape)
    assert (kernel.dtype, kernel.device.type) == (torch.float64, "cpu")
    assert_close(kernel.dense(), matrix)
    block = draw(len(matrix), 3)
    assert_close(kernel @ block, matrix @ block)
    assert_close(kernel @ block[:, 0], matrix @ block[:, 0])
    assert_close(kernel.diagonal(), matrix.diagonal())


def test_the_spectrum_is_that_of_the_matrix():
    kernel, matrix = build("vgg")
    values = torch.from_numpy(es.spectrum(kernel).values.copy())
    assert_close(values, torch.linalg.eigvalsh(matrix))


def test_choices_are_told_with_their_reason():
    kernel, _ = build("vgg")
    found = kernel.choices
    assert list(found) == list(kernel.problem.params)
    assert (found["9.weight"].form, found["10.weight"].form) == ("structured",) * 2
    assert found["10.bias"].reason == (
        "its gradients are the cotangents that '10.weight' needs"
    )
    assert found["0.weight"].form == "jacobian"
    assert found["0.weight"].reason == "fewest multiplications"
    asked = build("vgg", method="jacobian")[0].choices
    assert {choice.form for choice in asked.values()} == {"jacobian"}
    small = build("vgg", memory=20_000)[0].choices
    assert "smallest" in small["0.weight"].reason


def run_at(path: Path) -> es.Run:
    return es.Run.create(path, verb="ntk", arguments={})


@pytest.mark.parametrize("method", ["auto", "jacobian", "structured", "products"])
@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_what_is_written_to_a_run_is_read_again(outputs, method, tmp_path, monkeypatch):
    """Tiles of two samples, a ragged last one, whatever the method."""
    k = 3 if outputs == "full" else 1
    monkeypatch.setattr("eigenscope.operators.kernel_tiles._TILE_ROWS", 2 * k)
    kernel, matrix = build("vgg", outputs, method=method)
    with run_at(tmp_path / "run") as run:
        stored = kernel.write(run)
        assert isinstance(stored, StoredGram)
        assert stored.array.grid == (3, 3)
        assert_close(stored.dense(), matrix)
        block = draw(len(matrix), 2)
        assert_close(stored @ block, matrix @ block)
        assert stored.array.num_written == 6


@pytest.mark.parametrize("by", ["parameter", "module"])
def test_written_components_add_up(by, tmp_path):
    kernel, matrix = build("convnext")
    with run_at(tmp_path / "run") as run:
        stored = kernel.write_components(run, by=by)
        assert_close(torch.stack([s.dense() for s in stored.values()]).sum(0), matrix)
        names = es.ntk_components(kernel.problem.model, zoo.build("convnext")[1], by=by)
        assert list(stored) == list(names)


def test_a_second_write_computes_only_what_is_missing(tmp_path, monkeypatch):
    """To the same bits, whatever memory there is now."""
    monkeypatch.setattr("eigenscope.operators.kernel_tiles._TILE_ROWS", 6)
    kernel, _ = build("vgg")
    with run_at(tmp_path / "whole") as run:
        expected = kernel.write(run).dense()
    counted: list[int] = []
    name = "eigenscope.operators.kernel_tiles.add_ranges"

    def stopping(*args: Any) -> None:
        counted.append(1)
        if len(counted) == 4:
            raise KeyboardInterrupt
        add_ranges(*args)

    with run_at(tmp_path / "run") as run:
        monkeypatch.setattr(name, stopping)
        with pytest.raises(KeyboardInterrupt):
            kernel.write(run)
        counted.append(1)
        again, _ = build("vgg", memory=30_000)
        stored = again.write(run)
        assert len(counted) == 5 + 3
        torch.testing.assert_close(stored.dense(), expected, rtol=0, atol=0)
        again.write(run)
        assert len(counted) == 5 + 3


@pytest.mark.message
def test_wrong_options_are_refused():
    model, inputs = zoo.build("vgg")
    problem = es.Problem(model, inputs)
    wrong: dict[str, Any] = {"outputs": "pseudo"}
    with pytest.raises(ValueError, match="outputs must be one of 'full', 'trace'"):
        es.NTK(problem, **wrong)
    wrong = {"method": "fast"}
    with pytest.raises(ValueError, match="method must be one of 'auto'"):
        es.NTK(problem, **wrong)
