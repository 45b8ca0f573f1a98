"""`eigenscope match`: distances, epochs and depths of planted spectra."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from cli_cases import as_json, failed
from PIL import Image
from planted import Blind
from torch import nn

import eigenscope as es
from eigenscope.experiments.matching import match_runs, run_folders, self_distance
from eigenscope.experiments.published import published_density, published_spectrum
from eigenscope.spectra import Quadrature

BASE = np.array([-1.0, 0.0, 0.5, 4.0])
# distances grow with |factor − 1|; the sum over layers is smallest after epoch 2
FACTORS = {
    0: {"a.weight": 1.0, "b.weight": 1.0},
    1: {"a.weight": 3.0, "b.weight": 2.0},
    2: {"a.weight": 1.5, "b.weight": 1.25},
    3: {"a.weight": 2.0, "b.weight": 3.0},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def planted(
    path: str, factors: Mapping[int, Mapping[str, float]] = FACTORS, model: str = "net"
) -> Path:
    """A run whose layers have the full spectrum times a factor."""
    now: dict[str, int] = {}

    def hessian(_: nn.Module) -> Mapping[str, es.Spectrum]:
        parts = {"full": 1.0} | dict(factors[now["epoch"]])
        return {
            n: es.Spectrum.from_eigenvalues(BASE * factor)
            for n, factor in parts.items()
        }

    arguments: Any = {"model": model, "data": "planted", "experiment": path}
    with es.Run.create(Path(path), verb="train", arguments=arguments) as run:
        recorder = es.Recorder(run, {"hessian": hessian})
        for epoch in factors:
            now["epoch"] = epoch
            recorder.record(nn.Linear(1, 1), epoch)
    return Path(path)


def test_distances_are_true_w1_of_the_recorded_spectra():
    (match,) = match_runs([planted("run")])
    assert match.layers == ("a.weight", "b.weight")
    assert match.epochs.tolist() == [0, 1, 2, 3]
    for row, factors in enumerate(FACTORS.values()):
        for column, factor in enumerate(factors.values()):
            true = scipy.stats.wasserstein_distance(BASE, BASE * factor)
            assert match.distances["none"][row, column] == pytest.approx(true)
    for scaling in ("range", "max", "trace"):  # what a factor does not change
        assert float(np.abs(match.distances[scaling]).max()) < 1e-12
    heights = [
        published_density(es.Spectrum.from_eigenvalues(BASE * f)) for f in (1, 2)
    ]
    own = es.height_distance(heights[0][1], heights[1][1])
    assert match.distances["heights"][1, 1] == pytest.approx(own, abs=1e-15)


def test_sums_leave_out_what_is_before_training_and_the_peak_is_computed():
    (match,) = match_runs([planted("run")])
    totals = match.distances["none"][1:].sum(0)
    summed, errors = match.summed("none")
    assert summed.tolist() == pytest.approx((totals / totals.max()).tolist())
    assert not errors.any()
    assert match.epochs[match.peak("none")] == 2  # epoch 0 is nearer by far
    found, _ = match.at_peak("none")
    assert found.tolist() == pytest.approx([1.0, 0.5])
    assert match.depths.tolist() == [0.0, 1.0]


def test_probes_against_themselves_and_errors_stand_beside_each_distance():
    nodes = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 1.0], [0.0, 3.0]])
    rule = {"nodes": nodes, "weights": np.full((4, 2), 0.5)}
    coarse: Any = {f"coarse_{name}": array for name, array in rule.items()}
    quadrature = Quadrature(**rule, **coarse, outer=np.array([]))
    values, weights = quadrature.measure(10)
    found = es.Spectrum(
        values=values,
        weights=weights,
        dimension=10,
        exact=False,
        noise_floor=0.0,
        error=0.5,
        quadrature=quadrature,
    )
    assert self_distance(found, "none") == pytest.approx(0.0)  # equal halves
    first = Quadrature(
        nodes=nodes[[0, 2, 1, 3]],
        weights=rule["weights"],
        coarse_nodes=nodes,
        coarse_weights=rule["weights"],
        outer=np.array([]),
    )
    values, weights = first.measure(10)
    unlike: Any = {
        "values": values,
        "weights": weights,
        "dimension": 10,
        "exact": False,
        "noise_floor": 0.0,
        "quadrature": first,
    }
    # halves {0, 1} and {0, 3}, each of weight ½: the upper points are 2 apart
    assert self_distance(es.Spectrum(**unlike), "none") == pytest.approx(1.0)
    unlike["quadrature"] = None
    assert np.isnan(self_distance(es.Spectrum(**unlike), "none"))


def test_figures_tables_and_films_are_written(capsys):
    planted("all/first")
    third = {epoch: {"c.weight": 2.0, "d.weight": 3.0} for epoch in FACTORS}
    planted("all/second", third, model="other")  # a study may hold other networks
    found = as_json(capsys, "match", "all", "--scale", "none", "--animate")
    assert [row["peak_epoch"] for row in found["runs"]] == [2, 1]
    assert all(key.isidentifier() for row in found["runs"] for key in row)
    names = {Path(file).name for file in found["files"]}
    assert {"match_distros_wasserstein.png", "match_distros_peak.png"} <= names
    for name in names:
        assert Path("match", name).stat().st_size > 500
    with Image.open("match/00_first_spectra.gif") as film:
        assert getattr(film, "n_frames", 1) == 4
    with Path("match/distances.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5 * 4 * 2
    chosen = [
        float(row["distance"])
        for row in rows
        if (row["run"], row["measure"], row["layer"]) == ("first", "none", "a.weight")
    ]
    assert chosen == pytest.approx(
        [
            scipy.stats.wasserstein_distance(BASE, BASE * factors["a.weight"])
            for factors in FACTORS.values()
        ]
    )


@pytest.mark.message
def test_runs_that_cannot_be_compared_are_refused(capsys):
    first = str(planted("first"))
    second = str(planted("second", {1: {"a.weight": 2.0, "c.weight": 2.0}}))
    message = failed(capsys, "match", first, second)
    assert "first and second differ in b.weight, c.weight. Match them one" in message
    other = planted("third", {1: {"c.weight": 2.0, "d.weight": 2.0}}, model="other")
    message = failed(capsys, "match", first, str(other), "--out", "apart")
    assert "the same layers to be compared; first and third differ in" in message
    assert "a.weight, b.weight, c.weight, d.weight. Match them one" in message
    assert not Path("apart").exists()
    message = failed(capsys, "plan", "match", first, str(other))
    assert "first and third differ in a.weight" in message
    with es.Run.create(Path("bare"), verb="jacobian", arguments={}):
        pass
    message = failed(capsys, "match", "bare")
    assert "bare must hold the full Hessian's spectrum" in message
    assert "it holds none (verb jacobian)" in message
    assert "none of them twice" in failed(capsys, "match", first, first)
    message = failed(capsys, "match", first, "--out", "second")
    assert "must not go into the folder of a run; second is one" in message


def test_the_published_recurrence_is_exact_before_orthogonality_is_lost():
    """Ten eigenvalues, ten steps: nodes and weights are those of the probe."""

    values = torch.linspace(-1.0, 3.0, 10, dtype=torch.float64)
    found = published_spectrum(Blind(torch.diag(values)), seed=0)
    lowest, highest = float(found.values[0]), float(found.values[-1])
    assert (lowest, highest) == pytest.approx((-1.0, 3.0), abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    torch.randn(10, generator=generator)  # that of the bounds
    start = torch.randn(10, generator=generator).double()
    weights = (start / start.norm()).square().numpy()
    # the probe's own measure, however often a value is found again
    for value, weight in zip(values.numpy(), weights, strict=True):
        near = np.abs(found.values - value) < 1e-6
        assert found.weights[near].sum() == pytest.approx(weight, abs=1e-6)
    low, high = np.array(found.provenance["interval"], dtype=float)
    assert (low, high) == pytest.approx((-1.2, 3.2), abs=1e-6)


def test_the_published_density_has_the_published_width():
    grid, heights = published_density(es.Spectrum.from_eigenvalues([0.0, 1.0]))
    assert (grid[0], grid[-1], len(grid)) == pytest.approx((-0.05, 1.05, 1024))
    peak = heights[:512]
    sigma = 0.55 * 2 / 127 / np.sqrt(8 * np.log(1.25))
    assert peak.max() == pytest.approx(0.5 / (sigma * np.sqrt(2 * np.pi)), rel=1e-2)
    spread = np.sqrt((peak * grid[:512] ** 2).sum() / peak.sum())
    assert spread == pytest.approx(sigma, rel=1e-2)
    assert heights[512] == 0.0  # cut at 1e-8 of a kernel's height


def test_runs_of_a_study_come_by_the_numbers_in_their_names(tmp_path):
    names = ("resnet20", "resnet110", "resnet164bn", "resnet1001")
    for name in reversed(names):
        es.Run.create(tmp_path / name, verb="train", arguments={}).close()
    assert [folder.name for folder in run_folders([tmp_path])] == list(names)
