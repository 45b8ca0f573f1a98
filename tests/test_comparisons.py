"""Distances with errors, distances of heights, subspaces and summaries."""

import csv

import numpy as np
import pytest
import torch
from planted import Blind, outliers_and_bulk, planted
from scipy.stats import wasserstein_distance

import eigenscope as es
from eigenscope.report.csv_files import write_csv


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(values: np.ndarray, seed: int = 0) -> es.Spectrum:
    matrix, _ = planted(values)
    return es.spectrum(
        Blind(matrix), method="slq", generator=generator(seed), tolerance=0.1
    )


# --- distances with errors -----------------------------------------------------


def test_a_distance_between_estimates_is_within_its_errors():
    left, right = outliers_and_bulk(400), outliers_and_bulk(400, seed=1) * 1.3
    truth = es.wasserstein(left, right)
    found = es.wasserstein_estimate(sampled(left), sampled(right, 1))
    assert abs(float(found.value) - truth) <= found.bias + 4 * float(found.stderr)
    assert 0 < float(found.stderr) < truth


def test_two_estimates_of_one_spectrum_are_no_farther_than_their_bias():
    values = outliers_and_bulk(400)
    for scale in ("none", "range", "max"):
        found = es.wasserstein_estimate(
            sampled(values, 3), sampled(values, 4), scale=scale
        )
        assert 0 < found.value <= found.bias + 2 * float(found.stderr)


def test_exact_spectra_have_exact_distances():
    found = es.wasserstein_estimate([1.0, 2.0], es.spectrum(torch.eye(3)))
    assert (found.value, found.stderr, found.bias) == (0.5, 0.0, 0.0)


# --- heights -------------------------------------------------------------------


def test_the_distance_of_heights_is_that_of_the_layer_hessians_code():
    drawn = np.random.default_rng(0)
    first, second = drawn.exponential(size=50) + 0.01, drawn.exponential(size=50) + 0.01

    def transformed(heights: np.ndarray) -> np.ndarray:
        logs = np.log(heights)
        mapped = (logs - logs.min()) / (logs.max() - logs.min())
        return mapped / mapped.sum()

    expected = wasserstein_distance(transformed(first), transformed(second))
    assert es.height_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_the_distance_of_heights_is_blind_to_place():
    spectrum = es.Spectrum.from_eigenvalues(np.random.default_rng(1).pareto(2.0, 200))
    density = spectrum.density()
    mirrored = density.heights[::-1].copy()
    assert es.height_distance(density, mirrored) == pytest.approx(0.0, abs=1e-18)
    moved = es.wasserstein((density.grid, density.heights), (density.grid, mirrored))
    assert moved > 0.1


# --- subspaces -----------------------------------------------------------------


def test_overlap_is_that_of_the_spans_and_not_of_their_bases():
    drawn = torch.randn(30, 4, generator=generator(0), dtype=torch.float64)
    mixed = drawn @ torch.randn(4, 4, generator=generator(1), dtype=torch.float64)
    assert es.subspace_overlap(drawn, mixed) == pytest.approx(1.0, abs=1e-12)
    assert es.subspace_overlap(drawn[:, :2], mixed) == pytest.approx(1.0, abs=1e-12)
    eye = torch.eye(30, dtype=torch.float64)
    assert es.subspace_overlap(eye[:, :3], eye[:, 3:9]) < 1e-30
    assert es.subspace_overlap(eye[:, :3], eye[:, 2:9]) == pytest.approx(1 / 3)


def test_small_and_large_angles_keep_their_digits():
    for angle in (1e-9, 1e-3, 0.8, 1.5, np.pi / 2):
        first = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
        second = torch.tensor(
            [[np.cos(angle)], [np.sin(angle)], [0.0]], dtype=torch.float64
        )
        found = float(es.principal_angles(first, second))
        assert found == pytest.approx(angle, rel=1e-9)


def test_random_subspaces_overlap_by_their_share_of_the_dimension():
    values = [
        es.subspace_overlap(
            torch.randn(200, 10, generator=generator(seed)),
            torch.randn(200, 10, generator=generator(seed + 100)),
        )
        for seed in range(10)
    ]
    assert np.mean(values) == pytest.approx(10 / 200, rel=0.1)


def test_top_eigenvectors_of_a_matrix_and_of_its_square_span_the_same():
    matrix, _ = planted(np.linspace(0.0, 1.0, 50))
    first = es.top_eigenpairs(matrix, 5)
    second = es.top_eigenpairs(matrix @ matrix, 5)
    assert es.subspace_overlap(first, second) == pytest.approx(1.0, abs=1e-12)


# --- summaries -----------------------------------------------------------------


def test_a_summary_of_an_exact_spectrum_is_exact():
    values = np.array([-2.0, -1.0, 0.0, 0.0, 3.0, 4.0])
    found = es.summarize(es.Spectrum.from_eigenvalues(values))
    assert (found.largest, found.smallest) == (4.0, -2.0)
    assert (found.trace.value, found.trace.stderr) == (pytest.approx(4.0), 0.0)
    assert found.frobenius == pytest.approx(30**0.5)
    assert found.negative_weight == pytest.approx(2 / 6)
    assert found.negative_mass == pytest.approx(3 / 10)
    assert found.stable_rank == pytest.approx(30 / 16)
    assert found.converged


def test_rounding_below_zero_is_no_negative_mass():
    values = [-1e-18, 0.0, 1.0]
    spectrum = es.Spectrum.from_eigenvalues(values, noise_floor=1e-15)
    assert es.summarize(spectrum).negative_mass == 0.0


def test_a_summary_of_an_estimate_is_near_and_has_its_errors():
    values = outliers_and_bulk(400)
    found = es.summarize(sampled(values))
    exact = es.summarize(es.Spectrum.from_eigenvalues(values))
    assert found.largest == pytest.approx(exact.largest, rel=1e-5)
    assert found.negative_mass == pytest.approx(exact.negative_mass, abs=0.02)
    assert found.effective_rank == pytest.approx(exact.effective_rank, rel=0.1)
    gap = abs(float(found.trace.value) - values.sum())
    assert gap < 4 * float(found.trace.stderr) + found.trace.bias


@pytest.mark.message
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: es.height_distance(np.ones(3), np.ones(3)),
            "a must have heights that",
        ),
        (lambda: es.height_distance(np.ones(1), np.ones(3)), "a must be at least two"),
        (
            lambda: es.height_distance(np.arange(3.0), np.arange(3.0), floor=0.0),
            "floor must be between 0 and 1; got 0",
        ),
        (
            lambda: es.subspace_overlap(torch.ones(3, 1), torch.ones(4, 1)),
            "the same space; got vectors of length 3 and 4",
        ),
        (
            lambda: es.subspace_overlap(torch.ones(3, 2), torch.ones(3, 1)),
            "a must be linearly independent vectors",
        ),
        (
            lambda: es.subspace_overlap(torch.ones(3, 1), torch.ones(3)),
            r"b must be at most D vectors as columns.*got shape \(3,\)",
        ),
        (
            lambda: es.wasserstein_estimate([1.0], [2.0], num_replicas=1),
            "num_replicas must be at least 2; got 1",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- tables ----------------------------------------------------------------------


def test_no_name_in_a_table_is_a_formula_and_numbers_stay_numbers(tmp_path):
    names = ["=1+1", "+1", "-run", "@sum", "\tx", "run=1", "a,b\n"]
    path = write_csv(tmp_path / "t.csv", ("run", "x"), [(n, -1.5) for n in names])
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["run", "x"]
    assert [row[0] for row in rows] == [f"'{n}" for n in names[:5]] + names[5:]
    assert {row[1] for row in rows} == {"-1.5"}
