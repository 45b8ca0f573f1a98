import numpy as np
import pytest
import torch
from dense_cases import normal, symmetric

from eigenscope.estimators import lapack, top_eigenpairs
from eigenscope.operators import gram


def assert_eigenpairs(pairs, matrix, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-11)
    vectors = pairs.vectors.double()
    identity = torch.eye(len(expected), dtype=torch.float64)
    torch.testing.assert_close(vectors.T @ vectors, identity, rtol=0, atol=1e-11)
    error = torch.linalg.vector_norm(matrix @ vectors - vectors * pairs.values, dim=0)
    assert float(error.max()) < 1e-11
    # Both are sums of rounding errors of ‖A‖ · ε.
    torch.testing.assert_close(pairs.residuals, error, rtol=0, atol=1e-12)
    assert pairs.converged.all()


@pytest.mark.parametrize(
    ("which", "order"),
    [
        ("largest", [4.0, 3.0, 1.0]),
        ("smallest", [-5.0, -2.0, 1.0]),
        ("magnitude", [-5.0, 4.0, 3.0]),
        ("both", [4.0, 3.0, -5.0]),
    ],
)
def test_pairs_come_best_first(which, order):
    rotation = torch.linalg.qr(normal(5, 5)).Q
    matrix = rotation @ torch.diag(torch.tensor([3.0, -5, 1, 4, -2]).double())
    matrix = matrix @ rotation.T
    matrix = (matrix + matrix.T) / 2
    assert_eigenpairs(top_eigenpairs(matrix, 3, which=which), matrix, order)


def test_all_pairs_of_both_ends_are_all_pairs():
    matrix = symmetric(7)
    pairs = top_eigenpairs(matrix, 7, which="both")
    ascending = np.linalg.eigvalsh(matrix.numpy())
    expected = [*ascending[:2:-1], *ascending[:3]]
    assert_eigenpairs(pairs, matrix, expected)


@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(12, 90), (90, 12)])
@pytest.mark.parametrize("which", ["largest", "magnitude"])
@pytest.mark.parametrize("k", [1, 12])
def test_pairs_of_a_gram_matrix_are_those_of_its_dense_form(shape, side, which, k):
    operator = gram(normal(*shape), side=side)
    dense = operator.dense()
    expected = np.linalg.eigvalsh(dense.numpy())[::-1][:k].copy()
    pairs = top_eigenpairs(operator, k, which=which)
    assert_eigenpairs(pairs, dense, expected)
    assert pairs.provenance["size"] == 12


@pytest.mark.parametrize("which", ["smallest", "both"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_vectors_of_zero_eigenvalues_come_from_the_side_itself(which, k):
    operator = gram(normal(4, 20), side="columns")
    dense = operator.dense()
    pairs = top_eigenpairs(operator, k, which=which)
    ascending = np.linalg.eigvalsh(dense.numpy())
    expected = ascending[:k]
    if which == "both":
        expected = np.concatenate([ascending[::-1][: k - k // 2], ascending[: k // 2]])
    assert_eigenpairs(pairs, dense, expected)


@pytest.mark.parametrize(
    "factor",
    [
        normal(4, 11),
        normal(4, 2) @ normal(2, 11, seed=1),
        torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0]).double()) @ normal(4, 11),
    ],
    ids=["full rank", "two of four", "two of four rows"],
)
@pytest.mark.parametrize("k", [3, 4, 5])
def test_more_pairs_than_the_rank_are_an_orthonormal_set_too(factor, k):
    operator = gram(factor, side="columns")
    dense = operator.dense()
    expected = np.linalg.eigvalsh(dense.numpy())[::-1][:k].copy()
    assert_eigenpairs(top_eigenpairs(operator, k), dense, expected)


def test_vectors_stay_orthogonal_where_eigenvalues_spread_over_ten_decades():
    scales = torch.logspace(0, -5, 20, dtype=torch.float64)
    left = torch.linalg.qr(normal(20, 20)).Q
    factor = left @ torch.diag(scales) @ normal(20, 300, seed=1)
    pairs = top_eigenpairs(gram(factor, side="columns"), 20)
    assert pairs.provenance["size"] == 20
    overlap = pairs.vectors.T @ pairs.vectors
    identity = torch.eye(20, dtype=torch.float64)
    # Without orthogonalization columns overlap by up to ε / 1e-10 ≈ 2e-6.
    torch.testing.assert_close(overlap, identity, rtol=0, atol=1e-13)
    assert pairs.converged.all()


@pytest.mark.parametrize("operand", ["numpy", "tensor", "small", "large"])
def test_vectors_have_the_dtype_of_what_was_given(operand):
    factor = normal(6, 20, dtype=torch.float32)
    given = {
        "numpy": (factor @ factor.T).numpy(),
        "tensor": factor @ factor.T,
        "small": gram(factor),
        "large": gram(factor, side="columns"),
    }[operand]
    pairs = top_eigenpairs(given, 2)
    assert pairs.vectors.dtype == torch.float32
    assert pairs.values.dtype == pairs.residuals.dtype == torch.float64
    # Vectors rounded to float32 leave about 6e-8 of |λ|_max.
    assert 1e-9 < float(pairs.residuals.max() / pairs.values[0]) < 1e-6
    assert pairs.converged.all()


def test_a_pair_converges_by_the_residual_of_the_vector_that_is_returned():
    matrix = symmetric(10).float()
    matrix = (matrix + matrix.T) / 2
    assert top_eigenpairs(matrix, 3).converged.all()
    assert not top_eigenpairs(matrix, 3, tolerance=1e-12).converged.any()


def test_the_few_and_the_all_vector_drivers_agree(monkeypatch):
    matrix = gram(normal(40, 60)).dense()
    few = lapack.largest_pairs(matrix.clone(), 4)
    assert len(few[0]) == 4
    everything = lapack.largest_pairs(matrix.clone(), 40)
    torch.testing.assert_close(few[0], everything[0][-4:], rtol=1e-12, atol=0)
    monkeypatch.setattr(lapack, "MOST_ROWS_EVD", 10)
    wide = lapack.largest_pairs(matrix.clone(), 40)
    torch.testing.assert_close(wide[0], everything[0], rtol=0, atol=1e-11)
    overlap = (wide[1].T @ everything[1]).abs()
    torch.testing.assert_close(overlap, torch.eye(40).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [3, 600])
def test_the_matrix_is_whole_after_its_largest_pairs(size):
    matrix = symmetric(size)
    after = matrix.clone()
    lapack.largest_pairs(after, 0 + size // 100 or 1)
    assert torch.equal(after, matrix)
