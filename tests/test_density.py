import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_cases import ROUNDING, eigenvalues, spectrum_of

from eigenscope.spectra import Spectrum


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
