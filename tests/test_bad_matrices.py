import math
from functools import partial

import numpy as np
import pytest
import torch
from dense_cases import normal, symmetric

from eigenscope.estimators import spectrum, top_eigenpairs
from eigenscope.estimators.lapack import (
    choose_driver,
)
from eigenscope.estimators.matrices import require_symmetric
from eigenscope.operators import Dense, gram


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
    with pytest.raises(ValueError, match=f"finite; number 0 holds {value}"):
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
        ValueError, match=r"100 × 100 matrix .* of 10\.0 KiB; 78\.1 KiB are .*gram"
    ):
        spectrum(np.eye(100), method="exact", memory="10KiB")
    with pytest.raises(ValueError, match=r"3 × 10000 factor .* 468\.8 KiB are needed"):
        spectrum(gram(normal(3, 10000)), factorization="svd", memory="100KiB")
    with pytest.raises(ValueError, match=r"eigenvectors of a 100 × 100 .*312\.5 KiB"):
        top_eigenpairs(np.eye(100), 2, method="exact", memory="100KiB")


def test_the_budget_is_for_the_smaller_side():
    operator = gram(normal(4, 500), side="columns", memory="1MiB")
    assert len(spectrum(operator, memory="1KiB").values) == 5


@pytest.mark.message
def test_a_float32_operator_counts_both_forms():
    operator = Dense(torch.eye(64))
    with pytest.raises(ValueError, match=r"48\.0 KiB are needed"):
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
