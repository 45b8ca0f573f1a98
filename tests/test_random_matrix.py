"""Bulks against the laws that they are drawn from, with planted outliers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from planted import Blind

import eigenscope as es


def wishart(rows: int, columns: int, seed: int = 0, spikes: Any = ()) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(size=(rows, columns))
    for place, factor in enumerate(spikes):
        drawn[place] *= factor
    return torch.from_numpy(drawn @ drawn.T / columns)


def wigner(size: int, seed: int = 0, radius: float = 2.0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(size=(size, size))
    return torch.from_numpy((drawn + drawn.T) * radius / math.sqrt(8 * size))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("variance", [1.0, 1e-6])
def test_a_wishart_bulk_has_its_variance_ratio_and_edges(ratio, variance):
    matrix = variance * wishart(400, round(400 / ratio))
    bulk = es.fit_bulk(es.spectrum(matrix))
    # Fluctuations of quantiles are of order 1/N; the ratio follows from the edges.
    assert bulk.scale == pytest.approx(variance, rel=0.02)
    assert bulk.ratio == pytest.approx(ratio, rel=0.05)
    assert bulk.upper == pytest.approx(variance * (1 + ratio**0.5) ** 2, rel=0.02)
    assert bulk.num_above == bulk.num_below == bulk.num_zero == 0
    assert bulk.ks_distance < 0.02
    assert bulk.distance < 0.01


def test_outliers_above_the_bulk_are_counted():
    # Rows scaled by s > (1 + √γ)^(1/2) leave the bulk (Baik, Ben Arous, Péché).
    matrix = wishart(300, 1200, spikes=[3.0, 4.0, 6.0, 6.0])
    bulk = es.fit_bulk(es.spectrum(matrix))
    assert bulk.num_above == 4
    assert bulk.num_bulk == 296
    assert bulk.ratio == pytest.approx(0.25, rel=0.1)


def test_many_outliers_leave_the_bulk_round_by_round():
    matrix = wishart(300, 1200, spikes=np.linspace(3.0, 6.0, 40))
    bulk = es.fit_bulk(es.spectrum(matrix))
    assert bulk.num_above == 40
    assert bulk.upper == pytest.approx(1.48**2, rel=0.05)


def test_the_zeros_of_a_low_rank_matrix_take_no_part():
    factor = torch.from_numpy(np.random.default_rng(1).normal(size=(200, 500)))
    small = es.fit_bulk(es.spectrum(es.gram(factor, side="rows")))
    large = es.fit_bulk(es.spectrum(es.gram(factor, side="columns")))
    assert large.num_zero == 300
    assert large.upper == pytest.approx(small.upper, rel=1e-9)
    assert large.num_bulk == 200


def test_a_wigner_bulk_has_its_radius_and_outliers_on_either_side():
    matrix = wigner(400, radius=3.0)
    matrix += torch.diag(torch.tensor([30.0, 20.0, -25.0] + [0.0] * 397)).double()
    bulk = es.fit_bulk(es.spectrum(matrix), law="semicircle")
    assert bulk.scale == pytest.approx(3.0, rel=0.02)
    assert (bulk.num_above, bulk.num_below) == (2, 1)
    assert bulk.ks_distance < 0.02
    shifted = es.fit_bulk(es.spectrum(matrix).values + 7.0, law="semicircle")
    assert (shifted.upper + shifted.lower) / 2 == pytest.approx(7.0, abs=0.05)


def test_the_goodness_of_fit_tells_the_laws_apart():
    right = es.fit_bulk(es.spectrum(wishart(400, 600)))
    wrong = es.fit_bulk(es.spectrum(wishart(400, 600)), law="semicircle")
    assert wrong.ks_distance > 5 * right.ks_distance
    assert wrong.distance > 5 * right.distance


@pytest.mark.parametrize("law", ["marchenko_pastur", "semicircle"])
def test_the_density_of_a_law_is_the_derivative_of_its_cdf(law):
    values = es.spectrum(wishart(300, 900)).values
    bulk = es.fit_bulk(values, law=law)
    places = np.linspace(bulk.lower - 0.1, bulk.upper + 0.1, 20_001)
    steps = (bulk.pdf(places[1:]) + bulk.pdf(places[:-1])) / 2 * np.diff(places)
    # The trapezoidal rule at square-root edges, and a table of 2001 angles.
    np.testing.assert_allclose(np.cumsum(steps), bulk.cdf(places[1:]), atol=1e-4)
    assert bulk.cdf(bulk.lower - 1.0) == 0.0
    assert bulk.cdf(bulk.upper + 1.0) == 1.0


def test_an_estimated_spectrum_has_nearly_the_same_bulk_and_outliers():
    matrix = wishart(500, 1500, spikes=[4.0, 5.0, 6.0])
    exact = es.fit_bulk(es.spectrum(matrix))
    found = es.fit_bulk(es.spectrum(Blind(matrix), method="slq"))
    assert found.upper == pytest.approx(exact.upper, rel=0.05)
    assert found.num_above == pytest.approx(exact.num_above, abs=0.5)


@pytest.mark.message
@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(9), {"law": "gauss"}, "law must be one of 'marchenko_pastur', 'semi"),
        (np.arange(9.0) + 1, {}, "at least 10 distinct values above the noise floor"),
        (np.ones(90), {}, "at least 10 distinct values.*got 1"),
        (np.arange(20.0) - 5, {}, "positive spectra; the least value is -5"),
    ],
)
def test_what_is_no_bulk_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        es.fit_bulk(values, **options)
