"""A run that is killed at any tile goes on to the bits of one that was not."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import killed_run
import oracles
import pytest
import torch
import zoo
from killed_run import tile_size, work
from store_cases import files_of
from torch import Tensor
from torch.testing import assert_close

import eigenscope as es
from eigenscope.jacobian import InputJacobianEngine

SIDES: list[Any] = ["rows", "columns"]
LAYOUTS: list[Any] = ["samples", "outputs"]
# 7 samples in tiles of 2 are 4 tiles of raw outputs and of Jacobians, in turns.
NUM_JACOBIAN_TILES = 8


@pytest.fixture(scope="module")
def run_and_kill() -> Callable[..., int | None]:
    """Return a function that works in a process of its own and gives its exit code."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        # Where the server, from which every process is forked, finds what it preloads.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        context.set_forkserver_preload([killed_run.__name__])
        forkserver.ensure_running()

    def run(*arguments: object) -> int | None:
        process = context.Process(target=work, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    return run


def tiles_of(path: Path) -> dict[str, bytes]:
    return files_of(path / "arrays.zarr")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", SIDES)
def test_a_run_killed_at_any_tile_resumes_to_the_same_bits(
    side, layout, tmp_path, run_and_kill
):
    work(tmp_path / "whole", side, layout)
    expected = tiles_of(tmp_path / "whole")
    for kill_at in (1, 2, 5, NUM_JACOBIAN_TILES, NUM_JACOBIAN_TILES + 2):
        path = tmp_path / f"killed_{kill_at}"
        assert run_and_kill(path, side, layout, kill_at) == -signal.SIGKILL
        partial = tiles_of(path)
        assert not es.Run.open(path).is_complete
        assert partial != expected
        assert all(expected[name] == tile for name, tile in partial.items())
        work(path, side, layout)
        assert tiles_of(path) == expected
        assert es.Run.open(path).is_complete


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", SIDES)
def test_a_run_killed_again_and_again_resumes_to_the_same_bits(
    side, layout, tmp_path, run_and_kill
):
    work(tmp_path / "whole", side, layout)
    path = tmp_path / "killed"
    codes = [run_and_kill(path, side, layout, 2) for _ in range(5)]
    assert set(codes) == {-signal.SIGKILL}
    work(path, side, layout)
    assert tiles_of(path) == tiles_of(tmp_path / "whole")


def test_a_finished_run_is_only_read(tmp_path, monkeypatch):
    work(tmp_path / "run", "rows", "samples")
    before = {
        p: p.stat().st_mtime_ns for p in (tmp_path / "run/arrays.zarr").rglob("*")
    }

    def fill(*_: object) -> Tensor:
        raise AssertionError("the network ran again")

    monkeypatch.setattr(InputJacobianEngine, "fill", fill)
    work(tmp_path / "run", "rows", "samples")
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run/arrays.zarr").rglob("*")}
    assert after == before


@pytest.mark.parametrize("array", ["jacobian", "jacobian_raw_outputs", "gram"])
def test_a_tile_that_was_lost_is_made_again(array, tmp_path):
    work(tmp_path / "run", "columns", "outputs")
    expected = tiles_of(tmp_path / "run")
    tiles = sorted((tmp_path / "run/arrays.zarr" / array / "c").rglob("*"))
    next(tile for tile in tiles if tile.is_file()).unlink()
    work(tmp_path / "run", "columns", "outputs")
    assert tiles_of(tmp_path / "run") == expected


@pytest.mark.parametrize("accumulate", [None, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("jacobian_bytes", "gram_rows", "memory"),
    [(1, 1, None), (1, 4, 9000), (2500, 7, 20_000), (2**26, 2048, None)],
)
def test_tiles_of_any_size_hold_the_matrix_that_memory_holds(
    jacobian_bytes, gram_rows, memory, side, layout, accumulate, tmp_path, monkeypatch
):
    tile_size(monkeypatch, jacobian_bytes, gram_rows)
    case = zoo.make("residual")
    problem = es.Problem(
        case.model.float(), case.batches, output="probabilities", batch_size=2
    )
    jacobian = es.InputJacobian(problem, layout=layout)
    matrix = es.gram(jacobian, side=side, accumulate=accumulate)
    budgeted = es.gram(jacobian, side=side, accumulate=accumulate, memory=memory)
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        stored = budgeted.write(run)
    # Single precision, sums of 50 to 150 terms in other orders.
    assert_close(stored.dense(), matrix.dense(), rtol=1e-5, atol=1e-7)
    assert_close(stored.diagonal(), stored.dense().diagonal(), rtol=0, atol=0)
    exact = oracles.jacobian(case.model.double(), case.batches, "probabilities")
    gram = oracles.gram(oracles.laid_out(exact, layout), side)
    assert_close(stored.dense().double(), gram, rtol=1e-4, atol=1e-6)


def test_a_resumed_jacobian_keeps_the_engine_of_its_run(tmp_path, monkeypatch):
    case = zoo.make("residual")

    def write(chunk_size: int, run: es.Run) -> None:
        monkeypatch.setattr(
            "eigenscope.jacobian.inputs.choose_chunk_size", lambda *_, **__: chunk_size
        )
        problem = es.Problem(case.model, case.batches)
        es.InputJacobian(problem).write(run)

    tile_size(monkeypatch, 1, 5)
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        write(3, run)
        chosen = run.settings["jacobian_engine"]
        assert run.open_array("jacobian").tile_shape[0] == 3
    expected = tiles_of(tmp_path / "run")
    (tmp_path / "run/arrays.zarr/jacobian/c/1/0/0").unlink()
    with es.Run.resume(tmp_path / "run", verb="test", arguments={}) as run:
        write(2, run)
        assert run.settings["jacobian_engine"] == chosen
    assert tiles_of(tmp_path / "run") == expected


@pytest.mark.message
@pytest.mark.parametrize("change", ["model", "data"])
def test_a_run_of_another_model_or_data_set_is_refused(change, tmp_path):
    case = zoo.make("mlp")
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        es.InputJacobian(es.Problem(case.model, case.batches)).write(run)
        if change == "model":
            with torch.no_grad():
                case.model[0].bias[0] += 1e-6
        else:
            case.batches[1][0][2, 3] += 1e-6
        other = es.InputJacobian(es.Problem(case.model, case.batches))
        with pytest.raises(
            ValueError, match="weights" if change == "model" else "data"
        ):
            other.write(run)


@pytest.mark.message
def test_a_stored_callable_is_not_taken_for_a_named_output(tmp_path):
    case = zoo.make("mlp")
    problem = es.Problem(case.model, case.batches, output=lambda z: z[:, :2] ** 2)
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        written = es.InputJacobian(problem).write(run)
        with pytest.raises(ValueError, match=r"holds those of a callable\. Leave"):
            es.InputJacobian.open(run, output="probabilities")
        assert torch.equal(es.InputJacobian.open(run).dense(), written.dense())


@pytest.mark.message
def test_only_an_input_jacobian_is_written_tile_by_tile(tmp_path):
    with (
        es.Run.create(tmp_path / "run", verb="test", arguments={}) as run,
        pytest.raises(ValueError, match=r"got Dense. Use dense\(\)"),
    ):
        es.gram(torch.eye(2)).write(run)


@pytest.mark.message
def test_a_budget_below_three_tiles_is_refused_before_work(tmp_path):
    case = zoo.make("mlp")
    jacobian = es.InputJacobian(es.Problem(case.model, case.batches))
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        stored = jacobian.write(run)
        with pytest.raises(ValueError, match="must hold three blocks of 7 Jacobian"):
            es.gram(stored, side="rows", memory="1kB").write(run)
