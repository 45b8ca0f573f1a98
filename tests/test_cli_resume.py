import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_cases import (
    MODULE,
    OWN,
    as_json,
    called,
    enter_folder,
    failed,
    mine,
    numbers_of,
)

from eigenscope import zoo
from eigenscope.cli.arguments import arguments_of
from eigenscope.cli.parsing import parse
from eigenscope.store import Run

RUN = Path("run")
CHOSEN = [
    *("--seed", "3", "--batch-size", "7", "--output", "probabilities"),
    *("--num-samples", "20", "--vectors", "1", "--out", "run"),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def take_away(path: Path) -> None:
    """Leave a run as a killed process might: without its later tiles and spectra."""
    shutil.rmtree(path / "arrays.zarr/gram_probabilities_samples/c")
    (path / "results/eigenpairs_probabilities_samples.npz").unlink()
    (path / "results/spectrum_probabilities_samples.npz").unlink()


@pytest.mark.parametrize("repeated", [[], CHOSEN[:4], [*OWN[1:], *CHOSEN]])
def test_options_that_are_not_given_are_those_of_the_run(capsys, repeated):
    as_json(capsys, *OWN, *CHOSEN)
    before = numbers_of(RUN)
    take_away(RUN)
    words = [*repeated, "--out", "run", "--resume", "--memory", "1GiB"]
    as_json(capsys, "jacobian", *words)
    run = Run.open(RUN)
    assert run.is_complete
    assert len(run.manifest.resumes) == 1
    assert numbers_of(RUN) == before


def test_a_run_goes_on_from_another_directory(here, capsys, monkeypatch):
    zoo.save_weights(mine().net(), "net.safetensors")
    as_json(capsys, *OWN, *CHOSEN, "--weights", "net.safetensors")
    before = numbers_of(RUN)
    take_away(RUN)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    as_json(capsys, "jacobian", "--resume", "--out", "../run")
    assert numbers_of(here / "run") == before


def test_resuming_a_complete_run_only_draws_it_again(capsys):
    as_json(capsys, *OWN, "--out", "run")
    before = {p: p.stat().st_mtime_ns for p in RUN.glob("arrays.zarr/*/c/**/*")}
    page = (RUN / "index.html").read_text()
    (RUN / "index.html").unlink()
    as_json(capsys, "jacobian", "--resume", "--out", "run")
    after = {p: p.stat().st_mtime_ns for p in RUN.glob("arrays.zarr/*/c/**/*")}
    assert after == before
    assert not Run.open(RUN).manifest.resumes
    assert len((RUN / "index.html").read_text()) == pytest.approx(len(page), rel=0.01)


@pytest.mark.message
@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--seed", "4"], "seed: 3 → 4"),
        (["--seed", "0"], "seed: 3 → 0"),  # given, though it is the default
        (["--batch-size", "8"], "batch_size: 7 → 8"),
        (["--num-samples", "None"], "num_samples: 20 → null"),
        (["--output", "logits"], r'outputs: ["probabilities"] → ["logits"]'),
        (["--layout", "outputs"], r'layouts: ["samples"] → ["outputs"]'),
        (["--model", "lenet"], f'model: "{MODULE}:net" → "lenet"'),
        (["--dtype", "float64"], 'dtype: "float32" → "float64"'),
    ],
)
def test_resuming_with_another_option_lists_what_differs(capsys, words, difference):
    Run.create(RUN, verb="jacobian", arguments=recorded()).close()
    message = failed(capsys, "jacobian", "--resume", "--out", "run", *words)
    assert f"differ (old → new): {difference};" in message


def recorded() -> dict[str, Any]:
    options: Any = parse([*OWN, *CHOSEN])
    return arguments_of(options)


@pytest.mark.message
def test_resuming_with_other_weights_or_data_says_which(capsys):
    zoo.save_weights(mine().net(), "net.safetensors")
    as_json(capsys, *OWN, *CHOSEN, "--weights", "net.safetensors")
    before = numbers_of(RUN)
    zoo.save_weights(mine().net().double().requires_grad_(False), "copy.safetensors")
    again = ["jacobian", "--resume", "--out", "run"]
    message = failed(capsys, *again, "--weights", "copy.safetensors")
    assert re.search(
        r'weights: ".*/net\.safetensors" → ".*/copy\.safetensors"', message
    )
    other = mine().net()
    torch.nn.init.ones_(other[0].weight)
    zoo.save_weights(other, "net.safetensors")
    assert "the weights of run differ now" in failed(capsys, *again)
    zoo.save_weights(mine().net(), "net.safetensors")
    mine().pairs = lambda num_samples: (
        torch.ones(num_samples, 6),
        torch.arange(20) % 3,
    )
    assert "the data of run differ now" in failed(capsys, *again)
    assert numbers_of(RUN) == before


@pytest.mark.message
def test_only_a_run_of_the_same_verb_can_be_resumed(capsys):
    again = ["jacobian", "--resume", "--out", "run"]
    assert "resuming needs a run in run" in failed(capsys, *again)
    Run.create(RUN, verb="demo", arguments={"model": "lenet", "seed": 5}).close()
    assert "verb: demo → jacobian" in failed(capsys, *again)


@pytest.mark.message
def test_a_run_that_is_being_written_cannot_be_resumed(capsys):
    with Run.create(RUN, verb="jacobian", arguments=recorded()):
        message = failed(capsys, "jacobian", "--resume", "--out", "run")
    assert f"being written by process {os.getpid()}" in message


@pytest.mark.slow
def test_a_run_killed_at_random_moments_goes_on_to_the_same_bits():
    outs = [f"killed-{number}" for number in range(2)]
    script = str(Path(__file__).with_name("killed_cli.py"))
    done = called("whole", *outs, program=[script])
    assert done.returncode == 0, done.stderr
    truth = numbers_of(Path("whole"))
    for out in outs:
        assert Run.open(Path(out)).is_complete
        assert Run.open(Path(out)).manifest.resumes
        assert numbers_of(Path(out)) == truth
