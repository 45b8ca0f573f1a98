import math

import numpy as np
import pytest
import scipy
import torch
from dense_cases import EPS, hadamard, normal, second_difference, symmetric

from eigenscope.estimators import spectrum, top_eigenpairs
from eigenscope.operators import Dense, gram
from eigenscope.spectra import Spectrum

# --- eigenvalues ---------------------------------------------------------------


def test_a_diagonal_matrix_has_its_diagonal():
    found = spectrum(np.diag([3.0, -1.0, 2.0, 2.0]))
    np.testing.assert_array_equal(found.values, [-1.0, 2.0, 2.0, 3.0])
    np.testing.assert_array_equal(found.weights, [0.25] * 4)
    assert found.exact
    assert found.dimension == 4


@pytest.mark.parametrize("size", [1, 2, 100])
def test_the_second_difference_has_its_closed_form(size):
    matrix, expected = second_difference(size)
    # LAPACK is backward stable: errors of a few ulp of |λ|_max = 4, growing with √n.
    np.testing.assert_allclose(spectrum(matrix).values, expected, atol=40 * EPS)


def test_eigenvalues_agree_with_numpy_on_an_indefinite_matrix():
    matrix = symmetric(60)
    np.testing.assert_allclose(
        spectrum(matrix).values, np.linalg.eigvalsh(matrix.numpy()), atol=1e-12
    )


def test_a_wishart_spectrum_fills_the_interval_of_marchenko_and_pastur():
    rows, columns = 300, 1200
    found = spectrum(gram(normal(rows, columns) / math.sqrt(columns)))
    edges = (1 - math.sqrt(rows / columns)) ** 2, (1 + math.sqrt(rows / columns)) ** 2
    # Edges fluctuate by rows^(-2/3), the mean by √(2 / (rows · columns)).
    assert found.values[0] == pytest.approx(edges[0], abs=0.05)
    assert found.values[-1] == pytest.approx(edges[1], abs=0.05)
    assert found.moment(1) == pytest.approx(1.0, abs=0.01)
    assert found.moment(2) == pytest.approx(1 + rows / columns, abs=0.02)


@pytest.mark.parametrize("form", [np.asarray, Dense, torch.Tensor.requires_grad_])
def test_every_form_of_a_matrix_gives_the_same_and_is_left_alone(form):
    matrix = symmetric(20)
    before = matrix.clone()
    found = spectrum(form(matrix))
    np.testing.assert_allclose(
        found.values, np.linalg.eigvalsh(before.numpy()), atol=1e-12
    )
    top_eigenpairs(form(matrix), 1)
    assert torch.equal(matrix, before)


def test_read_only_and_fortran_ordered_arrays_are_taken_as_they_are():
    matrix = np.asfortranarray(symmetric(6).numpy())
    matrix.flags.writeable = False
    assert spectrum(matrix).trace() == pytest.approx(np.trace(matrix), abs=1e-12)


def test_eigenvalues_of_a_float32_matrix_are_computed_in_float64():
    matrix = symmetric(50).float()
    expected = np.linalg.eigvalsh(matrix.double().numpy())
    np.testing.assert_allclose(spectrum(matrix).values, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "epsilon"),
    [
        (torch.float64, 2.0**-52),
        (torch.float32, 2.0**-23),
        (torch.bfloat16, 2.0**-7),
    ],
)
def test_the_noise_floor_is_that_of_the_dtype_of_the_matrix(dtype, epsilon):
    matrix = torch.diag(torch.tensor([-8.0] + [0.0] * 15, dtype=dtype))
    found = spectrum(matrix)
    assert found.noise_floor == epsilon * 8 * 4
    assert found.rank() == 1
    assert found.provenance["dtype"] == str(dtype).removeprefix("torch.")


def test_sums_in_float64_of_products_in_float32_have_the_floor_of_float32():
    jacobian = normal(4, 9, dtype=torch.float32)
    found = spectrum(gram(jacobian, accumulate=torch.float64))
    assert found.noise_floor == pytest.approx(2.0**-23 * found.values[-1] * 2)


# --- Gram matrices -------------------------------------------------------------


@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (9, 9)])
def test_a_gram_matrix_has_the_spectrum_of_its_dense_form(shape, side):
    operator = gram(normal(*shape), side=side)
    dense = np.linalg.eigvalsh(operator.dense().numpy())
    found = spectrum(operator)
    assert found.dimension == len(dense)
    assert found.trace() == pytest.approx(dense.sum(), rel=1e-12)
    counts = np.rint(found.weights * found.dimension).astype(int)
    np.testing.assert_allclose(np.repeat(found.values, counts), dense, atol=1e-12)
    assert found.provenance["size"] == min(shape)


def test_only_the_zeros_of_the_larger_side_become_one_atom():
    factor = torch.zeros(3, 10, dtype=torch.float64)
    factor[0, 0] = factor[1, 1] = 2.0
    found = spectrum(gram(factor, side="columns"))
    np.testing.assert_array_equal(found.values, [0.0, 0.0, 4.0, 4.0])
    np.testing.assert_allclose(sorted(found.weights), [0.1, 0.1, 0.1, 0.7])


def test_rounding_stays_visible_and_below_the_noise_floor():
    deficient = normal(40, 5) @ normal(5, 90, seed=1)
    found = spectrum(gram(deficient))
    assert len(found.values) == 40
    assert found.rank() == 5
    assert 0 < np.abs(found.values[:35]).max() < found.noise_floor


def test_both_sides_have_the_same_rank_and_stable_quantities():
    factor = normal(12, 30)
    rows, columns = (spectrum(gram(factor, side=side)) for side in ("rows", "columns"))
    assert rows.rank() == columns.rank() == 12
    for name in ("trace", "effective_rank", "stable_rank", "intrinsic_dimension"):
        assert getattr(rows, name)() == pytest.approx(getattr(columns, name)())
    assert rows.condition_number() < columns.condition_number() == math.inf


def test_the_factorization_without_squaring_keeps_small_singular_values():
    size = 64
    # H diag(s) Hᵀ with powers of two is exact in float64: 34 bits of range and 12 of
    # the sum. Its singular values are s · size, condition number 2³³ ≈ 9e9.
    exponents = torch.linspace(0, 33, size).round()
    values = torch.exp2(-exponents).double()
    factor = hadamard(size) @ torch.diag(values) @ hadamard(size).T
    expected = np.sort((values.numpy() * size) ** 2)

    without = spectrum(gram(factor), factorization="svd")
    # Relative to σ; eigenvalues are σ². LAPACK's bound is ε · 2³³ ≈ 2e-6 times a
    # small constant that is below 1/2 here.
    sigma = np.sqrt(without.values)
    np.testing.assert_allclose(sigma, np.sqrt(expected), rtol=1e-6)
    assert without.num_below_noise_floor == 0
    assert without.condition_number() == pytest.approx(2.0**66, rel=1e-5)

    squared = spectrum(gram(factor))
    small = expected < 1e-18 * expected[-1]
    assert small.sum() > 5
    assert (np.abs(squared.values[small]) < squared.noise_floor).all()
    assert squared.condition_number() == math.inf


@pytest.mark.parametrize("side", ["rows", "columns"])
def test_both_factorizations_agree_where_the_condition_is_good(side):
    operator = gram(normal(8, 30), side=side)
    one, other = (spectrum(operator, factorization=name) for name in ("eigh", "svd"))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(one.weights, other.weights)
    assert other.dimension == one.dimension
    assert other.noise_floor == pytest.approx(
        EPS**2 * other.values[-1] * other.dimension, rel=1e-12, abs=0
    )


def test_a_known_rank_turns_the_rest_into_one_atom():
    factor = normal(20, 3)
    found = spectrum(factor @ factor.T, rank_bound=3)
    assert len(found.values) == 4
    assert found.values[0] == 0.0
    assert found.weights[0] == pytest.approx(17 / 20)
    assert found.trace() == pytest.approx(float(factor.square().sum()), rel=1e-12)


def test_a_known_rank_keeps_negative_eigenvalues():
    found = spectrum(np.diag([-5.0, 1e-17, 1.0]), rank_bound=2)
    np.testing.assert_array_equal(found.values, [-5.0, 0.0, 1.0])


def test_a_generous_rank_bound_changes_nothing():
    matrix = symmetric(6)
    for bound in (6, 5 + 1):
        found = spectrum(matrix, rank_bound=bound)
        np.testing.assert_array_equal(found.values, spectrum(matrix).values)
    operator = gram(normal(3, 10), side="columns")
    assert len(spectrum(operator, rank_bound=7).values) == 4


def test_the_provenance_says_how_it_was_made(tmp_path):
    found = spectrum(gram(normal(3, 8), side="columns"))
    made = found.provenance
    assert made["method"] == "exact"
    assert made["factorization"] == "eigh"
    assert made["driver"] == "evr"
    assert made["side"] == "rows"
    assert made["operator"] == "Gram"
    assert isinstance(made["seconds"], float)
    assert isinstance(made["versions"], dict)
    assert made["versions"]["scipy"] == scipy.__version__
    found.save(tmp_path / "one")
    assert Spectrum.load(tmp_path / "one") == found
