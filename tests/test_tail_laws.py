"""Laws of tails and their likelihood ratios: closed forms, maxima, powerlaw."""

from typing import Any, cast

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import erfcx, expn
from scipy.stats import chi2, lognorm, norm
from tail_samples import SAMPLES, pareto, peer_fit, peer_warns

from eigenscope.analysis import tail_laws
from eigenscope.analysis.power_law import fit_power_law


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("rate", [1e-8, 0.01, 0.7, 5.0, 300.0])
def test_mass_of_a_truncated_power_law_is_an_exponential_integral(order, rate):
    family = tail_laws._Family(a=order - 1.0, b=rate, statistic=np.expm1, span=np.inf)
    expected = np.log(expn(order, rate)) + rate
    assert family.log_mass == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("a", [-30.0, -1.0, 0.5, 40.0])
@pytest.mark.parametrize("b", [1e-4, 0.5, 200.0])
def test_mass_of_a_lognormal_is_an_error_function(a, b):
    family = tail_laws._Family(a=a, b=b, statistic=np.square, span=np.inf)
    ratio = a / (2 * b**0.5)
    # erfcx(r) = 2 exp(r²) - erfcx(-r) overflows far to the left, where it is 2 exp(r²)
    log_erfcx = np.log(erfcx(ratio)) if ratio > -20 else np.log(2) + ratio**2
    expected = np.log(np.pi / (4 * b)) / 2 + log_erfcx
    assert family.log_mass == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("statistic", [np.square, np.expm1])
@pytest.mark.parametrize("span", [np.inf, 2.0])
def test_derivatives_of_the_likelihood_are_those_of_its_differences(statistic, span):
    point, means, step = np.array([0.4, -0.6]), np.array([0.9, 1.7]), 1e-4

    def at(shifted):
        return tail_laws._Family.at(shifted, statistic, span)

    for axis, shift in enumerate(step * np.eye(2)):
        up, down = at(point + shift), at(point - shift)
        slope = (up.cost(means) - down.cost(means)) / (2 * step)
        bend = (up.gradient(means) - down.gradient(means)) / (2 * step)
        # Central differences of step 1e-4 are good to about 1e-8.
        assert_allclose(at(point).gradient(means)[axis], slope, atol=1e-7)
        assert_allclose(at(point).hessian(means)[axis], bend, atol=1e-7)


@pytest.mark.parametrize("xmax", [None, 8.0])
def test_lognormal_fit_is_the_maximum_of_its_likelihood(xmax):
    values = np.exp(0.5 + 0.8 * np.random.default_rng(2).standard_normal(2000))
    fit = fit_power_law(values, xmin=1.0, xmax=xmax)
    result = fit.likelihood_ratio("power_law", "lognormal")
    tail = values[(values >= 1) & (values <= (xmax or np.inf))]

    def log_likelihood(mu, sigma):
        law: Any = lognorm(sigma, scale=np.exp(mu))
        return law.logpdf(tail).sum() - len(tail) * np.log(
            law.cdf(xmax or np.inf) - law.cdf(1.0)
        )

    mu, sigma = result.second_parameters["mu"], result.second_parameters["sigma"]
    best = log_likelihood(mu, sigma)
    bounded = fit_power_law(
        values, xmin=1.0, xmax=xmax, likelihood="bounded" if xmax else "unbounded"
    )
    ratio = np.log(bounded.pdf(tail)).sum() - best
    assert result.converged
    assert result.ratio == pytest.approx(ratio, rel=1e-9)
    assert result.ratio < 0
    for shift in (-1e-2, 1e-2):
        assert log_likelihood(mu + shift, sigma) < best
        assert log_likelihood(mu, sigma + shift) < best


def test_truncated_power_law_recovers_what_was_drawn():
    # A Pareto value survives with probability exp(-rate (x - 1)).
    generator = np.random.default_rng(7)
    values = pareto(60_000, alpha=1.8, seed=8)
    values = values[generator.random(60_000) < np.exp(-0.2 * (values - 1))]
    fit = fit_power_law(10 * values, xmin=10.0)
    result = fit.likelihood_ratio("truncated_power_law", "lognormal")
    assert result.first_parameters["alpha"] == pytest.approx(1.8, abs=0.1)
    assert result.first_parameters["rate"] == pytest.approx(0.02, abs=0.002)
    assert result.ratio > 0
    nested = fit.likelihood_ratio("power_law", "truncated_power_law")
    assert nested.nested
    assert nested.p_value < 1e-9


def test_exponential_fit_is_the_mean_excess():
    values = 2 + np.random.default_rng(0).exponential(size=500) / 3
    result = fit_power_law(values, xmin=2.0).likelihood_ratio(
        "exponential", "power_law"
    )
    rate = 1 / (values.mean() - 2)
    assert result.first_parameters["rate"] == pytest.approx(rate)
    tail = values[values >= 2]
    alpha = 1 + 1 / np.log(tail / 2).mean()
    exponential = np.log(rate) - rate * (tail - 2)
    summands = exponential - np.log((alpha - 1) / 2) + alpha * np.log(tail / 2)
    normalized = summands.sum() / (len(tail) ** 0.5 * summands.std())
    assert result.ratio == pytest.approx(summands.sum())
    assert result.normalized_ratio == pytest.approx(normalized)
    assert result.p_value == pytest.approx(2 * norm.sf(abs(normalized)))
    assert not result.nested


def test_p_value_of_nested_laws_is_that_of_twice_the_ratio():
    fit = fit_power_law(SAMPLES["wide lognormal"], xmin=20.0)
    result = fit.likelihood_ratio("power_law", "truncated_power_law")
    assert result.nested
    assert 1e-9 < result.p_value < 0.5
    assert result.p_value == pytest.approx(chi2.sf(-2 * result.ratio, df=1))


@pytest.mark.parametrize("second", ["lognormal", "truncated_power_law"])
def test_a_law_that_degenerates_to_the_power_law_draws_with_it(second):
    # Spread out more than a power law: the mean square of u exceeds 2 (mean u)².
    logs = np.random.default_rng(0).exponential(size=500) ** 1.3 / 8
    result = fit_power_law(np.exp(logs), xmin=1.0).likelihood_ratio("power_law", second)
    assert (result.ratio, result.normalized_ratio, result.p_value) == (0, 0, 1)
    assert result.converged


def test_a_truncated_power_law_never_grows():
    values = 1 + np.random.default_rng(0).random(300)
    fit = fit_power_law(values, xmin=1.0)
    result = fit.likelihood_ratio("truncated_power_law", "exponential")
    assert result.first_parameters["alpha"] == 0
    assert (result.ratio, result.p_value, result.nested) == (0, 1, True)


def test_swapping_the_laws_changes_only_the_sign():
    fit = fit_power_law(SAMPLES["wide lognormal"], xmin=2.0)
    one = fit.likelihood_ratio("lognormal", "exponential")
    other = fit.likelihood_ratio("exponential", "lognormal")
    assert one.ratio == -other.ratio
    assert one.normalized_ratio == -other.normalized_ratio
    assert one.p_value == other.p_value


LAWS = ["power_law", "lognormal", "exponential", "truncated_power_law"]
PAIRS = [
    (first, second)
    for first in LAWS
    for second in LAWS
    if first < second and {first, second} != {"exponential", "truncated_power_law"}
]


@peer_warns
@pytest.mark.peer
@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("name", ["lognormal", "wide lognormal"])
def test_likelihood_ratios_agree_with_powerlaw(name, first, second):
    values = SAMPLES[name]
    fit = fit_power_law(values, max_alpha=3.0)
    peer = peer_fit(values, xmin=fit.xmin)
    ratio, p_value = peer.distribution_compare(first, second)
    normalized, _ = peer.distribution_compare(first, second, normalized_ratio=True)
    result = fit.likelihood_ratio(first, second)
    # Its simplex stops at a tolerance of 1e-4 in the parameters.
    assert result.ratio == pytest.approx(ratio, rel=1e-4, abs=1e-4)
    assert result.p_value == pytest.approx(p_value, rel=2e-2, abs=1e-6)
    assert result.normalized_ratio == pytest.approx(normalized, rel=5e-3)


@pytest.mark.message
def test_a_comparison_names_the_laws_that_there_are():
    fit, unknown = fit_power_law(pareto(50)), cast("Any", "gamma")
    with pytest.raises(ValueError, match="different laws; both are 'lognormal'"):
        fit.likelihood_ratio("lognormal", "lognormal")
    with pytest.raises(ValueError, match=r"first must be one of 'power_law', .*gamma"):
        fit.likelihood_ratio(unknown, "lognormal")
    with pytest.raises(ValueError, match=r"second must be one of 'power_law', .*gamma"):
        fit.likelihood_ratio("lognormal", unknown)
