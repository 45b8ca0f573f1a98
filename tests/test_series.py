"""Checkpoint folders, and the same history after a training as during it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import eigenscope as es
from eigenscope import zoo
from eigenscope.store import Run

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(12, 6, generator=SOURCE)
Y = torch.randint(3, (12,), generator=SOURCE)
NUMBERS = (8, 9, 10, 11)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        norm = nn.BatchNorm1d(350)
        return nn.Sequential(nn.Linear(6, 350), norm, nn.Tanh(), nn.Linear(350, 3))


def measures() -> dict[str, Any]:
    loss = nn.CrossEntropyLoss()
    jacobian = es.JacobianSpectrum((X, Y))
    return {
        "top": es.CurvatureEigenvalues((X, Y), loss, k=2),
        "jacobian": jacobian,
        "alpha": es.TailExponent(jacobian),
        "weights": es.WeightSpectra(),
        "gauss": es.CurvatureSpectra((X, Y), loss, kind="gauss-newton", layers=None),
    }


def train(folder: Path, run: Run | None = None) -> None:
    """Four steps; a checkpoint of each, in one format after another."""
    model = network()
    recorder = es.Recorder(run, measures()) if run else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    folder.mkdir()
    for number in NUMBERS:
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % 2:
            zoo.save_weights(model, folder / f"step_{number}.safetensors")
        else:
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(content, folder / f"step_{number}.pt")
        if recorder is not None:
            recorder.record(model, number)


def contents(history: es.History) -> dict[int, dict[str, Any]]:
    """Numbers as they are, and spectra as lists."""
    return {
        number: {
            name: history.spectra(name)[number].values.tolist()
            if isinstance(entry, dict)
            else entry
            for name, entry in entries.items()
        }
        for number, entries in history.entries.items()
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, dict[int, dict[str, Any]]]:
    """Return the checkpoints, and what was recorded during the training."""
    folder = tmp_path_factory.mktemp("series")
    with Run.create(folder / "run", verb="train", arguments={}) as run:
        train(folder / "saved", run)
        return folder / "saved", contents(es.History.load(run))


def test_a_series_is_what_the_recorder_gave_to_the_bit(recorded, tmp_path):
    folder, expected = recorded
    model = network()
    before = [p.clone() for p in model.parameters()]
    with Run.create(tmp_path / "run", verb="series", arguments={}) as run:
        history = es.record_series(run, model, folder, measures())
    assert history.numbers == NUMBERS
    assert contents(history) == expected
    assert all(map(torch.equal, model.parameters(), before))


def test_processes_give_the_same_to_the_tolerance(recorded, tmp_path):
    folder, expected = recorded
    with Run.create(tmp_path / "run", verb="series", arguments={}) as run:
        history = es.record_series(run, network(), folder, measures(), processes=2)
    found = contents(history)
    assert found.keys() == expected.keys()
    for number, entries in expected.items():
        assert list(found[number]) == list(entries)
        for name, value in entries.items():
            mine = found[number][name]
            if name.startswith("top"):  # another start: eigenvalues to the residual
                assert abs(mine[0] - value[0]) <= 1e-4 * abs(value[0])
            else:
                assert mine == value or mine == pytest.approx(value, rel=1e-5)


def test_a_series_that_was_cut_goes_on_to_the_same(recorded, tmp_path):
    folder, expected = recorded
    path = tmp_path / "run"
    with Run.create(path, verb="series", arguments={}) as run:
        found = measures()
        calls: list[int] = []
        inner = found["weights"]

        def stopping(model: nn.Module) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return inner(model)

        with pytest.raises(KeyboardInterrupt):
            es.record_series(run, network(), folder, found | {"weights": stopping})
        assert es.History.load(run).numbers == NUMBERS[:2]
    with Run.resume(path, verb="series", arguments={}) as run:
        history = es.record_series(run, network(), folder, measures())
    assert contents(history) == expected


@pytest.mark.parametrize("processes", [1, 2])
def test_a_series_goes_on_with_as_many_threads_as_it_began_with(
    recorded, tmp_path, monkeypatch, processes
):
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    path = tmp_path / "run"
    options: dict[str, Any] = {"processes": processes}
    options["schedule"] = es.Schedule.at([8])  # in this process
    given = {"weights": es.WeightSpectra()}
    with Run.create(path, verb="series", arguments={}) as run:
        es.record_series(run, network(), recorded[0], given, **options)
        assert run.settings["num_threads"] == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    with Run.resume(path, verb="series", arguments={}) as run:
        es.record_series(run, network(), recorded[0], given, **options)
    assert used == [3, 3, 3, 5]


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads({threads})
sys.path.insert(0, {tests!r})
import test_series as t
import eigenscope as es
path = Path({path!r})
open_run = es.Run.resume if path.exists() else es.Run.create
with open_run(path, verb="series", arguments={{}}) as run:
    es.record_series(run, t.network(), {folder!r}, t.measures())
"""


@pytest.mark.slow
def test_a_series_that_is_killed_goes_on_to_the_same(recorded, tmp_path):
    folder, expected = recorded
    path = tmp_path / "run"
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        path=str(path),
        folder=str(folder),
        threads=torch.get_num_threads(),
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words) as process:
        limit = time.monotonic() + 600
        while not list(path.glob("results/record_*.json")):
            assert time.monotonic() < limit
            assert process.poll() in {None, 0}
            time.sleep(0.005)
        process.kill()
    subprocess.run(words, check=True, env=dict(os.environ))
    # As many threads: sums are split alike, and another process rounds alike.
    assert contents(es.History.load(Run.open(path))) == expected


def touch(folder: Path, *names: str) -> None:
    for name in names:
        folder.joinpath(name).touch()


def test_numbers_count_as_numbers_and_gaps_are_found(tmp_path):
    touch(tmp_path, "step_9.pt", "step_10.pt", "step_8.pt", "step_12.pt", ".hidden")
    found = es.find_checkpoints(tmp_path)
    assert list(found.paths) == [8, 9, 10, 12]
    assert found.paths[9].name == "step_9.pt"
    assert (found.counter, found.gaps, found.foreign) == ("step", ((10, 12),), {})


def test_numbers_at_equal_ratios_have_no_gaps(tmp_path):
    touch(tmp_path, *(f"ckpt{2**i}.pth" for i in range(6)))
    found = es.find_checkpoints(tmp_path)
    assert list(found.paths) == [1, 2, 4, 8, 16, 32]
    assert found.gaps == ()
    assert found.counter == ""


def test_layouts_of_lightning_are_recognized(tmp_path):
    touch(tmp_path, *(f"epoch={e}-step={10 * e}.ckpt" for e in (0, 2, 1)))
    touch(tmp_path, "last.ckpt", "hparams.yaml", "epoch=3-step=30-v1.ckpt")
    found = es.find_checkpoints(tmp_path)
    assert list(found.paths) == [0, 10, 20, 30]
    assert found.foreign == {
        "hparams.yaml": "is no weight file",
        "last.ckpt": "has no number in its name",
    }
    by_epoch = es.find_checkpoints(tmp_path, counter="epoch")
    assert list(by_epoch.paths) == [0, 1, 2, 3]


def test_names_with_other_numbers_are_read_by_their_counter(tmp_path):
    touch(tmp_path, "resnet18_epoch2.pt", "resnet18_epoch10.pt", "resnet18.pt")
    found = es.find_checkpoints(tmp_path)
    assert (list(found.paths), found.counter) == ([2, 10], "epoch")
    assert "resnet18.pt" in found.foreign


def test_weights_of_hugging_face_folders_and_lightning_load(tmp_path):
    model = network()
    state = model.state_dict()
    names = sorted(state)
    plain, sharded = tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"
    binary = tmp_path / "checkpoint-3"
    for folder in (plain, sharded, binary):
        folder.mkdir()
    save_file(state, plain / "model.safetensors")
    parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, some in parts.items():
        save_file({name: state[name] for name in some}, sharded / file)
    index = {"weight_map": {n: file for file, some in parts.items() for n in some}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save(state, binary / "pytorch_model.bin")
    wrapped = {f"net.{name}": value for name, value in state.items()}
    wrapped["metric.total"] = torch.ones(1)
    torch.save({"state_dict": wrapped, "epoch": 4}, tmp_path / "checkpoint-4.ckpt")
    found = es.find_checkpoints(tmp_path)
    assert list(found.paths) == [1, 2, 3, 4]
    for path in found.paths.values():
        loaded = network()
        for parameter in loaded.parameters():
            nn.init.zeros_(parameter)
        assert zoo.weight_faults(loaded, [path]) == []
        zoo.load_weights(loaded, path)
        assert all(torch.equal(v, state[n]) for n, v in loaded.state_dict().items())


@pytest.mark.message
def test_folders_without_a_series_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"):
        es.find_checkpoints(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds none, it is empty"):
        es.find_checkpoints(tmp_path)
    touch(tmp_path, "notes.txt")
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(
        ValueError, match=r"none: checkpoint-5 is a folder without any of model\.safe"
    ):
        es.find_checkpoints(tmp_path)
    touch(tmp_path, "epoch=1-step=5.ckpt", "epoch=2-step=5.ckpt")
    touch(tmp_path, "step_7.pt", "step_07.pt")
    both = r"step=5\.ckpt and .* both have 5, step_07\.pt and .* both have 7\. Name the"
    with pytest.raises(ValueError, match=both):
        es.find_checkpoints(tmp_path)
    with pytest.raises(ValueError, match="such as 'epoch', 'step'; got 'batch'"):
        es.find_checkpoints(tmp_path, counter="batch")
    assert list(es.find_checkpoints(tmp_path, counter="epoch").paths) == [1, 2]
    found = es.find_checkpoints(tmp_path, counter="epoch")
    assert found.foreign["step_7.pt"] == "has no number of 'epoch' in its name"


@pytest.mark.message
def test_what_is_foreign_is_told_or_refused_and_what_is_corrupt_stops(
    recorded, tmp_path
):
    folder, expected = recorded
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").touch()
    (tmp_path / "step_9.safetensors").unlink()
    some: Any = {"weights": es.WeightSpectra()}
    with Run.create(tmp_path / "run", verb="series", arguments={}) as run:
        (tmp_path / "step_15.pt").write_bytes(b"not weights")
        torch.save(nn.Linear(6, 2).state_dict(), tmp_path / "step_16.pt")
        whole = folder / "step_11.safetensors"
        (tmp_path / "step_17.safetensors").write_bytes(whole.read_bytes()[:-1])
        torch.save(nn.Linear(6, 2), tmp_path / "step_18.pt")
        wrong = (
            r"every checkpoint .* 4 of 7 do not[\s\S]*"
            r"- .*step_15\.pt .* is truncated, corrupt[\s\S]*"
            r"- .*step_16\.pt does not fit the Sequential[\s\S]*"
            r"- .*step_17\.safetensors .* is truncated, corrupt[\s\S]*"
            r"- .*step_18\.pt holds more than tensors"
        )
        with (
            pytest.warns(UserWarning, match=r"not checkpoints: notes.txt is no weight"),
            pytest.raises(ValueError, match=wrong),
        ):
            es.record_series(run, network(), tmp_path, some)
        assert es.History.load(run).numbers == ()
        assert [*expected] == list(NUMBERS)
        with pytest.raises(ValueError, match=r"alone, without gaps; .*notes\.txt is"):
            es.record_series(run, network(), tmp_path, some, foreign="refuse")
        with pytest.raises(ValueError, match="foreign must be one of 'skip', 'refuse'"):
            es.record_series(run, network(), folder, some, foreign="stop")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="processes must be at least 1; got 0"):
            es.record_series(run, network(), folder, some, processes=0)
    with Run.create(tmp_path / "other", verb="series", arguments={}) as run:
        unpicklable: Any = {"norm": lambda _: 1.0}
        with pytest.raises(TypeError, match=r"must be picklable .*\(no lambda\), or"):
            es.record_series(run, network(), folder, unpicklable, processes=2)
        with pytest.raises(ValueError, match="does not fit the Linear"):
            es.record_series(run, nn.Linear(2, 2), folder, unpicklable)


@pytest.mark.message
def test_gaps_are_told(tmp_path):
    model = nn.Linear(2, 2)
    for step in (1, 2, 3, 6):
        zoo.save_weights(model, tmp_path / f"step_{step}.safetensors")
    some: Any = {"weights": es.WeightSpectra()}
    even = es.Schedule.every(2)
    run = Run.create(tmp_path.parent / "gaps", verb="series", arguments={})
    with pytest.warns(UserWarning, match="seem to be missing between 3 and 6"):
        history = es.record_series(run, model, tmp_path, some, schedule=even)
    run.close()
    assert history.numbers == (2, 6)
    assert run.results["gaps"] == [[3, 6]]


@pytest.mark.message
def test_folders_of_weights_that_are_damaged_are_refused(tmp_path):
    model, folder = network(), tmp_path / "checkpoint-1"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold one of model\.safetensors"):
        zoo.load_weights(model, folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json \(2 bytes\) is truncated, corr"):
        zoo.load_weights(model, folder)
