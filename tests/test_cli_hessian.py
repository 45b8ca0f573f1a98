"""Curvature by the command line, into runs that resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed, mine
from torch import nn

import eigenscope as es
from eigenscope.cli import main
from eigenscope.store import Run

OWN = ["hessian", "--model", factory("net"), "--data", factory("pairs")]
ALL = [*OWN, "--dtype", "float64", "--layers", "parameter", "--top", "3"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def problem() -> es.Problem:
    x, y = mine().pairs()
    net = mine().net().double().eval()
    return es.Problem(net, (x.double(), y), loss=nn.CrossEntropyLoss())


def spectra_of(run: Run, operator: str) -> dict[str, es.Spectrum]:
    names: Any = run.results[f"{operator}_blocks"]
    return {
        name: es.Spectrum.load(run.results_path(f"spectrum_{operator}_{i:03d}.npz"))
        for i, name in enumerate(names)
    }


def test_hessian_writes_spectra_of_the_whole_and_of_every_layer(capsys):
    main([*ALL, "--operator", "hessian", "gauss-newton", "fisher", "--verify"])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("all checks passed") == 3
    run = Run.open(Path("runs/hessian"))
    assert run.is_complete
    operators = {
        "hessian": es.Hessian(problem()),
        "gauss-newton": es.GaussNewton(problem()),
        "fisher": es.Fisher(problem(), kind="empirical"),
    }
    for name, operator in operators.items():
        found = spectra_of(run, name)
        parts = {"whole": operator, **es.layer_blocks(operator)}
        assert list(found) == list(parts)
        numbers: Any = run.results[name]
        for part, expected in parts.items():
            values = torch.linalg.eigvalsh(expected.dense()).numpy()
            truth = es.Spectrum.from_eigenvalues(values)
            # Float64, from the small side or from the matrix.
            assert es.wasserstein(found[part], truth) < 1e-12
            assert numbers[part]["trace"] == pytest.approx(values.sum(), rel=1e-9)
            assert numbers[part]["lambda_max"] == pytest.approx(values[-1], rel=1e-9)
            whole = es.wasserstein(found["whole"], found[part])
            assert numbers[part].get("w1_none", 0.0) == pytest.approx(whole, abs=1e-12)
        pairs = es.Eigenpairs.load(run.results_path(f"eigenpairs_{name}.npz"))
        assert pairs.converged.all()
        largest = np.sort(np.abs(found["whole"].values))[::-1][:3]
        np.testing.assert_allclose(pairs.values.abs(), largest, rtol=1e-6)
        assert run.figures_path(f"layers_{name}.png").stat().st_size > 10_000
    methods: Any = run.results["gauss-newton"]
    # 24 samples and two classes beside the first: 48 rows, and 53 parameters.
    assert methods["whole"]["method"] == "exact, kernel side"
    assert methods["0.bias"]["method"] == "exact, dense"
    verdicts: Any = run.results["verdicts"]
    assert list(verdicts) == list(operators)
    page = (run.path / "index.html").read_text()
    assert page.count("<td>split invariance</td>") == 3
    assert page.count("data:image/png") == 3 * (1 + len(spectra_of(run, "fisher")))


def test_a_run_goes_on_with_what_is_missing(capsys):
    as_json(capsys, *ALL, "--method", "slq", "--seed", "4", "--params", "*weight")
    run = Run.open(Path("runs/hessian"))
    before = spectra_of(run, "hessian")
    assert all(name == "whole" or name.endswith("weight") for name in before)
    numbers: Any = run.results["hessian"]
    assert numbers["whole"]["method"] == "slq"
    run.results_path("spectrum_hessian_001.npz").unlink()
    run.results_path("eigenpairs_hessian.npz").unlink()
    kept = run.results_path("spectrum_hessian_000.npz").stat().st_mtime_ns
    as_json(capsys, "hessian", "--resume")
    assert run.results_path("spectrum_hessian_000.npz").stat().st_mtime_ns == kept
    after = spectra_of(Run.open(Path("runs/hessian")), "hessian")
    for name, spectrum in before.items():
        assert np.array_equal(after[name].values, spectrum.values)
    main(["info", "runs/hessian"])
    assert "λ_min" in capsys.readouterr().out


@pytest.mark.parametrize("converged", [True, False])
def test_outliers_of_a_spectrum_that_is_too_coarse_are_not_counted(
    capsys, monkeypatch, converged
):
    module = "eigenscope.experiments.curvature_spectra"
    monkeypatch.setattr(f"{module}._BULK_DISTANCE", 1.0)  # any fit will do
    monkeypatch.setattr(
        f"{module}.summarize",
        lambda found: replace(es.summarize(found), converged=converged),
    )
    numbers = as_json(capsys, *OWN)["hessian"]["whole"]
    assert (numbers["num_outliers"] is not None) == converged


def test_a_loss_may_be_the_users_own(capsys):
    found = as_json(capsys, *ALL, "--loss", "torch.nn:CrossEntropyLoss")
    named = as_json(capsys, *ALL, "--out", "runs/named")
    assert found["hessian"] == named["hessian"]


@pytest.mark.message
def test_wrong_options_are_explained(capsys):
    message = failed(capsys, *OWN, "--loss", "hinge")
    assert "--loss must be one of cross-entropy, squared-error, logistic" in message
    assert "top must be at least 0; got -1" in failed(capsys, *OWN, "--top", "-1")
    twice = failed(capsys, *OWN, "--operator", "hessian", "hessian")
    assert "operator must name at least one, and none of them twice" in twice
    assert "'nope' matches none" in failed(capsys, *OWN, "--params", "nope")
    assert not Path("runs").exists()
