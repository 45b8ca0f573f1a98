"""Eigenvectors of a run: of the right matrix, saved with what is known of them."""

from typing import Any

import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.experiments import (
    JacobianPlan,
    load_jacobian_results,
    run_jacobian_spectra,
)
from eigenscope.store import Run

ROUNDING: Any = {"rtol": 0.0, "atol": 1e-9}  # of float64, through a square root


def results_of(tmp_path, num_samples, *, layout, num_vectors=3):
    net = nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    source = torch.Generator().manual_seed(3)
    x = torch.randn(num_samples, 3, 4, generator=source, dtype=torch.float64)
    problem = es.Problem(nn.Sequential(nn.Flatten(), net), x)
    plan = JacobianPlan(layouts=(layout,), num_vectors=num_vectors)
    with Run.create(tmp_path / "run", verb="jacobian", arguments=ARGUMENTS) as run:
        run_jacobian_spectra(run, problem, plan)
    (result,) = load_jacobian_results(Run.open(tmp_path / "run")).spectra
    return es.InputJacobian(problem, layout=layout).dense(), result


ARGUMENTS: Any = {"outputs": ["logits"], "layouts": ["outputs", "samples"]}


@pytest.mark.parametrize("num_samples", [2, 30])
def test_layout_outputs_keeps_directions_of_the_input(tmp_path, num_samples):
    # With two samples 𝒥𝒥ᵀ, 4 × 4, is diagonalized: v = 𝒥ᵀw/√λ.
    dense, result = results_of(tmp_path, num_samples, layout="outputs")
    assert (result.side, result.vector_side) == (
        ("rows" if num_samples == 2 else "columns"),
        "columns",
    )
    pairs = result.eigenpairs
    assert pairs is not None
    assert pairs.vectors.shape == (12, 3)
    product = dense.T @ (dense @ pairs.vectors)
    torch.testing.assert_close(product, pairs.vectors * pairs.values, **ROUNDING)
    assert pairs.converged.all()


def test_layout_samples_keeps_entries_by_sample(tmp_path):
    dense, result = results_of(tmp_path, 7, layout="samples")
    assert (result.side, result.vector_side) == ("rows", "rows")
    pairs = result.eigenpairs
    assert pairs is not None
    product = dense @ (dense.T @ pairs.vectors)
    torch.testing.assert_close(product, pairs.vectors * pairs.values, **ROUNDING)


def test_no_more_directions_are_kept_than_there_are(tmp_path):
    _, result = results_of(tmp_path, 30, layout="outputs", num_vectors=12)
    assert result.eigenpairs is not None
    assert result.eigenpairs.vectors.shape == (12, 5)  # the hidden units


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_saved_pairs_come_back_as_they_were(tmp_path, dtype):
    matrix = torch.diag(torch.tensor([5.0, -2.0, 1.0], dtype=dtype))
    pairs = es.top_eigenpairs(matrix, 2, which="magnitude", tolerance=1e-30)
    pairs.save(tmp_path / "pairs.npz")
    found = es.Eigenpairs.load(tmp_path / "pairs.npz")
    for name in ("values", "residuals", "converged"):
        assert torch.equal(getattr(found, name), getattr(pairs, name))
    assert torch.equal(found.vectors.to(dtype), pairs.vectors)
    assert found.provenance == pairs.provenance


@pytest.mark.message
def test_a_file_of_something_else_is_refused(tmp_path):
    spectrum = es.Spectrum.from_eigenvalues([1.0, 2.0])
    spectrum.save(tmp_path / "file.npz")
    with pytest.raises(ValueError, match="must hold a saved eigenpairs; it holds"):
        es.Eigenpairs.load(tmp_path / "file.npz")
