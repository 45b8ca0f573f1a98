"""Lanczos that begins with given vectors finds the pairs of its own matrix."""

from typing import Any

import numpy as np
import pytest
import torch
from planted import Blind, outliers_and_bulk, planted

import eigenscope as es

DIM, K = 400, 4
MATRIX, _ = planted(outliers_and_bulk(DIM))
VALUES, BASIS = torch.linalg.eigh(MATRIX)
NOISE = torch.randn(
    DIM, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64
)
NEAR = MATRIX + 1e-3 * float(VALUES[-1]) / DIM**0.5 * (NOISE + NOISE.T)

STARTS: dict[str, torch.Tensor] = {
    "the wanted eigenvectors": BASIS[:, -K:],
    "eigenvectors of the wrong end": BASIS[:, :K],
    "one eigenvector from the bulk": BASIS[:, DIM // 2 : DIM // 2 + 1],
    "zeros": torch.zeros(DIM, 2, dtype=torch.float64),
    "one vector many times": BASIS[:, -1:].expand(DIM, 3),
    "more than are wanted": NOISE[:, :50],
    "float32, tiny": BASIS[:, -K:].float() * 1e-20,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize("which", ["largest", "both"])
def test_whatever_it_begins_with_the_pairs_are_those_of_the_matrix(start, which):
    options: Any = {"which": which, "method": "lanczos"}
    pairs = es.top_eigenpairs(Blind(NEAR), K, start=start, **options)
    values = torch.linalg.eigvalsh(NEAR)
    expected = values[-K:].flip(0)
    if which == "both":
        expected = torch.cat([values[-2:].flip(0), values[:2]])
    scale = float(values.abs().max())
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-6 * scale)
    gaps = NEAR @ pairs.vectors - pairs.vectors * pairs.values
    assert float(torch.linalg.vector_norm(gaps, dim=0).max()) <= 1e-6 * scale
    assert bool(pairs.converged.all())
    assert pairs.provenance["multiplicities_confirmed"]


@pytest.mark.parametrize(("k", "share"), [(1, 0.7), (4, 0.9)])
def test_a_start_near_the_eigenvectors_saves_products(k, share):
    matrix, _ = planted(np.linspace(0.0, 1.0, DIM) ** 3)
    old = torch.linalg.eigh(matrix)[1][:, -k:]
    near = matrix + 1e-3 / DIM**0.5 * (NOISE + NOISE.T) / 2
    cold, warm = Blind(near), Blind(near)
    es.top_eigenpairs(cold, k, method="lanczos")
    es.top_eigenpairs(warm, k, method="lanczos", start=old)
    assert warm.count < share * cold.count


def test_multiple_eigenvalues_that_a_start_does_not_hold_are_found():
    values = np.concatenate([[3.0] * 4, np.linspace(0.0, 1.0, 196)])
    matrix, _ = planted(values)
    order = torch.linalg.eigh(matrix)[1]
    pairs = es.top_eigenpairs(Blind(matrix), 4, method="lanczos", start=order[:, -2:])
    expected = torch.full((4,), 3.0, dtype=torch.float64)
    torch.testing.assert_close(pairs.values, expected)


def test_a_search_that_was_begun_warm_is_resumed_with_the_same_start(tmp_path):
    start = BASIS[:, -K:]
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        found = es.top_eigenpairs(
            Blind(NEAR), K, method="lanczos", start=start, run=run
        )
        again = es.top_eigenpairs(
            Blind(NEAR), K, method="lanczos", start=start, run=run
        )
        torch.testing.assert_close(again.values, found.values)


@pytest.mark.message
def test_a_start_that_is_none_is_refused():
    for start, message in (
        (torch.zeros(3), r"shape \(400, vector\); got \(3,\)\. Pass pairs\.vectors"),
        (torch.zeros(K, DIM), r"columns, shape \(400, vector\); got \(4, 400\)"),
        (torch.zeros(DIM, 0), r"got \(400, 0\)"),
        (torch.full((DIM, 1), torch.nan), "start must be finite; it holds NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            es.top_eigenpairs(Blind(MATRIX), K, start=start)
