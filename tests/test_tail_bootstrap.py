"""The p-value of a power law, from replicas of the data."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tail_samples import SAMPLES, distances, pareto

from eigenscope.analysis.power_law import fit_power_law
from eigenscope.analysis.tail_bootstrap import bootstrap
from eigenscope.analysis.tail_values import Sample


@pytest.mark.parametrize("options", [{}, {"xmin": 1.2}, {"xmin": "peak"}])
def test_a_true_power_law_is_not_ruled_out(options):
    fit = fit_power_law(pareto(400, seed=4), **options)
    assert fit.goodness_of_fit(num_replicas=200).p_value > 0.1


@pytest.mark.parametrize("options", [{}, {"xmax": 20.0}, {"max_alpha": 3.0}])
def test_an_exponential_tail_is_ruled_out(options):
    values = np.random.default_rng(0).exponential(size=2000)
    fit = fit_power_law(values[values > 0.05], xmin=0.3, **options)
    result = fit.goodness_of_fit(num_replicas=200)
    assert (result.p_value, result.stderr, result.num_replicas) == (0, 0, 200)


def test_p_values_of_true_power_laws_are_spread_evenly():
    p_values = [
        fit_power_law(pareto(60, seed=seed), xmin=1.0)
        .goodness_of_fit(num_replicas=60)
        .p_value
        for seed in range(60)
    ]
    # A uniform p has mean 1/2; of 60 the mean has a standard error of 0.037.
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.15)
    assert np.std(p_values) == pytest.approx(12**-0.5, abs=0.1)


def test_p_value_counts_replicas_whose_own_scan_is_no_nearer(monkeypatch):
    fit = fit_power_law(pareto(50, seed=5))
    seen = []
    nearer = type(fit)._is_nearer

    def watch(self, replica):
        answer = nearer(self, replica)
        assert answer == (
            distances(np.repeat(replica.values, replica.counts.astype(int)))[2].min()
            < fit.ks_distance
        )
        seen.append(answer)
        return answer

    monkeypatch.setattr(type(fit), "_is_nearer", watch)
    result = fit.goodness_of_fit(num_replicas=40)
    assert result.p_value == seen.count(False) / 40
    assert 0 < result.p_value < 1


def test_replicas_mix_the_body_and_the_law():
    values = np.concatenate([np.full(30, 0.5), np.full(70, 0.25), pareto(200)])
    fit = fit_power_law(values, max_alpha=3.0)
    replicas = []

    def keep(replica):
        replicas.append(replica)
        return True

    bootstrap(
        keep,
        body=Sample.of(values[:100]),
        num_tail=200,
        draw_tail=fit._quantile,
        num_replicas=50,
        generator=torch.Generator().manual_seed(1),
    )
    assert {replica.size for replica in replicas} == {300}
    quarter = np.mean([r.counts[r.values == 0.25].sum() for r in replicas])
    assert quarter == pytest.approx(70, abs=5)  # standard error about 1
    tails = np.concatenate([r.values[r.values >= fit.xmin] for r in replicas])
    assert_allclose(
        fit.cdf(np.sort(tails)), (np.arange(len(tails)) + 0.5) / len(tails), atol=0.03
    )


def test_replicas_end_at_xmax():
    fit = fit_power_law(pareto(200), xmin=1.0, xmax=4.0, likelihood="bounded")
    drawn = fit._quantile(np.linspace(0, 1, 101))
    assert_allclose(fit.cdf(drawn), np.linspace(0, 1, 101), atol=1e-12)
    assert (drawn[0], drawn[-1]) == (1.0, pytest.approx(4.0))


def test_replicas_of_a_given_start_are_tails_alone(monkeypatch):
    values = np.concatenate([np.linspace(0.1, 0.9, 300), pareto(200)])
    fit = fit_power_law(values, xmin=1.0)
    sizes = []
    monkeypatch.setattr(
        type(fit), "_is_nearer", lambda _, replica: sizes.append(replica.size) or True
    )
    fit.goodness_of_fit(num_replicas=5)
    assert sizes == [200] * 5


def test_scans_of_replicas_obey_max_alpha():
    values = SAMPLES["light spectrum"]
    fit = fit_power_law(values, max_alpha=3.0)
    assert fit_power_law(values).ks_distance < fit.ks_distance
    assert not fit._is_nearer(Sample.of(values))


def test_replicas_find_their_own_peak():
    fit = fit_power_law(SAMPLES["lognormal"], xmin="peak")
    assert fit._is_nearer(
        Sample.of(1000 * np.linspace(1, 0, 500, endpoint=False) ** -1)
    )


def test_p_value_repeats_and_follows_its_generator():
    fit = fit_power_law(pareto(100, seed=6))
    repeats = [fit.goodness_of_fit(num_replicas=50) for _ in range(2)]
    assert repeats[0] == repeats[1]
    generator = torch.Generator().manual_seed(3)
    drawn = {
        fit.goodness_of_fit(num_replicas=50, generator=generator).p_value
        for _ in range(6)
    }
    assert len(drawn) > 1


@pytest.mark.message
def test_a_p_value_explains_what_it_needs():
    with pytest.raises(ValueError, match="num_replicas must be at least 1; got 0"):
        fit_power_law(pareto(50)).goodness_of_fit(num_replicas=0)
    halves = fit_power_law(pareto(50), weights=np.full(50, 0.5))
    with pytest.raises(ValueError, match="whole numbers to draw replicas"):
        halves.goodness_of_fit()
