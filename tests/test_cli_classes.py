"""The Gauss-Newton matrix by classes, by the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed, mine
from torch import nn

import eigenscope as es
from eigenscope.cli import main
from eigenscope.experiments import ClassStructure, class_structure, load_class_structure
from eigenscope.store import Run

OWN = ["hessian", "--model", factory("net"), "--data", factory("pairs"), "--classes"]
ALL = [*OWN, "--dtype", "float64"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def written(folder: str = "runs/hessian") -> ClassStructure:
    found = load_class_structure(Run.open(Path(folder)))
    assert found is not None
    return found


def descending(matrix: torch.Tensor) -> np.ndarray:
    return torch.linalg.eigvalsh(matrix).numpy()[::-1]


@pytest.mark.parametrize("operator", ["hessian", "gauss-newton"])
def test_outliers_are_compared_with_the_parts_by_classes(operator, capsys):
    main([*ALL, "--operator", operator])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "share between classes" in printed.out
    x, y = mine().pairs()
    net = mine().net().double().eval()
    problem = es.Problem(net, (x.double(), y), loss=nn.CrossEntropyLoss())
    parts = es.decompose_by_class(es.GaussNewton(problem))
    found = written()
    assert found.converged
    assert found.num_classes == 3
    for name in ("own", "classes", "cross", "between", "total", "within"):
        values: Any = getattr(found, name)
        dense = getattr(parts, name).dense()
        expected = descending(dense)[: len(values)]
        np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=name)
        if name in found.traces:
            assert found.traces[name] == pytest.approx(float(dense.trace()), rel=1e-9)
    assert [len(found.own), len(found.classes), len(found.cross)] == [3, 3, 3]
    assert [len(found.total), len(found.within)] == [6, 6]
    values, vectors = torch.linalg.eigh(parts.total.dense())
    forms = (vectors * (parts.between.dense() @ vectors)).sum(0) / values
    np.testing.assert_allclose(found.shares, forms.flip(0)[:6], rtol=1e-5)
    run = Run.open(Path("runs/hessian"))
    assert run.figures_path("classes.png").stat().st_size > 10_000
    page = (run.path / "index.html").read_text()
    assert "Gauss-Newton matrix by 3 classes" in page
    assert "Outliers by classes" in page


@pytest.mark.parametrize("step", ["decompose_by_class", "write_eigenpairs", "_record"])
def test_a_run_that_is_stopped_goes_on_to_the_same_classes(step, monkeypatch, capsys):
    as_json(capsys, *ALL, "--out", "runs/whole")
    calls: list[str] = []
    intact = getattr(class_structure, step)

    def stopped(*args: Any, **options: Any) -> Any:
        calls.append(step)
        if step != "write_eigenpairs" or len(calls) == 2:
            raise KeyboardInterrupt
        return intact(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(class_structure, step, stopped)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main(ALL)
    assert load_class_structure(Run.open(Path("runs/hessian"))) is None
    capsys.readouterr()
    as_json(capsys, "hessian", "--resume")
    assert written() == written("runs/whole")


def test_a_network_without_curvature_has_no_outliers(capsys):
    found = as_json(capsys, *ALL, "--model", factory("Silent"))
    assert found["classes"]["total"] == []
    assert not Path("runs/hessian/figures/classes.png").exists()


@pytest.mark.message
def test_what_has_no_classes_is_refused_before_any_work(capsys):
    message = failed(capsys, *OWN, "--operator", "fisher")
    assert (
        "classes are those of a Gauss-Newton matrix, which fisher does not" in message
    )
    assert "Add gauss-newton or hessian" in message
    wrong = [*OWN, "--loss", factory("gap")]
    message = failed(capsys, *wrong)
    assert "needs a cross-entropy with classes as targets" in message
    assert not Path("runs").exists()
