"""Traces, diagonals and functions of operators whose eigenvalues are planted."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from planted import Blind, InterruptAt, outliers_and_bulk, planted

import eigenscope as es

METHODS: list[Any] = ["xtrace", "hutch++", "hutchinson"]
VALUES = outliers_and_bulk(300)
POSITIVE = np.linspace(0.5, 4.0, 300)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(2000 + seed)


@pytest.mark.parametrize(
    ("method", "law"),
    [("xtrace", None)]
    + [(m, law) for m in METHODS[1:] for law in ("normal", "sign", "sphere")],
)
def test_a_trace_is_unbiased_and_within_its_standard_error(method, law):
    values = VALUES + 1.0  # what is left after a sketch has a trace, too
    matrix, _ = planted(values)
    gaps: list[float] = []
    for seed in range(60):
        operator = Blind(matrix)
        found = es.trace(
            operator, method=method, num_matvecs=60, law=law, generator=generator(seed)
        )
        assert operator.count == found.num_matvecs <= 60
        gaps.append((float(found.value) - values.sum()) / float(found.stderr))
    # 60 t-like numbers: their mean has a standard error of about 0.14, and 95 % are
    # within 2.1 (20 probes) or 1.97; three standard deviations of the count are 5.
    assert abs(np.mean(gaps)) < 0.6
    assert np.mean(np.abs(gaps) < 2.1) >= 0.85


def test_the_error_of_a_shared_sketch_is_honest_where_eigenvalues_decay():
    decaying = np.random.default_rng(6).exponential(size=80)
    values = np.concatenate([decaying, np.zeros(520)])
    matrix, _ = planted(values)
    scores: list[float] = []
    for seed in range(40):
        found = es.trace(
            matrix, num_matvecs=60, generator=torch.Generator().manual_seed(seed)
        )
        scores.append((float(found.value) - values.sum()) / float(found.stderr))
    # 30 probes; at a true level of 95 %, 34 or fewer of 40 come in 1 % of runs.
    assert sum(abs(score) < 2.045 for score in scores) >= 35
    assert np.sqrt(np.mean(np.square(scores))) < 1.35


def test_sketches_beat_plain_probes_where_few_eigenvalues_dominate():
    matrix, _ = planted(np.concatenate([np.linspace(50, 100, 12), np.ones(288)]))
    errors = {
        method: float(es.trace(matrix, method=method, num_matvecs=60).stderr)
        for method in METHODS
    }
    assert errors["xtrace"] < 0.1 * errors["hutchinson"]
    assert errors["hutch++"] < 0.1 * errors["hutchinson"]


@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
def test_a_matrix_of_low_rank_has_its_trace_exactly(method):
    matrix, _ = planted(np.concatenate([[3.0, -1.0, 0.5], np.zeros(197)]))
    found = es.trace(matrix, method=method, num_matvecs=30)
    # Sums of 200 products.
    assert found.value == pytest.approx(2.5, abs=1e-10)
    assert float(found.stderr) < 1e-10
    zero = es.trace(torch.zeros(50, 50), method=method, num_matvecs=12)
    assert (zero.value, zero.stderr) == (0.0, 0.0)


def test_as_many_products_as_rows_are_exact():
    matrix, _ = planted(VALUES[:20])
    found = es.trace(matrix)
    assert found.value == pytest.approx(VALUES[:20].sum(), abs=1e-12)
    assert found.stderr == 0.0
    assert found.num_matvecs == 20
    assert found.provenance["method"] == "exact"
    exact = es.diagonal(matrix, method="hutch++")
    torch.testing.assert_close(exact.value, matrix.diagonal(), rtol=0, atol=1e-12)


def test_a_diagonal_matrix_is_exact_under_signs():
    matrix = torch.diag(torch.linspace(-1.0, 2.0, 50, dtype=torch.float64))
    found = es.diagonal(matrix, num_matvecs=2)
    torch.testing.assert_close(found.value, matrix.diagonal(), rtol=0, atol=1e-14)
    total = es.trace(matrix, method="hutchinson", num_matvecs=3)
    assert total.value == pytest.approx(25.0, abs=1e-12)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_a_diagonal_is_within_its_standard_errors(method):
    matrix, _ = planted(VALUES)
    truth = matrix.diagonal()
    within: list[float] = []
    for seed in range(10):
        found: Any = es.diagonal(
            matrix, method=method, num_matvecs=90, generator=generator(seed)
        )
        within.append(
            float(
                ((found.value - truth).abs() < 2 * found.stderr).mean(
                    dtype=torch.float64
                )
            )
        )
    assert 0.9 < np.mean(within) <= 1.0


@pytest.mark.parametrize(
    ("function", "method"),
    [
        *((es.trace, method) for method in ("hutchinson", "hutch++", "xtrace")),
        *((es.diagonal, method) for method in ("hutchinson", "hutch++")),
    ],
)
def test_products_are_kept_in_a_run_and_not_taken_again(function, method, tmp_path):
    matrix, _ = planted(VALUES)
    options: Any = {"method": method, "num_matvecs": 60}
    whole = function(Blind(matrix), **options)
    with (
        es.Run.create(tmp_path / "run", verb="test", arguments={}) as run,
        pytest.raises(es.Interrupted),
    ):
        function(Blind(matrix, InterruptAt(matrix, 5)), run=run, **options)
    with es.Run.resume(tmp_path / "run", verb="test", arguments={}) as run:
        operator = Blind(matrix)
        resumed = function(operator, run=run, **options)
        assert 60 - 32 <= operator.count <= 60 - 28
        assert resumed.num_matvecs == 60
        again = Blind(matrix)
        function(again, run=run, **options)
        assert again.count == 0
    torch.testing.assert_close(
        torch.as_tensor(resumed.value), torch.as_tensor(whole.value), rtol=0, atol=0
    )


def test_control_c_leaves_the_mean_of_the_probes_there_are():
    matrix, _ = planted(VALUES)
    with pytest.raises(es.Interrupted) as caught:
        es.trace(Blind(matrix, InterruptAt(matrix, 4)), num_matvecs=100)
    partial: Any = caught.value.partial
    assert not partial.converged
    assert partial.num_matvecs == 24
    assert abs(partial.value - VALUES.sum()) < 4 * partial.stderr
    with pytest.raises(es.Interrupted) as caught:
        es.trace(Blind(matrix, InterruptAt(matrix, 1)))
    assert caught.value.partial is None


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_control_c_leaves_the_mean_diagonal_of_the_probes_there_are(method):
    matrix, _ = planted(VALUES)
    stopped = Blind(matrix, InterruptAt(matrix, 4))
    with pytest.raises(es.Interrupted) as caught:
        es.diagonal(stopped, method=method, num_matvecs=90)
    partial: Any = caught.value.partial
    assert not partial.converged
    assert partial.num_matvecs == 24
    gaps = (partial.value - matrix.diagonal()).abs() / partial.stderr
    # 24 probes: Student's 95 % quantile is 2.07; entries share their probes.
    assert 0.85 < float((gaps < 2.07).double().mean()) <= 1.0
    with pytest.raises(es.Interrupted) as caught:
        es.diagonal(Blind(matrix, InterruptAt(matrix, 1)))
    assert caught.value.partial is None


# --- functions -----------------------------------------------------------------


@pytest.mark.parametrize("is_exact", [True, False])
def test_sums_over_the_spectrum_are_within_their_errors(is_exact):
    matrix, _ = planted(POSITIVE)
    operand: Any = matrix if is_exact else Blind(matrix)
    options: Any = {} if is_exact else {"method": "slq"}
    cases = [
        (es.log_determinant(operand, **options), np.log(POSITIVE).sum()),
        (es.spectral_sum(operand, np.exp, **options), np.exp(POSITIVE).sum()),
        (es.norm(operand, **options), np.linalg.norm(POSITIVE)),
        (es.norm(operand, "nuclear", **options), POSITIVE.sum()),
    ]
    for found, truth in cases:
        if is_exact:
            assert found.value == pytest.approx(truth, rel=1e-12)
            assert found.stderr == 0.0
        else:
            gap = abs(float(found.value) - truth)
            assert 0 < float(found.stderr) < 0.02 * abs(truth)
            assert gap < 4 * float(found.stderr) + found.bias


def test_the_spectral_norm_is_the_largest_modulus():
    matrix, _ = planted(np.concatenate([[-30.0], POSITIVE]))
    assert es.norm(matrix, "spectral").value == pytest.approx(30.0, rel=1e-12)
    found = es.norm(Blind(matrix), "spectral", method="lanczos")
    assert abs(float(found.value) - 30.0) <= found.bias + 1e-12
    assert es.norm(es.spectrum(matrix), "spectral").value == pytest.approx(30.0)


SUMS: list[Any] = [
    (lambda operand, **options: es.spectral_sum(operand, np.exp, **options), 42),
    (es.log_determinant, 42),
    (es.norm, 42),
    (lambda operand, **options: es.norm(operand, "nuclear", **options), 42),
]


@pytest.mark.parametrize(("function", "call"), SUMS)
def test_sums_resume_group_by_group_and_leave_a_partial_one(function, call, tmp_path):
    matrix, _ = planted(POSITIVE)
    options: Any = {"method": "slq", "tolerance": 0.0, "max_probes": 24}
    options |= {"max_steps": 16, "num_outer": 20}
    whole = function(Blind(matrix), **options)
    stopped = Blind(matrix, InterruptAt(matrix, call))
    with (
        es.Run.create(tmp_path / "run", verb="test", arguments={}) as run,
        pytest.raises(es.Interrupted) as caught,
    ):
        function(stopped, run=run, **options)
    partial: Any = caught.value.partial
    assert not partial.converged
    assert abs(partial.value - whole.value) < 5 * partial.stderr + partial.bias
    with es.Run.resume(tmp_path / "run", verb="test", arguments={}) as run:
        operator = Blind(matrix)
        resumed = function(operator, run=run, **options)
        assert 0 < operator.count <= whole.num_matvecs - 20 - 8 * 16
        assert es.norm(Blind(matrix), "nuclear", run=run, **options).value > 0
    assert (resumed.value, resumed.stderr) == (whole.value, whole.stderr)


def test_the_spectral_norm_resumes_and_leaves_a_partial_one(tmp_path):
    matrix, _ = planted(np.concatenate([np.linspace(2.99, 3.0, 30), POSITIVE / 2]))
    whole = es.norm(Blind(matrix), "spectral", method="lanczos")
    stopped = Blind(matrix, InterruptAt(matrix, 56))
    with (
        es.Run.create(tmp_path / "run", verb="test", arguments={}) as run,
        pytest.raises(es.Interrupted) as caught,
    ):
        es.norm(stopped, "spectral", run=run, method="lanczos")
    partial: Any = caught.value.partial
    assert not partial.converged
    assert partial.value <= whole.value + 1e-9
    with es.Run.resume(tmp_path / "run", verb="test", arguments={}) as run:
        operator = Blind(matrix)
        resumed = es.norm(operator, "spectral", run=run, method="lanczos")
    assert operator.count < whole.num_matvecs
    assert resumed.value == whole.value


def test_a_function_times_vectors_resumes_product_by_product(tmp_path):
    matrix, _ = planted(POSITIVE)
    vectors = torch.randn(300, 2, generator=generator(1), dtype=torch.float64)
    counted = Blind(matrix)
    whole = es.apply_function(counted, np.sqrt, vectors)
    stopped = Blind(matrix, InterruptAt(matrix, 11))
    with (
        es.Run.create(tmp_path / "run", verb="test", arguments={}) as run,
        pytest.raises(es.Interrupted) as caught,
    ):
        es.apply_function(stopped, np.sqrt, vectors, run=run)
    # Eight steps of a smooth function.
    torch.testing.assert_close(caught.value.partial, whole, rtol=0, atol=1e-2)
    with es.Run.resume(tmp_path / "run", verb="test", arguments={}) as run:
        operator = Blind(matrix)
        resumed = es.apply_function(operator, np.sqrt, vectors, run=run)
        assert operator.count == counted.count - 20
        # Products do not depend on the function.
        again = Blind(matrix)
        es.apply_function(again, np.square, vectors, run=run)
        assert again.count == 0
        with pytest.raises(ValueError, match=r"these differ .*vectors: "):
            es.apply_function(again, np.sqrt, 2 * vectors, run=run)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    with pytest.raises(es.Interrupted) as caught:
        es.apply_function(Blind(matrix, InterruptAt(matrix, 2)), np.sqrt, vectors)
    assert caught.value.partial is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_function_of_an_operator_times_vectors_is_that_of_the_dense_one(count):
    matrix, _ = planted(POSITIVE)
    vectors = torch.randn(300, count, generator=generator(0), dtype=torch.float64)
    for function, dense in (
        (np.sqrt, scipy.linalg.sqrtm(matrix.numpy())),
        (np.exp, scipy.linalg.expm(matrix.numpy())),
        (np.reciprocal, np.linalg.inv(matrix.numpy())),
    ):
        found = es.apply_function(Blind(matrix), function, vectors)
        truth = torch.from_numpy(np.real(dense)) @ vectors
        # Stops when four steps change it by 1e-8.
        torch.testing.assert_close(found, truth, rtol=0, atol=1e-6)
    single = es.apply_function(Blind(matrix), np.exp, vectors[:, 0])
    assert single.shape == (300,)


def test_an_invariant_vector_needs_one_step():
    operator = Blind(torch.diag(torch.tensor([4.0, 9.0, 16.0], dtype=torch.float64)))
    unit = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    assert es.apply_function(operator, np.sqrt, unit).tolist() == [0.0, 6.0, 0.0]
    assert operator.count == 1
    both = torch.stack([unit, torch.ones(3, dtype=torch.float64)], 1)
    found = es.apply_function(operator, np.reciprocal, both)
    # The first column ends while the second goes on: f is not asked at zero.
    expected = both / operator.matrix.diagonal()[:, None]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.message
@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (es.trace, {"method": "power"}, "method must be one of 'xtrace', 'hutch"),
        (es.trace, {"num_matvecs": 3}, "num_matvecs must be at least 4 for method='x"),
        (es.trace, {"law": "sign"}, "law must be 'sphere'.*got 'sign'.*too small"),
        (es.trace, {"law": "cauchy"}, "law must be one of 'sphere', 'sign', 'normal'"),
        (es.diagonal, {"method": "xtrace"}, "method must be one of 'hutch\\+\\+', 'h"),
        (es.diagonal, {"num_matvecs": 1}, "at least 2 for method='hutchinson'; got 1"),
        (es.norm, {"kind": "max"}, "kind must be one of 'frobenius', 'nuclear', 'spe"),
        (es.log_determinant, {}, "least eigenvalue is -1, and the noise floor"),
    ],
)
def test_wrong_options_are_refused(function, options, message):
    values = torch.diag(torch.linspace(-1.0, 1.0, 200, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        function(values, **options)


@pytest.mark.message
def test_functions_and_vectors_that_do_not_fit_are_refused():
    matrix = torch.eye(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"finite on the whole spectrum; it is inf"):
        es.spectral_sum(torch.zeros(2, 2), np.reciprocal)
    with pytest.raises(ValueError, match=r"shape \(3,\) or \(3, m\); got \(2,\)"):
        es.apply_function(matrix, np.exp, torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"tolerance must be positive.*got -1"):
        es.apply_function(matrix, np.exp, torch.ones(3), tolerance=-1)
    with pytest.raises(ValueError, match=r"must not be zero"):
        es.apply_function(matrix, np.exp, torch.zeros(3, dtype=torch.float64))
    hard, _ = planted(np.linspace(1e-6, 1.0, 200))
    ones = torch.ones(200, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"more than max_steps = 8 steps"):
        es.apply_function(hard, np.reciprocal, ones, max_steps=8)
