import re
from pathlib import Path

import pytest
from cli_cases import as_json, failed

from eigenscope.cli import main
from eigenscope.store import Run

pytestmark = pytest.mark.vision
OUT = Path("eigenscope-demo")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def computed() -> dict[Path, int]:
    kept = [*OUT.glob("*/arrays.zarr/*/c/**/*"), *OUT.glob("*/results/*")]
    return {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_the_demo_compares_true_with_random_labels_and_keeps_its_work(capsys):
    main(["demo", "--epochs", "2"])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert re.findall(r"^(\w+)-labels +lenet", printed.out, re.MULTILINE) == [
        *("true", "random")
    ]
    page = (OUT / "index.html").read_text()
    assert page.count("data:image/png") == 13
    assert (OUT / "demo.png").read_bytes().startswith(b"\x89PNG")
    before = computed()
    found = as_json(capsys, "demo", "--epochs", "2")
    assert computed() == before
    true, random = found["runs"]["true"], found["runs"]["random"]
    assert true["num_samples"] == random["num_samples"] == 500
    # Two epochs teach something about digits, and eight nothing about chance.
    assert true["accuracy"] > 0.2
    assert random["train_accuracy"] < 0.2
    for run in (true, random):
        assert {"logits_samples", "probabilities_samples"} <= set(run)
    assert f"training {true['train_accuracy']:.1%}" in page
    assert Run.open(OUT / "random-labels").arguments["epochs"] == 8


@pytest.mark.message
def test_a_demo_with_other_options_needs_another_folder(capsys):
    folder = OUT / "true-labels"
    Run.create(folder, verb="demo", arguments={"epochs": 1, "seed": 0}).close()
    message = failed(capsys, "demo", "--epochs", "2")
    assert "epochs: 1 → 2" in message
    assert "--out" in message
