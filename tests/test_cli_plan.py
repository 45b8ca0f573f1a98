"""`eigenscope plan VERB`: every verb, as a table and as JSON; nothing is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed
from torch import nn

import eigenscope as es
from eigenscope.cli import main
from eigenscope.cli import plan as planned
from eigenscope.zoo import save_weights

LAST = "figures and page"
RUN_STAGES = "6 stages, safe on disk one by one"
EXPERIMENT = """
[model]
name = "lenet"
[data]
name = "digits"
num_train = 100
num_test = 60
[training]
epochs = 4
batch_size = 50
learning_rate = 0.01
[hessian]
per_class = 1
every = 2
layers = "none"
max_probes = 2
max_steps = 2
num_outer = 0
tolerance = 0
[weights]
every = 4
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(planned, "_EFFORT", 1e-3)
    return enter_folder(tmp_path, monkeypatch)


def own() -> list[str]:
    return ["--model", factory("net"), "--data", factory("pairs")]


def steps_of(capsys, *words: str) -> dict[str, dict[str, Any]]:
    found = as_json(capsys, "plan", *words)
    return {step["name"]: step for step in found["steps"]}


def test_a_jacobian_is_planned(capsys, here):
    words = ["jacobian", *own(), "--replicas", "5"]
    steps = steps_of(capsys, *words)
    assert list(steps) == [
        "preparation",
        "InputJacobian.write",
        "Gram matrix, logits, samples",
        "eigenvalues, logits, samples",
        "tail fits",
        "bootstrap, 5 replicas",
        "run",
        LAST,
    ]
    assert steps["InputJacobian.write"]["backward"] == 24 * 3
    assert steps["run"]["method"] == RUN_STAGES
    assert steps["run"]["seconds"] > 0
    assert not (here / "runs").exists()


def test_a_gram_matrix_beyond_the_budget_is_planned_from_its_tiles(capsys):
    wide = ["--model", factory("net"), "--data", factory("wide_pairs")]
    words = ["jacobian", *wide, "--layout", "outputs", "--memory", "64kB"]
    assert steps_of(capsys, *words)["eigenvalues, logits, outputs"]["method"] == (
        "slq from tiles"
    )


@pytest.mark.parametrize("verb", ["jacobian", "ntk", "hessian"])
def test_a_plan_is_held_against_the_budget_of_the_command_line(capsys, verb):
    main(["plan", verb, *own(), "--memory", "3MiB"])
    assert "exceed the memory budget of 3.0 MiB" in capsys.readouterr().out


def test_kernels_and_their_components_are_planned(capsys):
    kinds = ["--kernel", "trace", "conjugate", "--components", "parameter"]
    steps = steps_of(capsys, "ntk", *own(), *kinds)
    assert (
        steps["parameter: NTK.write"]["disk_bytes"]
        == 4 * (steps["NTK.write"]["disk_bytes"])
    )
    assert {"conjugate kernel", "eigenvalues, conjugate", LAST} <= steps.keys()


def test_classes_and_verification_are_planned(capsys):
    steps = steps_of(capsys, "hessian", *own(), "--classes", "--verify", "--top", "2")
    assert {"means by class", "whole: eigenvalues", "2 eigenpairs"} <= steps.keys()
    assert {"verify: products for all checks", "total: 6 eigenpairs"} <= steps.keys()


@pytest.mark.vision
def test_a_training_is_planned_with_the_measures_that_are_due(capsys, here):
    (here / "mine.toml").write_text(EXPERIMENT)
    steps = steps_of(capsys, "train", "mine.toml")
    assert steps["training"]["backward"] == 4 * 100
    assert steps["loss and accuracy"]["forward"] == 5 * 160
    assert steps["hessian, 3 recordings"]["backward"] == 3 * 10 * 2 * 4
    assert "weights, 2 recordings" in steps
    assert not (here / "runs").exists()


def test_a_series_is_planned(capsys, here):
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    for number in range(3):
        save_weights(net, here / "checkpoints" / f"epoch_{number}.safetensors")
    steps = steps_of(capsys, "series", *own(), "--measure", "weights")
    assert list(steps) == ["weights of 3 checkpoints", "weights"]


def test_weights_and_fits_are_planned(capsys, here):
    assert "singular values of weights" in steps_of(capsys, "weights", *own())
    np.save(here / "values.npy", np.arange(1.0, 500.0))
    steps = steps_of(capsys, "fit", "values.npy", "--replicas", "3")
    assert list(steps) == ["tail fits", "bootstrap, 3 replicas"]


@pytest.mark.vision
def test_the_demo_is_planned(capsys):
    steps = steps_of(capsys, "demo", "--epochs", "2")
    assert steps["training"]["passes"] == 2 + 8
    assert steps["InputJacobian.write"]["passes"] == 2


@pytest.fixture
def recorded(here: Path) -> list[str]:
    data = (torch.eye(3), torch.arange(3))
    spectra = es.CurvatureSpectra(data, nn.CrossEntropyLoss(), layers="weights")
    for name in ("a", "b"):
        run = es.Run.create(here / name, verb="train", arguments={})
        with run:
            recorder = es.Recorder(run, {"hessian": spectra})
            for epoch in range(2):
                recorder.record(nn.Linear(3, 3), epoch)
    return ["a", "b"]


@pytest.mark.vision
def test_stored_runs_are_planned_from_one_of_each_kind(capsys, here, recorded):
    steps = steps_of(capsys, "match", *recorded, "--animate")
    assert steps["distances"]["method"] == "4 pairs of spectra"
    assert steps["figures"]["method"] == "8 figures"
    assert steps["pictures of films"]["method"] == "4 figures"
    steps = steps_of(capsys, "report", *recorded)
    assert steps["runs of train"]["method"] == "2 runs"
    assert "with 8 spectra are read" in steps["runs of train"]["reason"]
    assert "runs of train" in steps_of(capsys, "info", "a")
    assert sorted(path.name for path in here.glob("*.html")) == []


def keep_run(verb: str, name: str, *words: str) -> None:
    main([verb, *own(), *words, "--out", name, "--json"])


def test_comparing_jacobians_is_planned(capsys, here):
    for name, seed in (("one", "0"), ("two", "1")):
        keep_run("jacobian", name, "--seed", seed)
    capsys.readouterr()
    before = sorted(here.rglob("*"))
    steps = steps_of(capsys, "compare", "one", "two")
    assert list(steps) == ["runs of jacobian"]
    assert steps["runs of jacobian"]["method"] == "2 runs"
    assert steps["runs of jacobian"]["seconds"] > 0
    assert sorted(here.rglob("*")) == before


def test_comparing_trainings_is_planned_also_for_a_folder_of_them(
    capsys, here, recorded
):
    assert steps_of(capsys, "compare", *recorded)["runs of train"]["method"] == "2 runs"
    made = as_json(capsys, "compare", *recorded, "--out", "both")["files"]
    assert made == ["both/trainings.csv", "both/series.csv"]  # no numbers to draw
    (here / "study").mkdir()
    for name in recorded:
        (here / name).rename(here / "study" / name)
    found = steps_of(capsys, "compare", "study")
    assert found["runs of train"]["method"] == "2 runs"


@pytest.mark.message
@pytest.mark.usefixtures("recorded")
def test_a_comparison_that_cannot_be_made_is_refused_as_by_compare(capsys, here):
    keep_run("jacobian", "one")
    keep_run("jacobian", "two", "--layout", "outputs")
    es.Run.create(here / "kernels", verb="ntk", arguments={}).close()
    capsys.readouterr()
    for words, said in {
        ("one", "two"): "two must hold the spectrum logits_samples to be compared",
        ("one", "kernels"): "kernels is one of `eigenscope ntk`",
        ("a", "one"): "one is a run of the verb jacobian with 0 recordings",
        ("one", "one"): "none of them twice",
        ("one", "--out", "one"): "must not go into the folder of a run; one is one",
        ("a", "--out", "one"): "must not go into the folder of a run; one is one",
    }.items():
        before = failed(capsys, "plan", "compare", *words)
        itself = failed(capsys, "compare", *words)
        assert said in before
        assert before == itself


def test_ranks_share_what_is_dealt_out(capsys):
    alone = steps_of(capsys, "jacobian", *own())["InputJacobian.write"]
    words = ("plan", "--ranks", "2", "jacobian", *own())
    found = as_json(capsys, *words)
    shared = found["steps"][1]
    assert shared["backward"] == alone["backward"] / 2
    assert "each of 2 ranks" in found["remarks"][0]


def test_a_plan_is_a_table(capsys):
    main(["plan", "jacobian", *own()])
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == [
        *("step", "passes", "flops", "memory", "disk", "time")
    ]
    assert "1 + 3" in printed
    assert "fits: " in printed.splitlines()[-1]
    main(["plan", "info"])
    assert "fits: 0 B" in capsys.readouterr().out


@pytest.mark.message
def test_fewer_ranks_than_one_are_refused(capsys):
    words = ("plan", "--ranks", "0", "jacobian", *own())
    assert "--ranks must be at least 1; got 0" in failed(capsys, *words)
