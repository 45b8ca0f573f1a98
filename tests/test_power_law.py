"""Power-law tails against an obvious scan, closed forms and the package powerlaw."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from tail_samples import SAMPLES, distances, pareto, peer_fit, peer_warns

from eigenscope.analysis import tail_scan
from eigenscope.analysis.power_law import fit_power_law
from eigenscope.analysis.tail_values import Sample
from eigenscope.spectra import Spectrum


@pytest.mark.parametrize("name", SAMPLES)
def test_scan_finds_what_trying_every_start_finds(name):
    starts, alphas, gaps = distances(SAMPLES[name])
    best = gaps.argmin()
    fit = fit_power_law(SAMPLES[name])
    assert fit.xmin == starts[best]
    # The same formulas in another order of operations: rounding only.
    assert_allclose([fit.alpha, fit.ks_distance], [alphas[best], gaps[best]], rtol=1e-9)
    assert fit.num_tail == (SAMPLES[name] >= starts[best]).sum()
    assert fit.num_values == len(SAMPLES[name])
    assert fit.alpha_stderr == pytest.approx((fit.alpha - 1) / fit.num_tail**0.5)


@pytest.mark.parametrize("name", ["pareto", "ties", "heavy spectrum"])
def test_an_upper_end_enters_the_distance_and_not_the_exponent(name):
    values = SAMPLES[name]
    xmax = float(np.quantile(values, 0.97))
    starts, alphas, gaps = distances(values[values <= xmax], xmax)
    best = gaps.argmin()
    fit = fit_power_law(values, xmax=xmax)
    assert fit.xmin == starts[best]
    assert_allclose([fit.alpha, fit.ks_distance], [alphas[best], gaps[best]], rtol=1e-9)
    assert fit.num_above_xmax == (values > xmax).sum()


def five_digits(value):
    """Values that are closer leave the logarithms of their ratios few digits."""
    return float(f"{value:.5g}")


any_values = st.one_of(
    st.lists(st.integers(1, 12).map(float), min_size=4, max_size=80),
    st.lists(st.floats(1e-6, 1e6).map(five_digits), min_size=4, max_size=60),
    st.builds(
        lambda size, power, scale: np.exp(scale * np.linspace(0, 1, size) ** power),
        st.integers(4, 80),
        st.floats(0.2, 5),
        st.floats(0.1, 30),
    ),
    st.builds(
        lambda low, high: np.concatenate([low, 5 + np.cumsum(high)]),
        st.lists(st.floats(0.5, 2), min_size=3, max_size=30),
        st.lists(st.floats(1e-4, 1e3), min_size=3, max_size=30),
    ),
).filter(lambda values: len(set(values)) >= 3)


@settings(max_examples=300, deadline=None)
@given(any_values, st.booleans(), st.floats(0.8, 1.2))
def test_branch_and_bound_never_loses_the_best_start(values, ends, threshold):
    values = np.asarray(values)
    xmax = float(values.max()) if ends else None
    sample = Sample.of(values)
    gaps = distances(values, xmax)[2]
    found = tail_scan.best_start(sample, xmax, "unbounded")
    assert found is not None
    index, distance = found
    # Of equally good starts, rounding decides: their distances agree, not they.
    assert distance == pytest.approx(gaps.min(), rel=1e-8)
    assert gaps[index] == pytest.approx(gaps.min(), rel=1e-8)
    limit = distance * threshold
    nearer = tail_scan.best_start(sample, xmax, "unbounded", better_than=limit)
    assert (nearer is not None) == (distance < limit)


@pytest.mark.parametrize("name", ["pareto", "arithmetic", "geometric", "lognormal"])
def test_scan_evaluates_only_a_few_starts_in_full(name, monkeypatch):
    size = 20_000
    values = {
        "pareto": pareto(size),
        "arithmetic": np.arange(1.0, size),
        "geometric": np.exp(np.arange(size) * 20 / size),
        "lognormal": np.exp(np.random.default_rng(0).standard_normal(size)),
    }[name]
    evaluated = []
    full = tail_scan._tail_gaps

    def count(start, sample, logs, index):
        evaluated.append(index)
        return full(start, sample, logs, index)

    monkeypatch.setattr(tail_scan, "_tail_gaps", count)
    fit_power_law(values)
    assert 1 <= len(evaluated) <= 20


@pytest.mark.parametrize("alpha", [1.3, 2.0, 4.0])
def test_exponent_of_a_pareto_sample_is_within_its_standard_error(alpha):
    fit = fit_power_law(pareto(100_000, alpha), xmin=1.0)
    assert abs(fit.alpha - alpha) < 4 * fit.alpha_stderr


def test_bounded_likelihood_is_right_where_the_formula_is_not():
    values = pareto(400_000, alpha=2.0)
    values = values[values <= 10]
    plain = fit_power_law(values, xmin=1.0, xmax=10.0)
    bounded = fit_power_law(values, xmin=1.0, xmax=10.0, likelihood="bounded")
    assert plain.alpha == pytest.approx(2.34, abs=0.01)
    assert abs(bounded.alpha - 2) < 4 * bounded.alpha_stderr
    assert bounded.ks_distance < plain.ks_distance


@pytest.mark.parametrize("alpha", [-1.0, 0.999, 1.0, 1.5, 8.0])
def test_bounded_fit_is_the_maximum_of_its_likelihood(alpha):
    slope, span = alpha - 1, np.log(20.0)
    level = (np.arange(2000) + 0.5) / 2000
    logs = (
        level * span
        if slope == 0
        else -np.log1p(level * np.expm1(-slope * span)) / slope
    )
    fit = fit_power_law(np.exp(logs), xmin=1.0, xmax=20.0, likelihood="bounded")

    def mean_log_likelihood(a):
        return np.log(a / -np.expm1(-a * span)) - a * logs.mean()

    fitted, step = fit.alpha - 1, 1e-3
    left, middle, right = map(
        mean_log_likelihood, (fitted - step, fitted, fitted + step)
    )
    curvature = (2 * middle - left - right) / step**2
    # Central differences with steps of 1e-3 are good to about 1e-5.
    assert (right - left) / (2 * step) == pytest.approx(0, abs=1e-5)
    assert fit.alpha_stderr == pytest.approx((2000 * curvature) ** -0.5, rel=1e-3)


def test_bounded_scan_agrees_with_fits_from_each_start():
    values = np.sort(pareto(60, seed=3))
    xmax = float(values[-1])
    fits = [
        fit_power_law(values, xmin=x, xmax=xmax, likelihood="bounded")
        for x in values[:-1]
    ]
    best = min(fits, key=lambda fit: fit.ks_distance)
    found = fit_power_law(values, xmax=xmax, likelihood="bounded")
    assert (found.xmin, found.alpha) == (best.xmin, pytest.approx(best.alpha, rel=1e-9))


def test_max_alpha_keeps_steeper_tails_out_of_the_scan():
    values = SAMPLES["light spectrum"]
    starts, alphas, gaps = distances(values)
    assert alphas[gaps.argmin()] > 3
    allowed = np.where(alphas < 3, gaps, np.inf).argmin()
    assert fit_power_law(values, max_alpha=3.0).xmin == starts[allowed]


@pytest.mark.parametrize("edge", ["left", "right"])
def test_peak_is_an_edge_of_the_fullest_bin_of_the_logarithms(edge):
    values = SAMPLES["lognormal"]
    heights, edges = np.histogram(np.log10(values), bins=100)
    xmin = 10 ** edges[heights.argmax() + (0 if edge == "left" else 1)]
    fit = fit_power_law(values, xmin="peak", peak_edge=edge)
    tail = values[values >= xmin]
    assert fit.xmin == xmin
    assert fit.rule == "peak"
    assert fit.alpha == pytest.approx(1 + len(tail) / np.log(tail / xmin).sum())


def test_peak_takes_as_many_bins_as_told():
    values = SAMPLES["lognormal"]
    heights, edges = np.histogram(np.log10(values), bins=13)
    fit = fit_power_law(values, xmin="peak", bins=13)
    assert fit.xmin == 10 ** edges[heights.argmax()]


def test_order_and_container_of_the_values_do_not_matter():
    values = pareto(300).astype(np.float32)
    expected = fit_power_law(np.sort(values))
    shuffled = np.random.default_rng(0).permutation(values)
    tensor = torch.from_numpy(shuffled).requires_grad_()
    spectrum = Spectrum.from_eigenvalues(values.astype(np.float64))
    for given_values in (shuffled, tensor):
        assert fit_power_law(given_values) == expected
    assert fit_power_law(spectrum) == expected


def test_a_spectrum_stands_for_its_multiplicities_above_its_noise_floor():
    kept = pareto(40)
    values = np.sort(np.concatenate([[-1e-9, 1e-9, 0.0], kept]))
    weights = np.full(43, 2 / 100)
    weights[np.searchsorted(values, 0.0)] = 16 / 100
    spectrum = Spectrum(
        values=values, weights=weights, dimension=100, exact=True, noise_floor=1e-8
    )
    fit = fit_power_law(spectrum)
    twice = fit_power_law(np.repeat(kept, 2))
    assert (fit.xmin, fit.ks_distance) == (twice.xmin, pytest.approx(twice.ks_distance))
    assert fit.alpha == pytest.approx(twice.alpha, rel=1e-12)
    assert (fit.num_values, fit.num_below_floor, fit.noise_floor) == (80, 20, 1e-8)
    assert isinstance(fit.num_tail, int)


def test_a_stated_noise_floor_wins_over_the_one_of_the_spectrum():
    values = np.linspace(1, 20, 60)
    spectrum = Spectrum.from_eigenvalues(values, dimension=70, noise_floor=0.5)
    assert fit_power_law(spectrum).num_below_floor == 10
    assert fit_power_law(spectrum, noise_floor=1.0).num_below_floor == 11


def test_weights_count_values():
    values, counts = SAMPLES["pareto"][:200], np.arange(200) % 4
    repeated = fit_power_law(np.repeat(values, counts))
    weighted = fit_power_law(values, weights=torch.from_numpy(counts))
    assert weighted.xmin == repeated.xmin
    assert (weighted.num_tail, weighted.num_values) == (
        repeated.num_tail,
        repeated.num_values,
    )
    assert_allclose(
        [weighted.alpha, weighted.alpha_stderr, weighted.ks_distance],
        [repeated.alpha, repeated.alpha_stderr, repeated.ks_distance],
        rtol=1e-12,
    )
    halves = fit_power_law(values, weights=counts / 2)
    assert halves.num_tail == repeated.num_tail / 2
    assert halves.alpha_stderr == pytest.approx(repeated.alpha_stderr * 2**0.5)


@pytest.mark.parametrize(
    ("xmax", "likelihood"),
    [(None, "unbounded"), (30.0, "unbounded"), (30.0, "bounded")],
)
def test_density_cdf_and_ccdf_are_those_of_one_law(xmax, likelihood):
    fit = fit_power_law(SAMPLES["pareto"], xmin=1.5, xmax=xmax, likelihood=likelihood)
    grid = np.geomspace(1.5, xmax or 1e9, 20_001)
    mass = np.trapezoid(fit.pdf(grid) * grid, np.log(grid))
    assert mass == pytest.approx(1, abs=1e-5)  # trapezoids of width 1e-3
    assert_allclose(fit.cdf(grid) + fit.ccdf(grid), 1, rtol=1e-12)
    slopes = np.gradient(fit.cdf(grid), grid)[1:-1]
    assert_allclose(slopes, fit.pdf(grid)[1:-1], rtol=1e-3, atol=1e-12)
    assert fit.pdf(1.4) == fit.cdf(1.4) == 0
    assert fit.ccdf(1.4) == 1
    if xmax:
        assert fit.pdf(31.0) == fit.ccdf(31.0) == 0
        assert fit.cdf(31.0) == 1


def test_ccdf_keeps_its_digits_far_out():
    fit = fit_power_law(SAMPLES["pareto"], xmin=1.0)
    assert fit.ccdf(1e20) == pytest.approx(1e20 ** (1 - fit.alpha), rel=1e-12)


def test_empirical_ccdf_is_the_share_at_or_above_each_value():
    fit = fit_power_law(SAMPLES["ties"], xmin=0.7)
    values, shares = fit.empirical_ccdf()
    tail = SAMPLES["ties"][SAMPLES["ties"] >= 0.7]
    expected = [(tail >= value).mean() for value in np.unique(tail)]
    assert_allclose(values, np.unique(tail), rtol=0)
    assert_allclose(shares, expected, rtol=1e-12)


def test_summary_is_json_and_complete():
    summary = json.loads(json.dumps(fit_power_law(SAMPLES["ties"], xmax=9.0).summary()))
    assert {"alpha", "xmin", "xmax", "ks_distance", "alpha_stderr", "num_tail"} < {
        *summary
    }
    assert summary["num_values"] + summary["num_above_xmax"] == 800


def test_values_far_apart_neither_overflow_nor_lose_the_tail():
    values = np.concatenate([[5e-324, 1e-300], pareto(50) * 1e300])
    fit = fit_power_law(values)
    assert fit.alpha == pytest.approx(fit_power_law(pareto(50)).alpha, rel=1e-9)
    assert np.isfinite(fit_power_law(values, xmin=1e-310).alpha)


@peer_warns
@pytest.mark.peer
@pytest.mark.parametrize("name", SAMPLES)
def test_scan_agrees_with_powerlaw(name):
    values = SAMPLES[name] + 0.001 * (name == "arithmetic")  # integers are discrete
    peer = peer_fit(values).power_law
    fit = fit_power_law(values, max_alpha=3.0)
    assert fit.xmin == peer.xmin
    assert_allclose([fit.alpha, fit.ks_distance], [peer.alpha, peer.D], rtol=1e-9)


@peer_warns
@pytest.mark.peer
@pytest.mark.parametrize("xmax", [8.0, 1e4])
def test_an_upper_end_agrees_with_powerlaw(xmax):
    values = SAMPLES["pareto"]
    given_start = peer_fit(values, xmin=1.3, xmax=xmax).power_law
    fit = fit_power_law(values, xmin=1.3, xmax=xmax)
    assert_allclose(
        [fit.alpha, fit.ks_distance], [given_start.alpha, given_start.D], rtol=1e-9
    )


@peer_warns
@pytest.mark.peer
def test_a_scan_with_an_upper_end_agrees_with_powerlaw():
    # Far out: where the formula gives an exponent outside of (1.5, 3], powerlaw 2.0
    # takes the bounded likelihood instead, and its exponents jump.
    values, xmax = SAMPLES["pareto"], 1e3
    scanned = peer_fit(values, xmax=xmax).power_law
    fit = fit_power_law(values, xmax=xmax, max_alpha=3.0)
    assert fit.xmin == scanned.xmin
    assert_allclose([fit.alpha, fit.ks_distance], [scanned.alpha, scanned.D], rtol=1e-9)


@peer_warns
@pytest.mark.peer
def test_bounded_likelihood_agrees_with_powerlaws_numerical_fit():
    powerlaw = pytest.importorskip("powerlaw")
    values = pareto(2000, alpha=1.7)
    peer = powerlaw.Power_Law(
        data=values[values <= 12], xmin=1.0, xmax=12.0, force_numerical_fit=True
    )
    fit = fit_power_law(values, xmin=1.0, xmax=12.0, likelihood="bounded")
    assert fit.alpha == pytest.approx(peer.alpha, abs=2e-4)  # its tolerance is 1e-4


GOOD = pareto(50)


@pytest.mark.message
@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least 3 distinct positive ones; got 0"),
        ([1.0, 2.0, 0.0], {}, "at least 3 distinct positive ones; got 2"),
        ([1.0, 2.0, 3.0, 4.0], {"xmax": 2.5}, r"ones up to xmax=2.5; got 2"),
        ([2.0] * 10, {}, "must not all be equal; all 10 positive ones are 2"),
        ([1.0, -2.0, 3.0, -1e-9], {}, r"2 of 4 are, the least is -2.*noise_floor=2"),
        ([1.0, -2.0, 3.0, -1e-9], {"noise_floor": 1e-8}, r"1 of 4 are, the least"),
        ([1.0, np.nan, np.inf], {}, "2 of 3 are not, the first is number 1: nan"),
        (GOOD, {"xmin": 1e9}, r"at or above xmin=1e\+09; 0 of 50 are, the largest"),
        (GOOD, {"xmin": GOOD.max()}, "at least 2 distinct values .* 1 of 50 are"),
        (GOOD, {"xmin": 2.0, "xmax": 2.0}, "above xmin=2; got xmax=2"),
        (GOOD, {"xmax": -1.0}, "xmax must be positive; got -1"),
        (GOOD, {"xmin": "auto"}, "one of 'scan', 'peak' or a positive .* got 'auto'"),
        (GOOD, {"xmin": -1.0}, "or a positive number; got -1"),
        (GOOD, {"xmin": None}, "or a positive number; got None"),
        (GOOD, {"likelihood": "full"}, "one of 'unbounded', 'bounded'; got 'full'"),
        (GOOD, {"likelihood": "bounded"}, "needs xmax, where the law ends"),
        (GOOD, {"peak_edge": "top"}, "one of 'left', 'right'; got 'top'"),
        (GOOD, {"xmin": "peak", "bins": 0}, "bins must be at least 1; got 0"),
        (GOOD, {"max_alpha": 1.0}, "max_alpha must be above .* got 1.0"),
        (GOOD, {"noise_floor": -1.0}, "noise_floor must be finite and at least 0"),
        (GOOD, {"weights": np.ones(3)}, "as many as the values, 50; got 3"),
        (GOOD, {"weights": -np.ones(50)}, "not negative; the least is -1"),
        (np.ones((2, 3)), {}, r"one-dimensional; got shape \(2, 3\)"),
    ],
)
def test_bad_input_is_explained(values, options, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(np.asarray(values), **options)


@pytest.mark.message
@pytest.mark.parametrize("container", [np.asarray, torch.tensor])
def test_complex_values_are_refused(container):
    with pytest.raises(TypeError, match="real numbers; got dtype complex"):
        fit_power_law(container([1 + 1j, 2, 3]))


@pytest.mark.message
def test_a_spectrum_of_rounding_has_no_meaningful_tail():
    values = np.concatenate([[900.0, 40.0], 1e-12 * pareto(98)])
    spectrum = Spectrum.from_eigenvalues(values, noise_floor=1e-7)
    with pytest.raises(ValueError, match=r"floor 1e-07; only 2 of 100 are.*no mean"):
        fit_power_law(spectrum)


@pytest.mark.message
def test_a_spectrum_brings_its_own_weights():
    spectrum = Spectrum.from_eigenvalues(GOOD)
    with pytest.raises(ValueError, match="weights must be None when values is a"):
        fit_power_law(spectrum, weights=np.ones(50))
