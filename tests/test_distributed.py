"""1, 2 and 3 processes give one answer, fail as one and go on where others stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from distributed_cases import CASES, recorded_training
from distributed_worker import alone_in_pieces
from torch import Tensor

from eigenscope.store import Run
from eigenscope.training import History

pytestmark = pytest.mark.distributed

_WORKER = Path(__file__).with_name("distributed_worker.py")
_SECONDS = 600
_SOURCES = Path(__file__).parents[1] / "src"


@dataclass
class Processes:
    """Processes that meet in a file of a folder."""

    folder: Path
    ranks: list[subprocess.Popen[str]]

    @classmethod
    def start(cls, job: str, size: int, folder: Path) -> "Processes":
        folder.mkdir(exist_ok=True)
        (folder / "met").unlink(missing_ok=True)
        paths = [str(_SOURCES), str(_WORKER.parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, str(_WORKER), job, str(rank), str(size), str(folder)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(size)
        ]
        return cls(folder, ranks)

    def finish(self) -> list[tuple[int, str]]:
        """Return exit code and standard error of every rank."""
        found = [(r.communicate(timeout=_SECONDS)[1], r.returncode) for r in self.ranks]
        return [(code, error) for error, code in found]

    def stop(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.communicate()


@pytest.fixture
def started() -> Iterator[list[Processes]]:
    found: list[Processes] = []
    yield found
    for processes in found:
        processes.stop()


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    return {name: case() for name, case in CASES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_number_of_processes_gives_one_answer(
    size: int, alone, tmp_path: Path, started
):
    started.append(Processes.start("cases", size, tmp_path))
    assert [code for code, _ in started[0].finish()] == [0] * size
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    for name, expected in alone.items():
        assert found[0][name].keys() == expected.keys()
        for key, value in expected.items():
            own = found[0][name][key]
            # Sums over ranks are taken in another order, in float64.
            scale = float(value.abs().max())
            torch.testing.assert_close(own, value, rtol=1e-9, atol=1e-11 * scale)
            for other in found[1:]:
                assert torch.equal(other[name][key], own), (name, key)


@pytest.mark.slow
@pytest.mark.message
def test_an_error_of_one_rank_is_raised_on_all(tmp_path: Path, started):
    started.append(Processes.start("errors", 2, tmp_path))
    results = started[0].finish()
    assert [code for code, _ in results] == [0, 0], results[0][1] + results[1][1]
    first, second = (
        (tmp_path / f"{rank}.txt").read_text().split("\n---\n") for rank in range(2)
    )
    assert "all 2 ranks must be given the same data; those of rank 1 differ" in first[0]
    assert first[0] == second[0]
    assert "must be given the same weights; those of rank 1 differ" in first[1]
    assert "DataChangedError" in second[1]
    assert first[2].startswith("RuntimeError: rank 1 of 2 (process ")
    assert "stopped: ValueError: weights must be finite" in first[2]
    assert second[2].startswith("ValueError: weights must be finite")
    assert "stopped: ValueError: the model's output must be finite; that of" in first[3]
    assert second[3].startswith("ValueError: the model's output must be finite")
    assert "all ranks must multiply the same vectors" in first[4]
    assert first[4] == second[4]
    assert "ranks must be one of 'all', 'own'; got 'both'" in first[5]
    assert "only one process can write a run" in second[6]
    for number, what in ((7, "outputs"), (8, "outputs"), (10, "losses")):
        said = f"all 2 ranks must compute the same {what}; those of rank 1 differ"
        assert said in first[number]
        assert first[number] == second[number]
    assert "must be given the same params; those of rank 1 differ" in first[9]
    assert first[11] == second[11] == "nothing"


@pytest.mark.slow
@pytest.mark.message
def test_networks_in_pieces_are_as_whole_ones(alone, tmp_path: Path, started):
    started.append(Processes.start("in pieces", 2, tmp_path))
    expected = alone_in_pieces(tmp_path / "alone")
    results = started[0].finish()
    assert [code for code, _ in results] == [0, 0], results[0][1] + results[1][1]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for own in found:
        for kind in ("FSDP2", "DTensors"):
            assert own[f"{kind}, same"]
            for name, case in own[kind].items():
                _assert_near(case, alone[name])
            _assert_near(own[f"{kind}, functions"], expected["functions"])
            _assert_near(own[f"{kind}, trained"], expected["trained"])
    first, second = (
        (tmp_path / f"{rank}.txt").read_text().split("\n---\n") for rank in range(2)
    )
    assert "must give the outputs of its whole copy; for a few samples" in first[0]
    assert "output_layouts=Replicate()" in second[0]
    assert "the inputs of batch 0 are a DTensor. Pass its full_tensor()" in first[1]
    assert "the penalty needs higher derivatives of the loss as it is" in first[2]
    assert "es.CurvatureTrace" in first[2]
    assert "module '0' is a FullyShardedDataParallel" in first[3]
    assert "StateDictOptions(full_state_dict=True)" in first[3]
    assert "must be copyable" in first[4]
    assert "cannot pickle '_thread.lock'" in first[4]
    assert "Its own code must not make DTensors" in first[5]
    assert "half of what is free is 100 B for each" in first[6]


def _assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Sums over ranks and parts of layers are taken in another order, in float64.
        scale = float(value.detach().abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.slow
@pytest.mark.message
def test_a_killed_rank_stops_the_others_and_another_number_goes_on(
    tmp_path: Path, started
):
    whole = Processes.start("run", 1, tmp_path / "whole")
    broken = Processes.start("run", 3, tmp_path / "broken")
    started += [whole, broken]
    _wait_for_tiles(broken)
    broken.ranks[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    results = broken.finish()
    # Three seconds are granted to whoever may still notice.
    assert time.monotonic() - killed < 20
    assert results[1][0] == -signal.SIGKILL
    for rank in (0, 2):
        code, error = results[rank]
        assert code == 1
        assert "rank 1 (process " in error
        assert "has ended: it was killed, or its own output says why" in error
        assert "as many as you like" in error
    written = {path: path.stat().st_mtime_ns for path in _tiles(tmp_path / "broken")}
    again = Processes.start("resumed run", 2, tmp_path / "broken")
    started.append(again)
    results = again.finish()
    assert [code for code, _ in results] == [0, 0], results[0][1] + results[1][1]
    assert written, "something was kept"
    for path, time_of in written.items():
        assert path.stat().st_mtime_ns == time_of, "what is there is not redone"
    assert whole.finish()[0][0] == 0
    expected = torch.load(tmp_path / "whole" / "0.pt")
    for rank in range(2):
        found = torch.load(tmp_path / "broken" / f"{rank}.pt")
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_a_recorded_training_goes_on_with_another_number_of_ranks(
    tmp_path: Path, started
):
    with Run.create(tmp_path / "alone", verb="test", arguments={}) as made:
        recorded_training(made)
    broken = Processes.start("recording", 2, tmp_path / "ranks")
    started.append(broken)
    results = broken.finish()
    assert [code for code, _ in results] == [1, -signal.SIGKILL], results[0][1]
    run = tmp_path / "ranks" / "run"
    assert History.load(Run.open(run)).numbers == (0, 1)
    again = Processes.start("resumed recording", 3, tmp_path / "ranks")
    started.append(again)
    results = again.finish()
    assert [code for code, _ in results] == [0] * 3, results[0][1] + results[1][1]
    found, expected = (
        History.load(Run.open(path)) for path in (run, tmp_path / "alone")
    )
    assert found.numbers == expected.numbers == (0, 1, 2, 3)
    assert found.names == expected.names
    assert "jacobian" in expected.names
    # Sums over ranks are taken in another order.
    for name in expected.names:
        if name == "jacobian":
            spectra = (found.spectra(name), expected.spectra(name))
            for own, other in zip(*map(dict.values, spectra), strict=True):
                scale = float(other.values[-1])
                assert own.values == pytest.approx(other.values, abs=1e-9 * scale)
        else:
            own, other = found.series(name)[1], expected.series(name)[1]
            assert own == pytest.approx(other, rel=1e-6), name


def _tiles(folder: Path) -> list[Path]:
    arrays = folder / "run" / "arrays.zarr"
    return [p for p in arrays.glob("*/c/**/*") if p.is_file() and p.name.isdigit()]


def _wait_for_tiles(processes: Processes) -> None:
    until = time.monotonic() + _SECONDS
    while len(_tiles(processes.folder)) < 4:
        assert time.monotonic() < until
        assert all(rank.poll() is None for rank in processes.ranks)
        time.sleep(0.02)
