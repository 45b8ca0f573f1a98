"""`eigenscope train`: trainings that are recorded, stopped, killed and taken up."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import (
    as_json,
    enter_folder,
    environment,
    factory,
    failed,
    mine,
    numbers_of,
)
from torch import nn

import eigenscope as es
from eigenscope.cli import main
from eigenscope.experiments.training_runs import checkpoint_path
from eigenscope.zoo import load_weights

TINY = """
seed = 3
[model]
name = "nets_of_mine:net"
[data]
name = "nets_of_mine:pairs"
[training]
epochs = 3
batch_size = 7
learning_rate = 0.1
keep_every = 2
[hessian]
per_class = 4
max_probes = 2
max_steps = 8
num_outer = 4
[jacobian]
every = 2
split = "train"
by_class = true
[weights]
every = 3
[curvature]
num_samples = 12
num_matvecs = 6
"""
RUN = Path("run")
GROWING = """
import torch
from torch import nn

class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(6, 3)
        self.register_buffer("steps", torch.zeros(()))
    def forward(self, x):
        self.steps += self.training
        return self.map(x) * (1 if self.training else torch.exp(200 * self.steps))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    found = enter_folder(tmp_path, monkeypatch)
    (tmp_path / "tiny.toml").write_text(TINY)
    return found


def train(capsys, *words: str) -> Any:
    return as_json(capsys, "train", *words)


def test_a_training_records_what_its_file_says(capsys):
    train(capsys, "tiny.toml", "--out", "run")
    run = es.Run.open(RUN)
    assert run.is_complete
    history = es.History.load(run)
    assert history.numbers == (0, 1, 2, 3)
    assert {"loss/train", "loss/test", "accuracy/train", "accuracy/test"} <= set(
        history.names
    )
    spectra = history.spectra("hessian/full")
    assert list(spectra) == [0, 1, 2, 3]
    assert spectra[0].dimension == 6 * 5 + 5 + 5 * 3 + 3
    layers = [n for n in history.names if n.startswith("hessian/")]
    assert layers == ["hessian/full", "hessian/0.weight", "hessian/2.weight"]
    assert list(history.spectra("jacobian")) == [0, 2, 3]  # the last one, too
    assert list(history.spectra("jacobian_class/1")) == [0, 2, 3]
    assert history.spectra("jacobian_class/1")[0].dimension == 8
    assert list(history.spectra("weights/0.weight")) == [0, 3]
    assert history.entries[1]["hessian_trace/full"][1] >= 0
    assert (RUN / "figures/curves.png").stat().st_size > 5000


def test_each_section_is_recorded_from_its_first_epoch_on_and_after_the_last(capsys):
    changes = ["training.epochs=5", "jacobian.first=1", "weights.first=9"]
    train(capsys, "tiny.toml", "--out", "run", "--set", *changes)
    history = es.History.load(es.Run.open(RUN))
    assert list(history.spectra("jacobian")) == [2, 4, 5]
    assert list(history.spectra("jacobian_class/1")) == [2, 4, 5]
    assert list(history.spectra("weights/0.weight")) == [5]
    assert list(history.spectra("hessian/full")) == [0, 1, 2, 3, 4, 5]
    changes = [f"--set={change}" for change in changes]
    planned = as_json(capsys, "plan", "train", "tiny.toml", *changes)
    labels = " ".join(step["name"] for step in planned["steps"])
    assert "jacobian, 3 recordings" in labels


def test_a_network_whose_outputs_overflow_before_training_is_trained(capsys):
    changes = [f"model.name={factory('Overflowing')}", "training.epochs=4"]
    bare = TINY.partition("[hessian]")[0] + "[jacobian]\nfirst = 1\nevery = 4\n"
    Path("bare.toml").write_text(bare)
    train(capsys, "bare.toml", "--out", "run", "--set", *changes)
    history = es.History.load(es.Run.open(RUN))
    assert history.entries[0]["loss/train"] is None
    assert history.entries[4]["loss/train"] < 10
    assert list(history.spectra("jacobian")) == [4]


def test_what_is_recorded_is_what_the_kept_weights_give(capsys):
    train(capsys, "tiny.toml", "--out", "run")
    run = es.Run.open(RUN)
    history = es.History.load(run)
    model = mine().net()
    load_weights(model, checkpoint_path(run, 2))
    x, y = mine().pairs()
    with torch.no_grad():
        outputs = model(x)
    loss = nn.functional.cross_entropy(outputs, y).item()
    assert history.entries[2]["loss/train"] == pytest.approx(loss, rel=1e-6)
    hits = (outputs.argmax(1) == y).double()
    assert history.entries[2]["accuracy/train"] == float(hits.mean())
    of_class = history.entries[2]["jacobian_class_accuracy/1"]
    assert of_class == float(hits[y == 1].mean())
    places = [np.arange(c, 24, 3) for c in range(3)]
    rows = torch.from_numpy(
        np.concatenate(
            [np.random.RandomState(0).choice(p, 4, replace=False) for p in places]
        )
    )
    problem = es.Problem(model, (x[rows], y[rows]), loss=nn.CrossEntropyLoss())
    expected = np.linalg.eigvalsh(es.Hessian(problem).dense().double().numpy())
    found = history.spectra("hessian/full")[2]
    # a space of 53 dimensions: the few outer products find the largest one
    assert found.values[-1] == pytest.approx(expected[-1], rel=1e-4)
    layer = es.layer_blocks(es.Hessian(problem))["2.weight"].dense().double().numpy()
    block = history.spectra("hessian/2.weight")[2]
    assert block.exact
    assert block.trace() == pytest.approx(np.trace(layer), rel=1e-5)
    # power of the recorded eigenvalue on the samples that were asked for
    few = es.Problem(model, (x[:12], y[:12]), loss=nn.CrossEntropyLoss())
    top = np.linalg.eigvalsh(es.Hessian(few).dense().double().numpy())[-1]
    assert history.entries[2]["hessian_top"][0] == pytest.approx(top, rel=1e-3)


def test_a_training_without_measures_gives_the_same_weights(capsys):
    bare = TINY.partition("[hessian]")[0]
    Path("bare.toml").write_text(bare)
    train(capsys, "tiny.toml", "--out", "run")
    train(capsys, "bare.toml", "--out", "bare")
    states = [Path(n) / "results/training.safetensors" for n in ("run", "bare")]
    assert states[0].read_bytes() == states[1].read_bytes()


def test_a_study_goes_on_with_what_is_missing(capsys):
    text = TINY + (
        '[[variants]]\nname = "true"\n'
        '[[variants]]\nname = "noisy"\ndata.label_noise = 1.0\n'
    )
    Path("study.toml").write_text(text)
    train(capsys, "study.toml", "--out", "all")
    before = {name: numbers_of(Path("all") / name) for name in ("true", "noisy")}
    assert before["true"]["results"] != before["noisy"]["results"]
    for file in Path("all/noisy/results").glob("record_*3.json"):
        file.unlink()
    manifest = Path("all/noisy/manifest.json")
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "status": "running"}))
    train(capsys, "--resume", "--out", "all")
    assert {name: numbers_of(Path("all") / name) for name in before} == before


def test_the_published_procedure_is_one_probe_of_128_steps(capsys):
    changes = ["hessian.compatible=true", "training.epochs=1"]
    train(capsys, "tiny.toml", "--out", "run", "--set", *changes)
    history = es.History.load(es.Run.open(RUN))
    found = history.spectra("hessian/full")[1]
    assert not found.exact
    assert found.quadrature is None
    assert found.provenance["num_matvecs"] == 192
    assert len(found.values) == 128  # of a matrix of 53 rows: copies appear
    low, high = np.array(found.provenance["interval"], dtype=float)
    assert low < found.values[0]
    assert found.values[-1] < high


@pytest.mark.message
def test_a_changed_file_is_refused_naming_the_differences(capsys):
    train(capsys, "tiny.toml", "--out", "run", "--set", "training.epochs=1")
    changes = ["training.epochs=1", "training.learning_rate=0.2", "hessian.every=2"]
    message = failed(
        capsys, "train", "tiny.toml", "--resume", "--out", "run", "--set", *changes
    )
    assert "training.learning_rate: 0.1 → 0.2" in message
    assert "hessian.every: 1 → 2" in message
    message = failed(capsys, "train", "tiny.toml", "--out", "run")
    assert "training.epochs: 1 → 3" in message
    assert "train needs an experiment by name" in failed(capsys, "train")
    message = failed(capsys, "train", "--resume", "--out", "nowhere")
    assert "resuming needs a run in nowhere" in message
    message = failed(capsys, "train", "tiny.toml", "--device", "nowhere")
    assert "--device must be one that this torch can use here" in message


@pytest.mark.message
def test_data_that_has_changed_is_refused(capsys):
    train(capsys, "tiny.toml", "--out", "run", "--set", "training.epochs=1")
    (RUN / "results/record_000000001.json").unlink()
    manifest = RUN / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "status": "running"}))
    mine().pairs = lambda: (torch.ones(24, 6), torch.arange(24) % 3)
    message = failed(capsys, "train", "--resume", "--out", "run")
    assert "the data of run differ now" in message


@pytest.mark.message
def test_a_diverged_training_keeps_what_was_recorded_and_says_where(capsys):
    Path("bare.toml").write_text(TINY.partition("[hessian]")[0])
    factors = ["training.learning_rate=1e38", "training.momentum=0"]
    words = ["train", "bare.toml", "--out", "run", "--set", *factors]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert "the loss of run stopped to be finite in epoch 1, step" in message
    run = es.Run.open(RUN)
    assert not run.is_complete
    assert es.History.load(run).numbers == (0,)
    where: Any = run.results["diverged"]
    assert where["epoch"] == 1


@pytest.mark.message
def test_a_network_that_cannot_be_measured_any_more_ends_its_training_alone(capsys):
    """Its losses are finite, its outputs in eval mode are not."""
    Path("growing_nets.py").write_text(GROWING)
    bare = TINY.partition("[hessian]")[0] + "[jacobian]\n"
    wild = '[[variants]]\nname = "wild"\nmodel.name = "growing_nets:Growing"\n'
    Path("two.toml").write_text(f'{bare}{wild}[[variants]]\nname = "tame"\n')
    with pytest.raises(SystemExit):
        main(["train", "two.toml", "--out", "both"])
    message = capsys.readouterr().err
    assert "both/wild can no longer be measured after epoch 1 (learning rate" in message
    assert "the model's output must be finite" in message
    assert "both/tame" not in message
    wild, tame = (es.Run.open(Path("both") / name) for name in ("wild", "tame"))
    assert tame.is_complete
    assert not wild.is_complete
    assert es.History.load(wild).numbers == (0,)
    assert wild.results["epochs"] == 0


def test_experiments_are_listed_with_what_they_are(capsys):
    found = train(capsys, "--list")
    assert found["lenet-fashion-mnist"].startswith("Full and layer-wise Hessian")
    main(["train", "--list"])
    assert "layer-hessians" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_killed_at_random_moments_goes_on_to_the_same_bits():
    script = str(Path(__file__).with_name("killed_training.py"))
    words = ("tiny.toml", "whole", "killed-0", "killed-1")
    done = subprocess.run(
        [sys.executable, script, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert sum(map(int, done.stdout.split())) >= 4
    truth = numbers_of(Path("whole"))
    state = Path("results/training.safetensors")
    for out in (Path("killed-0"), Path("killed-1")):
        assert es.Run.open(out).is_complete
        assert numbers_of(out) == truth
        assert (out / state).read_bytes() == (Path("whole") / state).read_bytes()
        for name in ("record_000000000.json", "record_000000003.json"):
            files = [folder / "results" / name for folder in (Path("whole"), out)]
            assert files[0].read_bytes() == files[1].read_bytes()
