"""`eigenscope compare` on trainings, and `eigenscope weights`."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed, mine
from plot_cases import legend_of

import eigenscope as es
from eigenscope.plots import save_figure

TINY = """
[model]
name = "nets_of_mine:net"
[data]
name = "nets_of_mine:pairs"
[training]
epochs = 2
batch_size = 7
learning_rate = 0.1
[jacobian]
by_class = true
[weights]
[curvature]
num_matvecs = 6
[[variants]]
name = "true"
[[variants]]
name = "random"
data.label_noise = 1.0
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    enter_folder(tmp_path, monkeypatch)
    Path("labels.toml").write_text(TINY)


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_trainings_are_drawn_and_tabulated_side_by_side(capsys):
    as_json(capsys, "train", "labels.toml", "--out", "runs")
    left = Path("comparison/.curves.png.abc.partial")
    left.parent.mkdir()
    left.touch()
    found = as_json(capsys, "compare", "runs", "--out", "comparison")
    assert not left.exists()  # of a writer that was killed
    names = {Path(file).name for file in found["files"]}
    assert names == {
        *("trainings.csv", "series.csv", "weights.csv", "curves.png"),
        *("jacobian_spectra.png", "jacobian_evolution.png"),
        *("00_classes.png", "01_classes.png", "classes.csv"),
        *("00_class_numbers.png", "01_class_numbers.png"),
    }
    table = rows_of("comparison/trainings.csv")
    assert [row["label_noise"] for row in table] == ["1.0", "0.0"]  # by folder
    for row, name in zip(table, ("random", "true"), strict=True):
        history = es.History.load(es.Run.open(Path("runs") / name))
        spectrum = history.spectra("jacobian")[2]
        assert float(row["jacobian_lambda_max"]) == spectrum.values[-1]
        entry = history.entries[2]
        assert float(row["hessian_lambda_max"]) == entry["hessian_top"][0]
        assert float(row["hessian_trace"]) == entry["hessian_trace/full"][0]
        assert float(row["accuracy_test"]) == entry["accuracy/test"]
    classes = rows_of("comparison/classes.csv")
    assert len(classes) == 2 * 3 * 3
    history = es.History.load(es.Run.open(Path("runs/true")))
    for row in classes[9:]:
        number = row["class"]
        assert (row["run"], row["class_name"]) == ("true", f"class {number}")
        entry = history.entries[int(row["epoch"])]
        assert float(row["accuracy"]) == entry[f"jacobian_class_accuracy/{number}"]
        spectra = history.spectra(f"jacobian_class/{row['class']}")
        assert float(row["lambda_max"]) == spectra[int(row["epoch"])].values[-1]
        assert int(row["dimension"]) == 8
    weights = rows_of("comparison/weights.csv")
    assert len(weights) == 2 * 3 * 2
    assert {row["name"] for row in weights} == {"0.weight", "2.weight"}


def test_a_family_of_networks_is_drawn_against_depth_and_accuracy(capsys):
    text = TINY.partition("[weights]")[0] + (
        '[[variants]]\nname = "small"\n'
        f'[[variants]]\nname = "slow"\nmodel.name = "{factory("Slow")}"\n'
        f'data.name = "{factory("wide_pairs")}"\n'
    )
    Path("family.toml").write_text(text)
    as_json(
        capsys, "train", "family.toml", "--out", "runs", "--set", "training.epochs=0"
    )
    found = as_json(capsys, "compare", "runs", "--out", "comparison")
    assert "comparison/family.png" in found["files"]
    assert "comparison/curves.png" not in found["files"]  # one epoch makes no curve
    assert [row["epoch"] for row in found["runs"]] == [0, 0]


@pytest.mark.message
def test_runs_of_other_kinds_are_not_compared_with_trainings(capsys):
    as_json(capsys, "train", "labels.toml", "--out", "runs")
    other: Any = {"model": "lenet"}
    es.Run.create(Path("other"), verb="hessian", arguments=other).close()
    message = failed(capsys, "compare", "runs/true", "other")
    assert "other is a run of the verb hessian with 0 recordings" in message


def test_weights_are_those_of_the_network_with_their_tails(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "eigenscope.cli.weights.save_figure",
        lambda figure, path: (drawn.append(figure), save_figure(figure, path)),
    )
    words = ["--model", factory("net"), "--data", factory("pairs")]
    found = as_json(capsys, "weights", *words, "--params", "*.weight")
    expected = es.weight_spectra(mine().net())
    assert [row["name"] for row in found["weights"]] == ["0.weight", "2.weight"]
    for number, (row, name) in enumerate(zip(found["weights"], expected, strict=True)):
        singular = torch.linalg.svdvals(
            mine().net().get_parameter(name).detach().double()
        )
        assert row["lambda_max"] == pytest.approx(float(singular[0]) ** 2)
        saved = es.Spectrum.load(Path("weights") / f"spectrum_{number:03d}.npz")
        np.testing.assert_array_equal(saved.values, expected[name].values)
    assert Path("weights/weights.png").stat().st_size > 5000
    legend = legend_of(drawn[0].axes[1])
    for row, text in zip(found["weights"], legend, strict=True):
        alpha = row["alpha"]
        assert ("no power law" if alpha is None else f"α = {alpha:.2f}") in text
