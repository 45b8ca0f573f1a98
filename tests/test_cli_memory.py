"""Every verb has a memory budget, which its plan is held against as well."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed
from torch import nn

import eigenscope as es
from eigenscope.cli import main, options
from eigenscope.cli import plan as planned

OWN = ("--model", factory("net"), "--data", factory("pairs"))
READING = {
    "report": "the results of 2 runs, read by `report`,",
    "compare": "the results of 2 runs, read by `compare`,",
    "match": "the results of the largest run, read by `match`,",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(planned, "_EFFORT", 1e-3)
    return enter_folder(tmp_path, monkeypatch)


@pytest.fixture
def recorded(here: Path) -> tuple[str, ...]:
    data = (torch.eye(3), torch.arange(3))
    spectra = es.CurvatureSpectra(data, nn.CrossEntropyLoss(), layers="weights")
    for name in ("a", "b"):
        with es.Run.create(here / name, verb="train", arguments={}) as run:
            es.Recorder(run, {"hessian": spectra}).record(nn.Linear(3, 3), 0)
    return "a", "b"


def test_every_verb_has_the_option():
    verbs = [kind for name, kind in vars(options).items() if name.endswith("Options")]
    lacking = {
        kind.__name__
        for kind in verbs
        if isinstance(kind, type) and "memory" not in {f.name for f in fields(kind)}
    }
    assert lacking == {"PlanOptions"}  # it has a verb's own


@pytest.mark.message
def test_what_is_no_size_is_refused_by_verbs_that_need_none(capsys):
    for verb in ("info", "train", "demo"):
        said = refused(capsys, verb, "--memory", "1x")
        assert "a memory size must be a number of bytes or a number with a unit" in said


def refused(capsys, *words: str) -> str:
    """What the verb says, which its plan says, too."""
    said = failed(capsys, *words)
    assert said == failed(capsys, "plan", *words)
    return said


@pytest.mark.message
@pytest.mark.parametrize(
    "verb", [pytest.param("report", marks=pytest.mark.plotly), "compare", "match"]
)
def test_stored_runs_beyond_the_budget_are_not_read(capsys, here, recorded, verb):
    before = sorted(here.rglob("*"))
    said = refused(capsys, verb, *recorded, "--memory", "1kB")
    assert READING[verb] in said
    assert "must fit the memory budget of 1000 B" in said
    assert "or name fewer runs" in said
    assert sorted(here.rglob("*")) == before


@pytest.mark.message
@pytest.mark.usefixtures("recorded")
def test_a_run_is_shown_within_a_budget(capsys):
    said = refused(capsys, "info", "a", "--memory", "9B")
    assert "the run's results, read by `info`, must fit" in said
    main(["info", "a", "--memory", "1MB"])
    assert "no spectrum yet" in capsys.readouterr().out


@pytest.mark.message
@pytest.mark.parametrize("file", ["values.npy", "values.txt", "values.npz"])
def test_a_tail_is_fitted_within_a_budget(capsys, here, file):
    values = np.arange(1.0, 1000.0)
    np.save(here / "values.npy", values)
    np.savetxt(here / "values.txt", values)
    es.Spectrum.from_eigenvalues(values).save(here / "values.npz")
    least = 170 * len(values)
    said = refused(capsys, "fit", file, "--memory", str(least - 1))
    if file == "values.txt":
        assert "as they are read, must fit the memory budget" in said
        least = 9 * (here / file).stat().st_size
    else:
        assert "the tails of 999 values must fit" in said
        assert (
            f"memory={least} (--memory {least}) or above, or fit some of them" in said
        )
    free = as_json(capsys, "fit", file)
    assert as_json(capsys, "fit", file, "--memory", str(least)) == free
    assert "as they are read" in refused(capsys, "fit", file, "--memory", "1kB")


@pytest.mark.message
def test_weights_are_decomposed_within_a_budget(capsys, here):
    least = 24 * 6 * 5  # of the larger of two weights
    said = failed(capsys, "weights", *OWN, "--memory", str(least - 1))
    assert "the spectrum of '0.weight' must fit the memory budget of 719 B" in said
    assert not (here / "weights").exists()
    main(["plan", "weights", *OWN, "--memory", str(least - 1)])
    assert "exceed the memory budget of 719 B" in capsys.readouterr().out
    words = ("weights", *OWN, "--memory", str(least), "--out")
    free = as_json(capsys, "weights", *OWN, "--out", "free")["weights"]
    assert as_json(capsys, *words, "tight")["weights"] == free


@pytest.mark.vision
@pytest.mark.message
def test_the_demo_trains_nothing_that_does_not_fit(capsys, here):
    said = refused(capsys, "demo", "--memory", "1MB")
    assert "the digits and a LeNet that is trained must fit" in said
    assert not (here / "eigenscope-demo").exists()
