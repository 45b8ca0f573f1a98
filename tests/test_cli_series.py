"""Checkpoints by the command line."""

from pathlib import Path

import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed, mine
from torch import nn

import eigenscope as es
from eigenscope import zoo
from eigenscope.cli import main
from eigenscope.store import Run

OWN = ["series", "--model", factory("net"), "--data", factory("pairs")]
ALL = [*OWN, "--measure", "hessian", "top", "trace", "jacobian", "weights", "alignment"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def write(*numbers: int) -> None:
    for number in numbers:
        model = mine().net()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + number / 10)
        zoo.save_weights(model, Path("checkpoints") / f"step_{number}.safetensors")


def test_series_measures_every_checkpoint_in_order(capsys):
    write(10, 9, 11)
    main(ALL)
    printed = capsys.readouterr()
    assert printed.err == ""
    header = printed.out.splitlines()[0].split()
    assert header == ["step", "9", "10", "11"]
    run = Run.open(Path("runs/series"))
    assert run.is_complete
    history = es.History.load(run)
    assert history.numbers == (9, 10, 11)
    model = mine().net().eval()
    zoo.load_weights(model, Path("checkpoints/step_10.safetensors"))
    x, y = mine().pairs()
    hessian = es.CurvatureSpectra((x, y), nn.CrossEntropyLoss(), layers="weights")
    for name, spectrum in hessian(model).items():
        found = history.spectra(f"hessian/{name}")[10]
        assert es.wasserstein(found, spectrum) <= 1e-5 * abs(spectrum.values).max()
    expected = {"layer_w1", "hessian_top", "hessian_trace", "jacobian_alpha"}
    assert expected < {name.partition("/")[0] for name in history.names}


def test_series_tells_gaps_and_foreign_files_and_resumes(capsys):
    write(2, 4, 6, 10)
    Path("checkpoints/notes.txt").touch()
    main([*OWN, "--measure", "weights", "--every", "4"])
    assert es.History.load(Run.open(Path("runs/series"))).numbers == (4,)
    told = capsys.readouterr().err
    assert "notes.txt is no weight file" in told
    assert "seem to be missing between 6 and 10" in told
    write(8, 12)
    found = as_json(capsys, "series", "--resume")
    column = next(iter(found["numbers"].values()))
    assert list(column) == ["4", "8", "12"]


@pytest.mark.message
def test_what_is_wrong_with_a_series_is_said_before_it_begins(capsys):
    assert "there is no folder checkpoints" in failed(capsys, *OWN)
    write(1, 2)
    assert "leave it out" in failed(capsys, *[*OWN, "--weights", "a.pt"]).lower()
    assert "interval must be at least 1" in failed(capsys, *[*OWN, "--every", "0"])
    for number in (3, 4):
        Path(f"checkpoints/step_{number}.pt").write_bytes(b"cut off")
    for words in (OWN, ["plan", *OWN]):
        told = failed(capsys, *words)
        assert "2 of 4 do not" in told
        assert "step_3.pt (7 bytes) is truncated" in told
        assert "step_4.pt (7 bytes) is truncated" in told
    Path("checkpoints/notes.txt").touch()
    assert "--foreign skip" in failed(capsys, *OWN, "--foreign", "refuse")
    assert not Path("runs/series").exists()


def test_data_of_mappings_is_measured_as_well():
    model = mine().Scaled()
    zoo.save_weights(model, Path("checkpoints/step_1.safetensors"))
    words = ["series", "--model", factory("Scaled"), "--data", factory("mappings")]
    main([*words, "--measure", "top", "weights"])
    history = es.History.load(Run.open(Path("runs/series")))
    assert "hessian_top" in history.names
