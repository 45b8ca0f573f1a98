import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spectrum_cases import ROUNDING, eigenvalues, fields, spectrum_of

from eigenscope.spectra import Eigenpairs, Spectrum, rounding_floor

# --- the measure ---------------------------------------------------------------


def test_missing_zeros_become_one_atom_between_negative_and_positive_values():
    spectrum = spectrum_of(3.0, -1.0, 1.0, dimension=8)
    np.testing.assert_array_equal(spectrum.values, [-1.0, 0.0, 1.0, 3.0])
    np.testing.assert_array_equal(spectrum.weights, [1 / 8, 5 / 8, 1 / 8, 1 / 8])
    assert spectrum.dimension == 8
    assert spectrum.exact


def test_equal_values_are_not_merged():
    assert len(spectrum_of(2.0, 2.0, 2.0 + 1e-15).values) == 3


def test_small_negative_values_are_kept():
    assert spectrum_of(-1e-17, 1.0).values[0] == -1e-17


def test_a_matrix_of_rank_zero_is_a_single_atom():
    spectrum = Spectrum.from_eigenvalues([], dimension=5)
    np.testing.assert_array_equal(spectrum.values, [0.0])
    np.testing.assert_array_equal(spectrum.weights, [1.0])
    assert spectrum.effective_rank() == 0.0
    assert spectrum.stable_rank() == 0.0
    assert spectrum.intrinsic_dimension() == 0.0


@given(values=eigenvalues, zeros=st.integers(0, 30))
def test_any_eigenvalues_give_a_probability_measure_with_their_trace(values, zeros):
    spectrum = Spectrum.from_eigenvalues(values, dimension=len(values) + zeros)
    assert abs(spectrum.weights.sum() - 1) < ROUNDING
    assert (np.diff(spectrum.values) >= 0).all()
    scale = np.abs(values).sum()
    # The second term is where the weights make the smallest doubles underflow.
    assert abs(spectrum.trace() - math.fsum(values)) <= ROUNDING * scale + 1e-300


def test_the_arrays_are_private_and_read_only():
    mine = np.array([1.0, 2.0])
    spectrum = Spectrum(**fields(values=mine))
    mine[0] = 7.0
    assert spectrum.values[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        spectrum.values[0] = 5.0
    with pytest.raises(ValueError, match="read-only"):
        spectrum.weights[0] = 5.0


def test_spectra_are_equal_when_every_field_is():
    assert Spectrum(**fields()) == Spectrum(**fields())
    assert hash(Spectrum(**fields())) == hash(Spectrum(**fields()))
    for change in (
        {"values": np.array([1.0, 3.0])},
        {"weights": np.array([0.25, 0.75])},
        {"dimension": 4},
        {"exact": False},
        {"noise_floor": 1e-9},
        {"provenance": {"method": "slq"}},
    ):
        assert Spectrum(**fields()) != Spectrum(**fields(**change))
    assert Spectrum(**fields()) != "a spectrum"


# --- what follows from it ------------------------------------------------------


def test_cdf_is_right_continuous_and_keeps_the_shape():
    spectrum = spectrum_of(1.0, 2.0, dimension=4)
    at = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, 9.0]])
    np.testing.assert_array_equal(spectrum.cdf(at), [[0, 0.5, 0.5], [0.75, 1, 1]])
    assert spectrum.cdf(np.nextafter(2.0, 0.0)) == 0.75
    assert spectrum.cdf(1.5).shape == ()


@given(values=eigenvalues)
def test_the_quantile_of_the_cdf_is_the_value(values):
    spectrum = Spectrum.from_eigenvalues(values)
    np.testing.assert_array_equal(
        spectrum.quantile(spectrum.cdf(spectrum.values)), spectrum.values
    )
    assert spectrum.cdf(spectrum.values[-1]) == 1.0


def test_quantiles_are_order_statistics():
    spectrum = Spectrum.from_eigenvalues(np.arange(1.0, 11.0))
    np.testing.assert_array_equal(
        spectrum.quantile([0.0, 0.1, 0.3, 0.31, 0.8, 1.0]), [1, 1, 3, 4, 8, 10]
    )


def test_moments_and_trace_count_the_zeros():
    spectrum = spectrum_of(1.0, 3.0, dimension=4)
    moments = [spectrum.moment(order) for order in range(4)]
    np.testing.assert_allclose(moments, [1.0, 1.0, 2.5, 7.0], rtol=ROUNDING)
    assert spectrum.trace() == 4.0


def test_ranks_of_a_projection_are_its_rank():
    spectrum = spectrum_of(2.0, 2.0, 2.0, dimension=10)
    for rank in (
        spectrum.effective_rank(),
        spectrum.stable_rank(),
        spectrum.intrinsic_dimension(),
        spectrum.rank(),
    ):
        assert rank == pytest.approx(3.0, rel=ROUNDING)


def test_ranks_follow_their_formulas_with_signs_and_zeros():
    spectrum = spectrum_of(-1.0, 3.0, dimension=6)
    assert spectrum.stable_rank() == pytest.approx(10 / 9, rel=ROUNDING)
    assert spectrum.intrinsic_dimension() == pytest.approx(4 / 3, rel=ROUNDING)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert spectrum.effective_rank() == pytest.approx(math.exp(entropy), rel=ROUNDING)


def test_a_weight_counts_as_a_multiplicity_in_every_rank():
    merged = Spectrum(
        **fields(
            values=np.array([1.0, 3.0]), weights=np.array([0.75, 0.25]), dimension=4
        )
    )
    apart = spectrum_of(1.0, 1.0, 1.0, 3.0)
    for name in ("effective_rank", "stable_rank", "intrinsic_dimension", "rank"):
        assert getattr(merged, name)() == pytest.approx(
            getattr(apart, name)(), rel=ROUNDING
        )


def test_rank_counts_moduli_above_the_noise_floor():
    spectrum = spectrum_of(-5.0, -1e-9, 1e-9, 2.0, dimension=100, noise_floor=1e-9)
    assert spectrum.rank() == 2
    assert spectrum.num_below_noise_floor == 98


def test_condition_number_is_infinite_once_the_smallest_is_noise():
    assert spectrum_of(-2.0, 8.0, noise_floor=1.9).condition_number() == 4.0
    assert spectrum_of(-2.0, 8.0, noise_floor=2.0).condition_number() == math.inf
    assert spectrum_of(2.0, 8.0, dimension=3).condition_number() == math.inf


def test_rounding_floor_grows_with_the_root_of_the_dimension():
    assert rounding_floor(-3.0, dimension=16, epsilon=0.5) == 6.0


# --- messages ------------------------------------------------------------------


@pytest.mark.message
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.ones(3)}, r"vectors of one length.*\(3,\) and \(2,\)"),
        ({"values": np.ones((2, 1))}, r"vectors of one length.*\(2, 1\)"),
        ({"values": np.ones(0), "weights": np.ones(0)}, "at least 1"),
        ({"values": np.array([1.0, np.nan])}, r"values\[1\] is nan"),
        ({"weights": np.array([np.inf, 0.0])}, r"weights\[0\] is inf"),
        ({"values": np.array([2.0, 1.0])}, r"ascending; values\[0\] = 2 is above"),
        ({"weights": np.array([-0.5, 1.5])}, "the least is -0.5"),
        ({"weights": np.array([0.5, 0.4])}, "the sum 0.9"),
        ({"dimension": 0}, "dimension must be at least 1; got 0"),
        ({"noise_floor": math.nan}, "noise_floor must be finite.*got nan"),
        ({"noise_floor": -1.0}, "noise_floor must be finite.*got -1"),
    ],
)
def test_a_measure_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(**fields(**changes))


@pytest.mark.message
def test_a_provenance_that_json_cannot_hold_is_refused():
    for value in (torch.ones(1), math.inf, np.int64(3)):
        with pytest.raises(TypeError, match="provenance must hold only what JSON can"):
            Spectrum(**fields(provenance={"seconds": value}))


@pytest.mark.message
def test_more_values_than_the_dimension_are_refused():
    with pytest.raises(
        ValueError, match="at least the number of eigenvalues, 3; got 2"
    ):
        spectrum_of(1.0, 2.0, 3.0, dimension=2)


@pytest.mark.message
def test_levels_and_orders_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1\.5"):
        spectrum_of(1.0).quantile(1.5)
    with pytest.raises(ValueError, match="order must be at least 0; got -1"):
        spectrum_of(1.0).moment(-1)


@pytest.mark.message
def test_eigenpairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"with one k; got \(2,\), \(3, 1\), \(2,\)"):
        Eigenpairs(
            values=torch.ones(2),
            vectors=torch.ones(3, 1),
            residuals=torch.zeros(2),
            converged=torch.ones(2, dtype=torch.bool),
        )


def test_the_length_of_eigenpairs_is_their_number():
    pairs = Eigenpairs(
        values=torch.ones(2),
        vectors=torch.eye(3)[:, :2],
        residuals=torch.zeros(2),
        converged=torch.ones(2, dtype=torch.bool),
    )
    assert len(pairs) == 2
