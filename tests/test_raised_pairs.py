"""Eigenpairs of FᵀF from the side of the outputs: those of the dense matrix."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.planning.counting import Counting

MATRICES: dict[str, Any] = {
    "gauss-newton": es.GaussNewton,
    "true fisher": es.Fisher,
    "empirical fisher": lambda problem: es.Fisher(problem, kind="empirical"),
}


def problem_of(samples: int, *, dtype: torch.dtype = torch.float64) -> es.Problem:
    source = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 3)).to(dtype)
    for parameter in net.parameters():
        with torch.no_grad():
            parameter.normal_(std=0.3, generator=source)
    x = torch.randn(samples, 40, generator=source).to(dtype)
    batches = [(x[:4], torch.arange(4) % 3), (x[4:], torch.arange(samples - 4) % 3)]
    return es.Problem(net, batches, loss=nn.CrossEntropyLoss())  # ragged


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("which", ["largest", "magnitude"])
def test_they_are_those_of_the_dense_form(kind, which):
    operator = MATRICES[kind](problem_of(9))
    pairs = es.top_eigenpairs(operator, 5, which=which)
    dense = operator.dense()
    expected = np.linalg.eigvalsh(dense.numpy())[::-1][:5].copy()
    largest = expected[0]
    torch.testing.assert_close(
        pairs.values, torch.from_numpy(expected), rtol=0, atol=1e-12 * largest
    )
    identity = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, identity)
    gaps = torch.linalg.vector_norm(
        dense @ pairs.vectors - pairs.vectors * pairs.values, dim=0
    )
    assert float(gaps.max()) < 1e-12 * largest
    torch.testing.assert_close(pairs.residuals, gaps, rtol=0, atol=1e-13)  # rounding
    assert pairs.converged.all()
    assert pairs.provenance["method"] == "exact"
    assert int(str(pairs.provenance["size"])) < 30 < operator.shape[0]


def test_in_float32_vectors_stay_orthogonal_and_converged():
    operator = es.GaussNewton(problem_of(30, dtype=torch.float32))
    pairs = es.top_eigenpairs(operator, 40)
    assert pairs.vectors.dtype == torch.float32
    identity = torch.eye(40)
    torch.testing.assert_close(
        pairs.vectors.T @ pairs.vectors, identity, rtol=0, atol=1e-5
    )
    assert pairs.converged.all()


def test_pairs_beyond_the_rank_and_at_the_lower_end_are_left_to_lanczos():
    operator = es.GaussNewton(problem_of(6))  # rank 12 at most, two for each sample
    pairs = es.top_eigenpairs(operator, 12)
    assert pairs.provenance["method"] == "exact"
    beyond: list[dict[str, Any]] = [{"k": 14}, {"k": 2, "which": "smallest"}]
    for options in beyond:
        found = es.top_eigenpairs(operator, **options, max_matvecs=60)
        assert found.provenance["method"] == "lanczos"


def test_a_matrix_of_many_outputs_is_left_to_lanczos(monkeypatch):
    monkeypatch.setattr("eigenscope.estimators.eigenpairs.FEW_ROWS", 10)
    operator = es.GaussNewton(problem_of(9))
    assert es.top_eigenpairs(operator, 2).provenance["method"] == "lanczos"
    found = es.top_eigenpairs(operator, 2, method="exact")
    assert found.provenance["method"] == "exact"
    assert es.top_eigenpairs(operator, 2, memory="60kB").provenance["method"] != "exact"


def test_they_take_the_memory_that_is_planned():
    net = nn.Sequential(nn.Linear(700, 300), nn.ReLU(), nn.Linear(300, 3))
    data = (torch.randn(20, 700), torch.arange(20) % 3)
    operator = es.GaussNewton(es.Problem(net, data, loss=nn.CrossEntropyLoss()))
    made = es.plan(es.top_eigenpairs, operator, 4, effort=1e-3)
    fresh = es.GaussNewton(operator.problem)
    with Counting(torch.device("cpu")) as counted:
        kept = es.top_eigenpairs(fresh, 4)
    del kept
    assert made.steps[-1].name == "4 vectors from those of the outputs"
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)
