"""Estimated spectra against planted ones: within their own stated errors."""

from typing import Any

import numpy as np
import pytest
import torch
from planted import Blind, InterruptAt, outliers_and_bulk, planted
from scipy.stats import wasserstein_distance

import eigenscope as es

METHODS: list[Any] = ["slq", "kpm"]
HEAVY = np.random.default_rng(5).pareto(1.5, 600)
LOW_RANK = np.concatenate(
    [np.random.default_rng(6).exponential(size=80), np.zeros(520)]
)
FAMILIES = {
    "outliers": outliers_and_bulk(600),
    "uniform": np.linspace(-1.0, 2.0, 600),
    "heavy tail": HEAVY,
    "low rank": LOW_RANK,
    "atoms": np.repeat([-1.0, 0.0, 0.5, 4.0], 150),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


def true_error(found: es.Spectrum, values: np.ndarray) -> float:
    return wasserstein_distance(found.values, values, found.weights)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_estimate_is_within_its_stated_error(family, method):
    values = FAMILIES[family]
    matrix, _ = planted(values)
    operator = Blind(matrix)
    found = es.spectrum(operator, method=method)
    assert not found.exact
    assert found.dimension == 600
    assert true_error(found, values) <= found.error
    assert found.provenance["num_matvecs"] == operator.count
    if found.converged:
        assert found.error <= 0.02 * np.abs(found.values) @ found.weights
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["outliers", "uniform", "heavy tail", "low rank"])
def test_estimates_are_within_their_errors_in_95_percent_of_seeds(family, method):
    values = FAMILIES[family]
    matrix, _ = planted(values)
    within = 0
    for seed in range(40):
        found = es.spectrum(
            Blind(matrix),
            method=method,
            tolerance=0.1,
            max_probes=8,
            num_outer=30,
            generator=generator(seed),
        )
        within += true_error(found, values) <= found.error
    # 95 % of 40 are 38; at a true level of 95 %, 35 or fewer come in 5 % of runs.
    assert within >= 36


def test_the_stated_error_is_no_gross_exaggeration():
    values = FAMILIES["outliers"]
    matrix, _ = planted(values)
    found = es.spectrum(Blind(matrix), method="slq")
    assert found.error < 6 * true_error(found, values)


def test_moments_are_unbiased_and_within_their_standard_errors():
    values = FAMILIES["outliers"]
    matrix, _ = planted(values)
    gaps: list[float] = []
    for seed in range(30):
        found = es.spectrum(
            Blind(matrix),
            method="slq",
            tolerance=0.0,
            max_probes=8,
            max_steps=12,
            num_outer=30,
            generator=generator(seed),
        )
        total = found.sum(np.square)
        gaps.append((float(total.value) - (values**2).sum()) / float(total.stderr))
    # The mean of 30 t-distributed numbers has a standard error of about 0.22.
    assert abs(np.mean(gaps)) < 0.9
    assert np.mean(np.abs(gaps) < 2.36) >= 0.85


def test_outer_pairs_count_once_and_the_rest_weighs_what_is_left():
    values = np.concatenate([[50.0, 40.0, -30.0], np.zeros(397)])
    matrix, _ = planted(values)
    found = es.spectrum(Blind(matrix), method="slq")
    for outlier in (50.0, 40.0, -30.0):
        near = abs(found.values - outlier) < 1e-6
        assert found.weights[near].sum() == pytest.approx(1 / 400, rel=1e-9)
    assert found.weights[abs(found.values) < 1e-6].sum() == pytest.approx(397 / 400)
    assert found.converged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [np.ones(50), np.concatenate([[3.0], np.zeros(49)]), np.array([2.0])],
    ids=["identity", "rank one", "one row"],
)
@pytest.mark.parametrize("num_outer", [0, 100])
def test_spaces_that_end_at_once_are_right(values, method, num_outer):
    matrix, _ = planted(values)
    found = es.spectrum(
        Blind(matrix), method=method, num_outer=num_outer, max_probes=32
    )
    assert true_error(found, values) <= max(found.error, 1e-12)


def test_the_zero_operator_is_zero():
    found = es.spectrum(Blind(torch.zeros(40, 40, dtype=torch.float64)), method="slq")
    assert not found.values.any()
    assert found.error == 0.0
    assert found.converged


def test_an_invariant_space_has_the_rule_of_all_its_steps_alone():
    matrix, _ = planted(np.repeat([1.0, 2.0, 5.0], 40))
    found = es.spectrum(Blind(matrix), method="slq", num_outer=0, max_probes=8)
    # Three distinct eigenvalues: every probe's rule has these three nodes.
    near = abs(found.values[:, None] - np.array([1.0, 2.0, 5.0])).min(1)
    assert near[found.weights > 1e-9].max() < 1e-9


def test_every_probe_is_kept_and_memory_and_grouping_change_nothing(monkeypatch):
    matrix, _ = planted(FAMILIES["uniform"])
    options: Any = {"tolerance": 0.0, "max_probes": 10, "max_steps": 16}
    found = es.spectrum(Blind(matrix), method="slq", **options)
    quadrature = found.quadrature
    assert quadrature is not None
    assert quadrature.nodes.shape == (10, 31)
    monkeypatch.setattr("eigenscope.estimators.sampling._TOGETHER", 3)
    other = es.spectrum(Blind(matrix), method="slq", **options)
    # The same probes in other blocks: matrix products round differently.
    np.testing.assert_allclose(other.values, found.values, atol=1e-9)
    small = es.spectrum(Blind(matrix), method="slq", memory="400KiB", **options)
    np.testing.assert_allclose(small.values, found.values, atol=1e-9)


def test_probes_of_a_sum_are_free_and_smoothing_needs_no_product():
    matrix, _ = planted(FAMILIES["uniform"])
    operator = Blind(matrix)
    found = es.spectrum(operator, method="slq")
    count = operator.count
    for bandwidth in (0.05, 0.2):
        density = found.density(bandwidth=bandwidth)
        mass = density.heights.sum() * density.spacing
        assert mass == pytest.approx(1.0, abs=1e-6)
        assert density.lower is not None
        assert density.upper is not None
        assert (density.lower <= density.heights).all()
        assert (density.heights <= density.upper).all()
        assert (density.lower >= 0).all()
    assert operator.count == count


def smoothed(values: np.ndarray, grid: np.ndarray, bandwidth: float) -> np.ndarray:
    shapes = np.exp(-0.5 * ((grid[:, None] - values) / bandwidth) ** 2)
    return shapes.mean(1) / (bandwidth * np.sqrt(2 * np.pi))


@pytest.mark.parametrize("method", METHODS)
def test_the_band_of_a_density_covers_it(method):
    values = FAMILIES["uniform"]
    matrix, _ = planted(values)
    shares: list[float] = []
    for seed in range(12):
        found = es.spectrum(
            Blind(matrix), method=method, tolerance=0.05, generator=generator(seed)
        )
        density = found.density(bandwidth=0.2)
        assert density.lower is not None
        assert density.upper is not None
        truth = smoothed(values, density.grid, 0.2)
        inside = (density.lower <= truth) & (truth <= density.upper)
        # Cells of a grid against points of it.
        inside |= abs(truth - density.heights) < 1e-3 * truth.max()
        shares.append(float(inside.mean()))
    assert np.mean(shares) >= 0.9


def test_files_keep_every_probe(tmp_path):
    matrix, _ = planted(FAMILIES["outliers"])
    found = es.spectrum(Blind(matrix), method="slq", tolerance=0.1)
    found.save(tmp_path / "spectrum.npz")
    loaded = es.Spectrum.load(tmp_path / "spectrum.npz")
    assert loaded == found
    assert loaded.quadrature == found.quadrature
    assert loaded.error == found.error
    assert loaded.sum(np.abs).stderr == found.sum(np.abs).stderr


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("call", [35, 52])
def test_control_c_leaves_a_valid_estimate_and_resuming_gives_the_same(
    method, call, tmp_path
):
    values = FAMILIES["outliers"]
    matrix, _ = planted(values)
    options: Any = {"tolerance": 0.0, "max_probes": 20, "num_outer": 20}
    options["max_steps"] = 16
    whole = es.spectrum(Blind(matrix), method=method, **options)
    stopped = Blind(matrix, InterruptAt(matrix, call))
    with (
        es.Run.create(tmp_path / "run", verb="test", arguments={}) as run,
        pytest.raises(es.Interrupted) as caught,
    ):
        es.spectrum(stopped, method=method, run=run, **options)
    partial: Any = caught.value.partial
    assert not partial.converged
    assert partial.weights.sum() == pytest.approx(1.0)
    assert true_error(partial, values) <= partial.error
    with es.Run.resume(tmp_path / "run", verb="test", arguments={}) as run:
        operator = Blind(matrix)
        resumed = es.spectrum(operator, method=method, run=run, **options)
    assert operator.count < int(str(whole.provenance["num_matvecs"]))
    np.testing.assert_array_equal(resumed.values, whole.values)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    assert resumed.error == whole.error


def test_control_c_before_any_probe_has_nothing_to_leave():
    matrix, _ = planted(FAMILIES["outliers"])
    with pytest.raises(es.Interrupted) as caught:
        es.spectrum(Blind(matrix, InterruptAt(matrix, 3)), method="slq")
    assert caught.value.partial is None


def test_auto_is_exact_where_that_is_cheap():
    assert es.spectrum(torch.eye(5)).exact
    diagonal = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)
    big = Blind(torch.diag(diagonal), lambda block: diagonal[:, None] * block)
    found = es.spectrum(big)
    assert found.provenance["method"] == "slq"
    assert found.converged


def test_float32_operators_are_sampled_to_their_own_rounding():
    values = FAMILIES["uniform"]
    matrix, _ = planted(values)
    found = es.spectrum(Blind(matrix.float()), method="slq")
    assert true_error(found, values) <= found.error


def test_the_interval_of_moments_is_widened_when_a_probe_grows(monkeypatch):
    monkeypatch.setattr("eigenscope.estimators.polynomial._STEPS", 1)
    values = FAMILIES["outliers"]
    matrix, _ = planted(values)
    found = es.spectrum(Blind(matrix), method="kpm", num_outer=0, max_probes=4)
    assert true_error(found, values) <= found.error


def test_a_weak_tail_is_fitted_to_weighted_values():
    values = np.random.default_rng(3).pareto(2.0, 1500) + 1.0
    matrix, _ = planted(values)
    found = es.spectrum(Blind(matrix), method="slq")
    fit = es.fit_power_law(found, xmin=2.0)
    # The exact sample's own α is 3 within its standard error.
    expected = es.fit_power_law(values, xmin=2.0)
    assert fit.alpha == pytest.approx(expected.alpha, abs=expected.alpha_stderr)
    assert fit.num_tail == pytest.approx(expected.num_tail, rel=0.05)


@pytest.mark.message
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lanczos"}, "method must be one of 'auto', 'exact', 'slq', 'kpm'"),
        ({"method": "slq", "tolerance": -1.0}, "tolerance must be finite and at leas"),
        ({"method": "exact", "tolerance": -1.0}, "tolerance must be finite and at le"),
        ({"memory": "lots"}, "a memory size must be a number of bytes .*got 'lots'"),
        ({"method": "slq", "max_probes": 1}, "max_probes must be at least 2; got 1"),
        ({"method": "kpm", "max_steps": 1}, "max_steps must be at least 2; got 1"),
        ({"method": "slq", "num_outer": -1}, "num_outer must be at least 0; got -1"),
        ({"method": "slq", "rank_bound": 2}, "are for method='exact'; got method='s"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        es.spectrum(torch.eye(3), **options)


@pytest.mark.message
def test_an_operator_without_symmetry_is_found_by_its_probes():
    matrix = torch.randn(60, 60, generator=generator(0), dtype=torch.float64)
    with pytest.raises(ValueError, match="must be symmetric"):
        es.spectrum(Blind(matrix), method="slq", num_outer=0)


@pytest.mark.message
def test_a_density_is_not_finer_than_the_kernel_of_damped_moments():
    values = FAMILIES["atoms"]
    matrix, _ = planted(values)
    options: Any = {"tolerance": 0.0, "max_probes": 4, "max_steps": 16, "num_outer": 0}
    found = es.spectrum(Blind(matrix), method="kpm", **options)
    assert found.quadrature is not None
    width = found.quadrature.kernel_width
    # 33 moments on an interval of length 5 and its margins.
    assert width == pytest.approx(2.5 * np.pi / 34, rel=0.1)
    with pytest.raises(ValueError, match=r"at least .* that damped Chebyshev moments"):
        found.density(bandwidth=0.9 * width)
    assert found.density().bandwidth >= width
    density = found.density(bandwidth=width)
    assert density.lower is not None
    assert density.upper is not None
    truth = smoothed(values, density.grid, width)
    slack = 2e-3 * truth.max()
    inside = (density.lower - slack <= truth) & (truth <= density.upper + slack)
    assert inside.mean() >= 0.95


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["outliers", "atoms", "heavy tail"])
def test_errors_sums_and_bands_are_calibrated(family, method):
    """A short form of benchmarks/calibration.py; fixed seeds, diag for any matrix."""
    values = FAMILIES[family]
    diagonal = torch.from_numpy(values)
    operator = Blind(torch.diag(diagonal), lambda block: diagonal[:, None] * block)
    within, sums, bands = [], [], []
    for seed in range(12):
        found = es.spectrum(
            operator,
            method=method,
            tolerance=0.1,
            max_probes=8,
            num_outer=30,
            generator=generator(seed),
        )
        assert found.quadrature is not None
        within.append(true_error(found, values) <= found.error)
        total = found.sum(np.square)
        allowed = 2.365 * float(total.stderr) + total.bias  # Student's t, 8 probes
        sums.append(abs(float(total.value) - (values**2).sum()) <= allowed)
        width = max(0.02 * float(np.ptp(values)), found.quadrature.kernel_width)
        density = found.density(bandwidth=width)
        truth = smoothed(values, density.grid, width)
        slack = 2e-3 * truth.max()
        inside = (density.lower - slack <= truth) & (truth <= density.upper + slack)
        bands.append(float(inside[truth > 0.01 * truth.max()].mean()))
    assert sum(within) >= 11
    # At a true level of 95 %, 9 or fewer of 12 come in 2 % of runs.
    assert sum(sums) >= 10
    assert np.mean(bands) >= 0.93


@pytest.mark.parametrize("method", METHODS)
def test_few_probes_that_miss_an_outlier_know_how_little_they_know(method):
    values = np.concatenate([[30.0], np.linspace(-1.0, 1.0, 299)])
    diagonal = torch.from_numpy(values)
    operator = Blind(torch.diag(diagonal), lambda block: diagonal[:, None] * block)
    options: Any = {"max_probes": 4, "max_steps": 8, "num_outer": 0, "tolerance": 0.0}
    hits = 0
    for seed in range(60):
        found = es.spectrum(
            operator, method=method, generator=generator(seed), **options
        )
        low, high = found.sum(np.square).interval()
        hits += low <= (values**2).sum() <= high
    # At a true level of 95 %, 52 or fewer of 60 come in 1 % of runs.
    assert hits >= 53


def test_an_interval_has_student_s_factor_and_the_bias_on_both_sides():
    few = es.Estimate(value=1.0, stderr=0.1, num_matvecs=4, num_terms=4, bias=0.5)
    assert few.interval() == pytest.approx((0.5 - 0.31824, 1.5 + 0.31824), abs=1e-5)
    many = es.Estimate(value=1.0, stderr=0.1, num_matvecs=4)
    assert many.interval(0.68268949) == pytest.approx((0.9, 1.1), abs=1e-6)
    found: Any = es.diagonal(torch.ones(30, 30).double(), num_matvecs=8)
    low, high = found.interval()
    torch.testing.assert_close((low + high) / 2, found.value)
    torch.testing.assert_close((high - low) / 2, 2.364624 * found.stderr)


@pytest.mark.message
def test_a_level_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"level must be between 0 and 1; got 95"):
        es.Estimate(value=1.0, stderr=0.1, num_matvecs=4).interval(95)
