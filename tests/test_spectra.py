import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eigenscope.spectra import Eigenpairs, Spectrum, rounding_floor

# Sums of a few hundred doubles of similar size round to a few hundred ulp.
ROUNDING = 1e-12

eigenvalues = hnp.arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.floats(-1e50, 1e50, allow_nan=False, allow_subnormal=True),
)


def spectrum_of(*values: float, dimension=None, noise_floor=0.0) -> Spectrum:
    return Spectrum.from_eigenvalues(
        values, dimension=dimension, noise_floor=noise_floor
    )


def fields(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "values": np.array([1.0, 2.0]),
        "weights": np.array([0.5, 0.5]),
        "dimension": 2,
        "exact": True,
        "noise_floor": 0.0,
    }
    return base | changes


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


# --- density -------------------------------------------------------------------


def integral(density) -> float:
    return float(density.heights.sum() * density.spacing)


@given(
    values=eigenvalues,
    kind=st.sampled_from(["smooth", "histogram"]),
    count=st.integers(2, 300),
)
@settings(max_examples=60)
def test_a_linear_density_integrates_to_one(values, kind, count):
    density = Spectrum.from_eigenvalues(values).density(
        kind=kind, num_points=count, num_bins=count
    )
    assert density.omitted_weight == 0.0
    assert len(density.grid) == count
    # The spacing, a difference of neighbors, loses digits where the grid is far
    # from zero.
    assert integral(density) == pytest.approx(1.0, rel=1e-3)
    widths = np.diff(density.grid)
    assert float(density.heights[1:] @ widths) <= 1 + 1e-3


@pytest.mark.parametrize("kind", ["smooth", "histogram"])
@pytest.mark.parametrize("bandwidth", [None, 0.5, 1e-3])
def test_a_log_density_integrates_to_what_the_axis_shows(kind, bandwidth):
    positive = np.random.default_rng(0).lognormal(0, 2, 300)
    spectrum = Spectrum.from_eigenvalues(
        np.concatenate([positive, [-1e-3, 1e-9]]), dimension=400, noise_floor=1e-8
    )
    density = spectrum.density(scale="log", kind=kind, bandwidth=bandwidth)
    assert density.omitted_weight == pytest.approx(0.25, rel=ROUNDING)
    assert integral(density) == pytest.approx(0.75, rel=1e-9)
    inside = (density.grid > -4) & (density.grid < 4)
    assert density.heights[inside].sum() * density.spacing > 0.74


def test_the_axis_of_a_log_density_is_the_decimal_logarithm():
    density = spectrum_of(1000.0).density(scale="log", bandwidth=0.25)
    peak = density.grid[np.argmax(density.heights)]
    assert peak == pytest.approx(3.0, abs=density.spacing)


def test_a_smooth_density_is_the_sum_of_its_kernels():
    spectrum = spectrum_of(0.0, 1.0, 1.5, dimension=4)
    density = spectrum.density(bandwidth=0.3, num_points=4001)
    x = density.grid[:, None]
    kernels = (
        np.exp(-(((x - spectrum.values) / 0.3) ** 2) / 2) / 0.3 / np.sqrt(2 * np.pi)
    )
    # The mean over a cell differs from the value at its center by spacing²/24 times
    # the second derivative, here below 2e-6.
    np.testing.assert_allclose(density.heights, kernels @ spectrum.weights, atol=1e-5)
    assert density.bandwidth == 0.3


def test_a_density_of_many_values_equals_the_sum_of_its_parts():
    values = np.sort(np.random.default_rng(1).exponential(size=1500))
    whole = Spectrum.from_eigenvalues(values).density(bandwidth=0.01, num_points=700)
    x = whole.grid[::50, None]
    kernels = np.exp(-(((x - values) / 0.01) ** 2) / 2) / 0.01 / np.sqrt(2 * np.pi)
    # Cells are wider than the kernel here: 0.015 against 0.01.
    np.testing.assert_allclose(
        whole.heights[::50], kernels.mean(1), rtol=0.15, atol=0.05
    )


def test_the_default_bandwidth_follows_silverman():
    values = np.random.default_rng(2).standard_normal(1000)
    density = Spectrum.from_eigenvalues(values).density()
    # σ = IQR/1.34 = 1 for a standard normal, up to sampling noise of 5 %.
    assert density.bandwidth == pytest.approx(0.9 * 1000**-0.2, rel=0.05)


def test_the_default_bandwidth_of_a_peaked_spectrum_follows_its_quartiles():
    levels = (np.arange(1000) + 0.5) / 1000 - 0.5
    laplace = -np.sign(levels) * np.log1p(-2 * np.abs(levels))
    density = Spectrum.from_eigenvalues(laplace).density()
    # σ = √2, but IQR/1.34 = 2 log 2 / 1.34.
    expected = 0.9 * 2 * math.log(2) / 1.34 * 1000**-0.2
    assert density.bandwidth == pytest.approx(expected, rel=0.01)


def test_an_outlier_does_not_make_the_bandwidth_vanish_or_explode():
    values = np.concatenate([np.random.default_rng(3).uniform(size=999), [1e4]])
    assert Spectrum.from_eigenvalues(values).density().bandwidth == pytest.approx(
        1e4 / 500, rel=1e-3
    )


@pytest.mark.parametrize("kind", ["smooth", "histogram"])
@pytest.mark.parametrize("value", [0.0, 4.0, -1e30, 1e-308])
def test_equal_eigenvalues_have_a_density(value, kind):
    density = spectrum_of(value, value).density(kind=kind)
    assert integral(density) == pytest.approx(1.0, rel=1e-9)
    mean = density.grid @ density.heights * density.spacing
    assert mean == pytest.approx(value, abs=density.bandwidth)


def test_a_histogram_counts():
    spectrum = spectrum_of(0.0, 1.0, 1.5, 4.0)
    density = spectrum.density(kind="histogram", num_bins=4)
    np.testing.assert_array_equal(density.heights, [0.25, 0.5, 0.0, 0.25])
    np.testing.assert_array_equal(density.grid, [0.5, 1.5, 2.5, 3.5])
    assert density.bandwidth == 1.0


def test_the_bandwidth_of_a_histogram_is_the_width_of_its_bins():
    density = spectrum_of(0.0, 1.0, 1.5, 4.0).density(kind="histogram", bandwidth=2.0)
    np.testing.assert_array_equal(density.grid, [1.0, 3.0, 5.0])
    np.testing.assert_array_equal(density.heights, [0.375, 0.0, 0.125])
    assert density.spacing == density.bandwidth == 2.0


# --- files ---------------------------------------------------------------------

provenances = st.dictionaries(
    st.text(max_size=8),
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.integers(), max_size=3),
    max_size=4,
)


@given(values=eigenvalues, zeros=st.integers(0, 9), provenance=provenances)
@settings(max_examples=25, deadline=None)
def test_a_spectrum_comes_back_bit_for_bit(tmp_path_factory, values, zeros, provenance):
    path = tmp_path_factory.mktemp("spectra") / "one"
    spectrum = Spectrum.from_eigenvalues(
        values,
        dimension=len(values) + zeros,
        noise_floor=1e-300,
        provenance=provenance,
    )
    spectrum.save(path)
    loaded = Spectrum.load(path)
    assert loaded == spectrum
    assert loaded.values.tobytes() == spectrum.values.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["one"]


def test_nothing_in_the_file_is_pickled(tmp_path):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0, 2.0).save(path)
    with np.load(path, allow_pickle=False) as archive:
        kinds = {archive[name].dtype.kind for name in archive.files}
    assert kinds == {"f", "u"}


def test_saving_replaces_and_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0).save(path)
    spectrum_of(2.0).save(str(path))
    assert Spectrum.load(str(path)) == spectrum_of(2.0)

    def fail(*_: object):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        spectrum_of(3.0).save(path)
    monkeypatch.undo()
    assert Spectrum.load(path) == spectrum_of(2.0)
    assert list(tmp_path.iterdir()) == [path]


@given(cut=st.integers(0, 700))
@settings(max_examples=30, deadline=None)
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("spectra") / "spectrum.npz"
    spectrum_of(1.0, 2.0, 5.0).save(path)
    whole = path.read_bytes()
    assert len(whole) > 700
    path.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match="spectrum"):
        Spectrum.load(path)


def test_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0, 2.0, 5.0).save(path)
    content = bytearray(path.read_bytes())
    place = content.find(np.float64(5.0).tobytes())
    content[place + 3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        Spectrum.load(path)


def rewrite_header(path: Path, **changes: object) -> None:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    head = json.loads(arrays.pop("_header").tobytes()) | changes
    encoded = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez(path, allow_pickle=False, _header=encoded, **arrays)


@pytest.mark.message
def test_files_that_are_not_ours_say_what_they_are(tmp_path):
    path = tmp_path / "spectrum.npz"
    with pytest.raises(FileNotFoundError, match=r"no saved spectrum at .*no suffix"):
        Spectrum.load(path)
    path.write_text("epoch,loss")
    with pytest.raises(ValueError, match="not a saved spectrum, or it is damaged"):
        Spectrum.load(path)
    np.savez(path, values=np.ones(2))
    with pytest.raises(ValueError, match=r"not a saved spectrum.*KeyError"):
        Spectrum.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", b"1")
    with pytest.raises(ValueError, match="not a saved spectrum"):
        Spectrum.load(path)
    np.savez(path, _header=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Spectrum.load(path)


@pytest.mark.message
def test_a_newer_format_and_another_kind_say_so(tmp_path):
    path = tmp_path / "spectrum.npz"
    spectrum_of(1.0).save(path)
    rewrite_header(path, version=3)
    with pytest.raises(
        ValueError, match=r"version 3; this Eigenscope reads up to 2\. Up"
    ):
        Spectrum.load(path)
    rewrite_header(path, version=1, kind="tail fit")
    with pytest.raises(ValueError, match="saved spectrum; it holds 'eigenscope' 'tail"):
        Spectrum.load(path)


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
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "decibel"}, "scale must be one of 'linear', 'log'; got 'decibel'"),
        ({"kind": "spline"}, "kind must be one of 'smooth', 'histogram'"),
        ({"bandwidth": 0.0}, "bandwidth must be positive and finite; got 0.0"),
        ({"bandwidth": math.nan}, "bandwidth must be positive and finite; got nan"),
        ({"bandwidth": 1e-13}, "bandwidth must be at least .*up to 3 .*got 1e-13"),
        ({"num_points": 1}, "num_points must be at least 2; got 1"),
        ({"num_bins": 0}, "num_bins must be at least 2; got 0"),
    ],
)
def test_wrong_density_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spectrum_of(1.0, 3.0).density(**options)


@pytest.mark.message
def test_a_log_axis_without_positive_values_is_refused():
    with pytest.raises(
        ValueError, match=r"above the noise floor.*largest is 0\.5.*lin"
    ):
        spectrum_of(-1.0, 0.5, noise_floor=0.5).density(scale="log")


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
