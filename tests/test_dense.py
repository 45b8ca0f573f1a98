import math
import tracemalloc
from functools import partial

import numpy as np
import pytest
import scipy
import scipy.linalg
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eigenscope.estimators import lapack, spectrum, top_eigenpairs
from eigenscope.estimators.lapack import (
    MOST_ROWS,
    MOST_ROWS_EVD,
    choose_driver,
    peak_bytes,
)
from eigenscope.estimators.matrices import load, require_symmetric
from eigenscope.operators import Dense, gram
from eigenscope.spectra import Spectrum

EPS = np.finfo(np.float64).eps


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def symmetric(size: int, seed: int = 0) -> torch.Tensor:
    matrix = normal(size, size, seed=seed)
    return matrix + matrix.T


def second_difference(size: int) -> tuple[torch.Tensor, np.ndarray]:
    """The matrix with 2 on and -1 beside the diagonal, and its eigenvalues."""
    matrix = 2 * torch.eye(size, dtype=torch.float64)
    matrix -= torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)
    matrix -= torch.diag(torch.ones(size - 1, dtype=torch.float64), -1)
    angles = np.arange(1, size + 1) * np.pi / (size + 1)
    return matrix, 2 - 2 * np.cos(angles)


def hadamard(size: int) -> torch.Tensor:
    return torch.from_numpy(scipy.linalg.hadamard(size)).double()


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


# --- eigenpairs ----------------------------------------------------------------


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


# --- drivers and memory --------------------------------------------------------


def test_the_driver_is_safe_wherever_32_bit_integers_end():
    assert (2 * MOST_ROWS_EVD**2) + 6 * MOST_ROWS_EVD + 1 < 2**31
    assert 2 * (MOST_ROWS_EVD + 1) ** 2 + 6 * (MOST_ROWS_EVD + 1) + 1 >= 2**31
    assert MOST_ROWS**2 < 2**31 <= (MOST_ROWS + 1) ** 2
    assert choose_driver(MOST_ROWS, num_vectors=0) == "evr"
    assert choose_driver(MOST_ROWS_EVD, num_vectors=MOST_ROWS_EVD) == "evd"
    assert choose_driver(MOST_ROWS_EVD + 1, num_vectors=MOST_ROWS_EVD) == "evr"
    assert choose_driver(1000, num_vectors=10) == "evr"
    assert choose_driver(1000, num_vectors=500) == "evd"


def test_bytes_count_the_matrix_the_vectors_and_the_workspace():
    assert peak_bytes(1000, num_vectors=0) == 8_000_000
    assert peak_bytes(1000, num_vectors=10) == 8_080_000
    assert peak_bytes(1000, num_vectors=1000) == 32_000_000


def test_eigenvalues_need_no_second_matrix():
    matrix = symmetric(400)
    tracemalloc.start()
    lapack.eigenvalues(matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 400 * 8 / 4


def test_a_gram_matrix_in_float64_is_not_copied():
    class Counted(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and "empty" not in str(func):
                copied = "copy" in str(func) or "clone" in str(func)
                self.largest = max(self.largest, result.numel() * copied)
            return result

    operator = gram(normal(1500, 3))
    with Counted() as counted:
        load(gram(operator.factor, side="rows"))
    assert counted.largest <= 1024 * 1024


# --- messages ------------------------------------------------------------------


@pytest.mark.message
@pytest.mark.parametrize("function", [spectrum, partial(top_eigenpairs, k=1)])
@pytest.mark.parametrize(
    ("operand", "error", "message"),
    [
        ([[1.0]], TypeError, "an operator, a torch tensor or a NumPy array; got list"),
        (np.eye(2, dtype=int), TypeError, "real floating-point dtype; got int64"),
        (torch.eye(2, dtype=torch.cfloat), TypeError, r"got torch\.complex64"),
        (np.eye(2, dtype=complex), TypeError, "got complex128"),
        (np.ones((2, 3)), ValueError, r"square.*got shape \(2, 3\).*es\.gram"),
        (np.ones(3), ValueError, r"square with at least one row; got shape \(3,\)"),
        (torch.ones(0, 0), ValueError, r"at least one row; got shape \(0, 0\)"),
        (Dense(torch.ones(4, 2)), ValueError, r"square.*got shape \(4, 2\)"),
    ],
)
def test_what_is_no_symmetric_matrix_is_refused(function, operand, error, message):
    with pytest.raises(error, match=message):
        function(operand)


@pytest.mark.message
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_row_that_is_not_finite_is_named(value):
    matrix = symmetric(1100)
    matrix[1050, 7] = matrix[7, 1050] = value
    matrix[1099, 1099] = value
    with pytest.raises(ValueError, match=rf"row 7: {value} in column 1050"):
        spectrum(matrix)
    matrix = symmetric(1100)
    matrix[1099, 1099] = value
    with pytest.raises(ValueError, match=rf"row 1099: {value} in column 1099"):
        spectrum(matrix)
    factor = torch.ones(3, 5)
    factor[2, 4] = value
    with pytest.raises(ValueError, match="finite; the first row"):
        spectrum(gram(factor))
    with pytest.raises(ValueError, match=r"row 2: .* in column 4"):
        spectrum(gram(factor), factorization="svd")


@pytest.mark.message
def test_row_blocks_in_the_wrong_order_are_found():
    matrix = gram(normal(1200, 40), side="rows").dense()
    shuffled = torch.cat([matrix[300:600], matrix[:300], matrix[600:]])
    with pytest.raises(ValueError, match=r"symmetric; A\[\d+, \d+\].*another order"):
        spectrum(shuffled)


@pytest.mark.message
def test_an_asymmetry_says_where_it_is_largest():
    matrix = symmetric(1500)
    matrix[3, 1400] += 5.0
    with pytest.raises(ValueError, match=r"A\[1400, 3\] = .* and A\[3, 1400\]"):
        spectrum(matrix)
    matrix = symmetric(40)
    matrix[30, 2] += 5.0
    with pytest.raises(ValueError, match=r"A\[30, 2\]|A\[2, 30\]"):
        top_eigenpairs(matrix, 1)


def test_rounding_asymmetry_passes_and_is_recorded():
    matrix = 1e9 * symmetric(30).float()
    matrix[2, 1] *= 1 + 1e-6
    found = spectrum(matrix)
    asymmetry = found.provenance["asymmetry"]
    assert isinstance(asymmetry, float)
    assert 0 < asymmetry < 1e-6
    assert require_symmetric(torch.zeros(3, 3), tolerance=0.0) == 0.0


@pytest.mark.message
def test_a_matrix_beyond_the_budget_is_refused_with_sizes():
    with pytest.raises(
        ValueError, match=r"100 × 100 matrix needs 78\.1 KiB.*budget is 10\.0 KiB.*gram"
    ):
        spectrum(np.eye(100), method="exact", memory="10KiB")
    with pytest.raises(ValueError, match=r"3 × 10000 factor needs 468\.8 KiB"):
        spectrum(gram(normal(3, 10000)), factorization="svd", memory="100KiB")
    with pytest.raises(ValueError, match=r"eigenvectors of a 100 × 100 .*312\.5 KiB"):
        top_eigenpairs(np.eye(100), 2, method="exact", memory="100KiB")


def test_the_budget_is_for_the_smaller_side():
    operator = gram(normal(4, 500), side="columns", memory="1MiB")
    assert len(spectrum(operator, memory="1KiB").values) == 5


@pytest.mark.message
def test_a_float32_operator_counts_both_forms():
    operator = Dense(torch.eye(64))
    with pytest.raises(ValueError, match=r"needs 48\.0 KiB"):
        spectrum(operator, method="exact", memory="40KiB")
    assert spectrum(torch.eye(64), memory="40KiB").dimension == 64


@pytest.mark.message
def test_more_rows_than_lapack_counts_are_refused():
    with pytest.raises(ValueError, match=r"at most 46340 rows.*got 46341.*es\.gram"):
        choose_driver(46_341, num_vectors=0)


@pytest.mark.message
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "magic"},
            "method must be one of 'auto', 'exact', 'slq', 'kpm'; got 'magic'",
        ),
        ({"factorization": "qr"}, "factorization must be one of 'eigh', 'svd'"),
        ({"factorization": "svd"}, "needs a Gram operator.*got Tensor.*'eigh'"),
        ({"rank_bound": -1}, "rank_bound must be between 0 and the dimension, 3; got"),
        ({"rank_bound": 4}, "between 0 and the dimension, 3; got 4"),
        ({"rank_bound": 1}, "contradicts the matrix: its eigenvalue number 2 .* is 1,"),
    ],
)
def test_wrong_spectrum_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spectrum(torch.eye(3), **options)


@pytest.mark.message
@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_number_of_pairs_outside_the_dimension_is_refused(k):
    with pytest.raises(ValueError, match=rf"between 1 and the dimension, 3; got {k}"):
        top_eigenpairs(torch.eye(3), k)


@pytest.mark.message
def test_an_unknown_end_is_refused():
    with pytest.raises(
        ValueError, match="which must be one of 'largest', 'smallest', "
    ):
        top_eigenpairs(torch.eye(3), 1, which="best")  # pyright: ignore[reportArgumentType]
