import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import wasserstein_distance

from eigenscope.analysis.distance import wasserstein
from eigenscope.spectra import Spectrum

# A few dozen products and sums of doubles.
ROUNDING = 1e-12

vectors = hnp.arrays(
    np.float64,
    st.integers(1, 20),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


def test_a_shift_costs_its_length():
    values = np.random.default_rng(0).exponential(size=50)
    assert wasserstein(values, values + 2.5) == pytest.approx(2.5, rel=ROUNDING)


def test_a_factor_costs_the_mean_times_its_excess():
    values = np.random.default_rng(1).exponential(size=50)
    expected = 2 * values.mean()
    assert wasserstein(values, 3 * values) == pytest.approx(expected, rel=ROUNDING)


def test_weights_move_between_two_points():
    assert wasserstein(([0.0, 4.0], [3.0, 1.0]), ([0.0, 4.0], [1.0, 3.0])) == 2.0


def test_uniform_grids_differ_by_the_closed_form():
    # The inverse cdfs are steps: ∫ |⌈mu⌉/m - ⌈2mu⌉/(2m)| du = 1/(4m).
    coarse = np.arange(1, 9) / 8
    fine = np.arange(1, 17) / 16
    assert wasserstein(coarse, fine) == pytest.approx(1 / 32, rel=ROUNDING)


@given(a=vectors, b=vectors, seed=st.integers(0, 99))
def test_weighted_measures_agree_with_scipy(a, b, seed):
    generator = np.random.default_rng(seed)
    p, q = generator.uniform(0.1, 1, len(a)), generator.uniform(0.1, 1, len(b))
    expected = wasserstein_distance(a, b, p, q)
    scale = max(np.abs(a).max(), np.abs(b).max())
    assert abs(wasserstein((a, p), (b, q)) - expected) <= ROUNDING * scale
    assert abs(wasserstein((b, q), (a, p)) - expected) <= ROUNDING * scale


@pytest.mark.parametrize(
    ("scale", "mapped"),
    [
        ("range", lambda x: (x - x.min()) / np.ptp(x)),
        ("max", lambda x: x / np.abs(x).max()),
        ("trace", lambda x: x / x.mean()),
    ],
)
def test_scaled_distances_are_scipy_s_of_scaled_measures(scale, mapped):
    generator = np.random.default_rng(4)
    a, b = 1e3 * generator.exponential(size=30), generator.exponential(size=19) - 0.1
    expected = wasserstein_distance(mapped(a), mapped(b))
    assert wasserstein(a, b, scale=scale) == pytest.approx(expected, rel=1e-12)


def test_a_spectrum_counts_its_zeros():
    low_rank = Spectrum.from_eigenvalues([4.0], dimension=4)
    assert wasserstein(low_rank, [0.0, 0.0, 0.0, 4.0]) == 0.0
    assert wasserstein(low_rank, [4.0]) == 3.0


def test_tensors_arrays_and_lists_are_alike():
    values = [1.0, 2.0, 4.0]
    for form in (np.array(values), torch.tensor(values, requires_grad=True), values):
        assert wasserstein(form, [0.0]) == pytest.approx(7 / 3, rel=ROUNDING)


def test_the_range_maps_both_supports_to_the_unit_interval():
    assert wasserstein([2.0, 4.0, 6.0], [-10.0, 0.0, 10.0], scale="range") == 0.0
    distance = wasserstein([0.0, 1.0, 2.0], [0.0, 3.0, 4.0], scale="range")
    assert distance == pytest.approx(0.25 / 3, rel=ROUNDING)


def test_a_single_point_goes_to_zero_under_the_range():
    assert wasserstein([7.0, 7.0], [-3.0], scale="range") == 0.0
    assert wasserstein([7.0], [0.0, 1.0], scale="range") == 0.5


def test_a_value_without_weight_does_not_stretch_the_range():
    a = ([0.0, 1.0, 100.0], [1.0, 1.0, 0.0])
    assert wasserstein(a, [0.0, 1.0], scale="range") == 0.0


def test_the_maximum_makes_the_distance_free_of_units():
    assert wasserstein([-8.0, 4.0], [-2.0, 1.0], scale="max") == 0.0
    assert wasserstein([0.0, 0.0], [0.0, 5.0], scale="max") == 0.5
    assert wasserstein([-8.0, 4.0], [0.0], scale="max") == 0.75


def test_the_trace_makes_the_distance_free_of_units_and_dimension():
    small = Spectrum.from_eigenvalues([1.0, 3.0])
    large = Spectrum.from_eigenvalues([5.0, 5.0, 15.0, 15.0])
    assert wasserstein(small, large, scale="trace") == pytest.approx(0, abs=ROUNDING)
    assert wasserstein([1.0], [0.0, 6.0], scale="trace") == 1.0


@pytest.mark.message
@pytest.mark.parametrize(
    ("a", "options", "message"),
    [
        ([1.0], {"scale": "log"}, "scale must be one of 'none', 'range', 'max', 'tra"),
        (([1.0], [1.0], [1.0]), {}, r"a as a tuple must be \(values, weights\); got 3"),
        (([1.0, 2.0], [1.0]), {}, r"a must be a vector.*\(2,\) and \(1,\)"),
        (np.ones((2, 2)), {}, r"a must be a vector.*\(2, 2\)"),
        ([1.0, math.nan], {}, "a must have finite values"),
        (([1.0, 2.0], [2.0, -1.0]), {}, "a must have weights that are non-negative"),
        (([1.0, 2.0], [0.0, 0.0]), {}, "not all zero; got 2 weights with sum 0"),
        ([], {}, "not all zero; got 0 weights"),
        ([-1.0, 1.0], {"scale": "trace"}, "positive trace; the mean eigenvalue of a"),
    ],
)
def test_wrong_measures_are_refused(a, options, message):
    with pytest.raises(ValueError, match=message):
        wasserstein(a, [1.0], **options)
