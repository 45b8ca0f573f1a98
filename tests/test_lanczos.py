"""Eigenpairs from products alone, of matrices whose eigenpairs are planted."""

from typing import Any

import numpy as np
import pytest
import torch
from planted import Blind, InterruptAt, outliers_and_bulk, planted

import eigenscope as es
from eigenscope.estimators.basis import Basis

ENDS: list[Any] = ["largest", "smallest", "magnitude", "both"]


def best(values: np.ndarray, k: int, which: str) -> np.ndarray:
    """The wanted values, sorted by the definition of each criterion."""
    ordered = sorted(values)
    if which == "largest":
        return np.array(ordered[::-1][:k])
    if which == "smallest":
        return np.array(ordered[:k])
    if which == "magnitude":
        return np.array(sorted(values, key=lambda value: -abs(value))[:k])
    upper = ordered[::-1][: -(-k // 2)]
    return np.array(upper + ordered[: k // 2])


def pairs_of(matrix: torch.Tensor, k: int, **options: Any) -> es.Eigenpairs:
    return es.top_eigenpairs(Blind(matrix), k, method="lanczos", **options)


def check(pairs: es.Eigenpairs, matrix: torch.Tensor, expected: np.ndarray) -> None:
    """Values, true residuals, flags and orthonormality."""
    scale = max(float(np.linalg.norm(matrix.numpy(), 2)), 1e-300)
    # By Weyl's inequality an eigenvalue is within the residual, 1e-6 |λ|_max.
    torch.testing.assert_close(
        pairs.values, torch.from_numpy(expected), rtol=0, atol=1e-6 * scale
    )
    gaps = matrix @ pairs.vectors - pairs.vectors * pairs.values
    true = torch.linalg.vector_norm(gaps, dim=0)
    torch.testing.assert_close(pairs.residuals, true, rtol=1e-6, atol=1e-14 * scale)
    assert bool((true <= 1e-6 * scale).all())
    assert bool(pairs.converged.all())
    eye = torch.eye(len(pairs), dtype=torch.float64)
    # A basis that is orthogonalized twice is orthogonal to rounding.
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_planted_pairs_are_found_at_every_end(which, k, block_size):
    values = outliers_and_bulk(400)
    matrix, _ = planted(values)
    pairs = pairs_of(matrix, k, which=which, block_size=block_size)
    check(pairs, matrix, best(values, k, which))


@pytest.mark.parametrize("copies", [2, 5, 12])
@pytest.mark.parametrize("block_size", [1, 3])
def test_a_multiple_eigenvalue_is_found_as_often_as_it_is_there(copies, block_size):
    rest = np.random.default_rng(1).uniform(0.0, 1.0, 300)
    values = np.concatenate([np.full(copies, 4.0), [2.0], rest])
    matrix, _ = planted(values)
    pairs = pairs_of(matrix, copies + 3, block_size=block_size)
    check(pairs, matrix, best(values, copies + 3, "largest"))
    assert pairs.provenance["multiplicities_confirmed"]


def test_no_eigenvalue_shows_twice_after_hundreds_of_products():
    # The outlier converges at once: without orthogonality its ghosts would follow.
    values = np.concatenate([[1000.0], np.linspace(0.0, 1.0, 299)])
    matrix, _ = planted(values)
    pairs = pairs_of(matrix, 12, tolerance=1e-9)
    assert int((pairs.values > 2).sum()) == 1
    assert pairs.provenance["num_restarts"]
    torch.testing.assert_close(
        pairs.values, torch.from_numpy(best(values, 12, "largest")), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize(
    "values",
    [
        np.zeros(30),
        np.ones(30),
        np.array([-3.0] + [0.0] * 29),
        np.array([5.0, 5.0] + [1.0] * 28),
    ],
    ids=["zero", "identity", "rank one", "two values"],
)
def test_operators_whose_krylov_spaces_end_at_once_are_right(values, k, which):
    matrix, _ = planted(values)
    check(pairs_of(matrix, k, which=which), matrix, best(values, k, which))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_tiny_dimensions_give_every_pair(size):
    values = np.random.default_rng(size).normal(size=size)
    matrix, _ = planted(values)
    for k in range(1, size + 1):
        for which in ENDS:
            pairs = pairs_of(matrix, k, which=which, block_size=4)
            check(pairs, matrix, best(values, k, which))


def test_pairs_of_a_float32_operator_reach_what_its_products_allow():
    values = outliers_and_bulk(300)
    matrix, _ = planted(values)
    pairs = pairs_of(matrix.float(), 4)
    assert pairs.vectors.dtype == torch.float32
    assert pairs.values.dtype == torch.float64
    assert bool(pairs.converged.all())
    # 1000 ε of float32 times |λ|_max.
    expected = torch.from_numpy(best(values, 4, "largest"))
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1.2e-4 * 20)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squares_beyond_float32_do_no_harm(scale):
    values = np.concatenate([np.zeros(10), np.linspace(-1, 5, 30)])
    matrix = (planted(values)[0] * scale).float()
    found = pairs_of(matrix, 3)
    assert bool(found.converged.all())
    assert found.values.numpy() / scale == pytest.approx(values[:-4:-1], rel=1e-4)
    density = es.spectrum(matrix, method="slq", max_probes=4)
    assert abs(density.moment(1) / scale - values.mean()) < 1e-3


def test_half_precision_products_are_taken_and_flagged_by_their_own_rounding():
    matrix, _ = planted(np.array([8.0, 4.0] + [0.0] * 20))
    pairs = pairs_of(matrix.bfloat16(), 1)
    assert pairs.vectors.dtype == torch.bfloat16
    assert float(pairs.values[0]) == pytest.approx(8.0, rel=0.02)


def test_spent_products_leave_flags_and_true_residuals():
    values = np.linspace(0.0, 1.0, 500) ** 2
    matrix, _ = planted(values)
    pairs = pairs_of(matrix, 6, max_matvecs=30)
    assert not bool(pairs.converged.all())
    gaps = matrix @ pairs.vectors - pairs.vectors * pairs.values
    true = torch.linalg.vector_norm(gaps, dim=0)
    torch.testing.assert_close(pairs.residuals, true, rtol=1e-9, atol=1e-12)


def test_the_same_seed_gives_the_same_bits_and_products_are_counted():
    matrix, _ = planted(outliers_and_bulk(200))
    operator = Blind(matrix)
    first = es.top_eigenpairs(operator, 3, method="lanczos")
    assert first.provenance["num_matvecs"] == operator.count
    again = es.top_eigenpairs(Blind(matrix), 3, method="lanczos")
    assert torch.equal(first.vectors, again.vectors)
    other = torch.Generator().manual_seed(5)
    moved = es.top_eigenpairs(Blind(matrix), 3, method="lanczos", generator=other)
    assert not torch.equal(first.vectors, moved.vectors)


def test_a_small_matrix_is_dense_and_a_large_or_blind_one_is_not():
    assert es.top_eigenpairs(torch.eye(9), 1).provenance["method"] == "exact"
    blind = Blind(torch.diag(torch.linspace(0, 1, 2001, dtype=torch.float64) ** 9))
    pairs = es.top_eigenpairs(blind, 1)
    assert pairs.provenance["method"] == "lanczos"
    assert blind.count < 300
    matrix, _ = planted(outliers_and_bulk(100))
    small = es.top_eigenpairs(matrix, 2, memory="100KiB")
    assert small.provenance["method"] == "lanczos"


def test_a_basis_beyond_its_memory_goes_to_disk_and_changes_nothing(monkeypatch):
    values = outliers_and_bulk(300)
    matrix, _ = planted(values)
    monkeypatch.setattr("eigenscope.estimators.basis._PANEL_BYTES", 300 * 8 * 7)
    in_memory = pairs_of(matrix, 3)
    spilled: list[int] = []
    append = Basis.append

    def watched(self: Basis, block: torch.Tensor) -> None:
        append(self, block)
        spilled.append(self.num_spilled)

    monkeypatch.setattr(Basis, "append", watched)
    on_disk = pairs_of(matrix, 3, memory=300 * 8 * 10)
    assert max(spilled) > 0
    check(on_disk, matrix, best(values, 3, "largest"))
    # The smaller basis restarts more often: the same pairs, not the same bits.
    torch.testing.assert_close(on_disk.values, in_memory.values, rtol=0, atol=1e-9)


def test_rotating_a_basis_of_ragged_panels_is_a_product(monkeypatch):
    monkeypatch.setattr("eigenscope.estimators.basis._PANEL_BYTES", 50 * 8 * 3)
    monkeypatch.setattr("eigenscope.estimators.basis._COLUMNS_AT_ONCE", 7)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 50, generator=generator, dtype=torch.float64)
    turn = torch.randn(10, 5, generator=generator, dtype=torch.float64)
    basis = Basis(
        1, 50, dtype=torch.float64, device=torch.device("cpu"), memory=50 * 8 * 4
    )
    basis.append(rows[None, :4])
    basis.append(rows[None, 4:])
    assert basis.num_spilled == 3
    torch.testing.assert_close(basis.vectors()[0], rows, rtol=0, atol=0)
    basis.rotate(turn)
    # Sums of ten products.
    torch.testing.assert_close(basis.vectors()[0], turn.T @ rows, rtol=0, atol=1e-14)


@pytest.mark.parametrize("call", [2, 9, 60])
def test_control_c_leaves_the_pairs_as_they_are(call):
    values = np.linspace(0.0, 1.0, 500) ** 2
    matrix, _ = planted(values)
    operator = Blind(matrix, InterruptAt(matrix, call))
    with pytest.raises(es.Interrupted) as caught:
        es.top_eigenpairs(operator, 3, method="lanczos")
    assert issubclass(es.Interrupted, KeyboardInterrupt)
    partial: Any = caught.value.partial
    if call == 2:
        assert partial is None
        return
    gaps = matrix @ partial.vectors - partial.vectors * partial.values
    true = torch.linalg.vector_norm(gaps, dim=0)
    # The recurrence knows its residuals to rounding.
    torch.testing.assert_close(partial.residuals, true, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("part", [0.7, 0.95])
def test_an_interrupted_search_resumes_to_the_same_bits(part, tmp_path):
    matrix, _ = planted(np.linspace(0.0, 1.0, 400) ** 3)
    whole = es.top_eigenpairs(Blind(matrix), 5, method="lanczos")
    products = int(str(whole.provenance["num_matvecs"]))
    operator = Blind(matrix, InterruptAt(matrix, int(part * products / 2)))
    with (
        es.Run.create(tmp_path / "run", verb="test", arguments={}) as run,
        pytest.raises(es.Interrupted),
    ):
        es.top_eigenpairs(operator, 5, method="lanczos", run=run)
    with es.Run.resume(tmp_path / "run", verb="test", arguments={}) as run:
        operator = Blind(matrix)
        resumed = es.top_eigenpairs(operator, 5, method="lanczos", run=run)
    assert torch.equal(resumed.vectors, whole.vectors)
    assert torch.equal(resumed.values, whole.values)
    assert resumed.provenance["num_matvecs"] == whole.provenance["num_matvecs"]
    assert operator.count < products


@pytest.mark.message
def test_an_operator_without_symmetry_is_found_by_its_products():
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(60, 60, generator=generator, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must be symmetric.*⟨v, Aw⟩.*es\.verify"):
        pairs_of(matrix, 3)


@pytest.mark.message
def test_a_product_that_is_random_or_not_finite_is_found():
    matrix, _ = planted(outliers_and_bulk(100))
    generator = torch.Generator().manual_seed(0)

    def dropout(block: torch.Tensor) -> torch.Tensor:
        kept = torch.rand(100, 1, generator=generator, dtype=torch.float64) > 0.1
        return matrix @ (block * kept)

    with pytest.raises(ValueError, match=r"the same in every product.*dropout"):
        es.top_eigenpairs(Blind(matrix, dropout), 3, method="lanczos")
    matrix[3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"must be finite; number 2 is not.*diverged"):
        pairs_of(matrix, 1)


@pytest.mark.message
@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (4, {}, "k must be between 1 and the dimension, 3; got 4"),
        (0, {}, "k must be between 1 and the dimension, 3; got 0"),
        (1, {"method": "power"}, "method must be one of 'auto', 'exact', 'lanczos'"),
        (1, {"tolerance": 0.0}, "tolerance must be positive and finite; got 0"),
        (1, {"block_size": 0}, "block_size must be at least 1; got 0"),
        (1, {"max_matvecs": 0}, "max_matvecs must be at least 1; got 0"),
    ],
)
def test_options_out_of_range_are_refused(k, options, message):
    with pytest.raises(ValueError, match=message):
        es.top_eigenpairs(torch.eye(3), k, **options)


@pytest.mark.message
@pytest.mark.message
@pytest.mark.parametrize("scale", [1e-200, 1e160])
def test_products_whose_squares_are_no_numbers_are_refused(scale):
    matrix, _ = planted(np.linspace(1.0, 4.0, 80))
    operator = Blind(scale * matrix)
    message = r"between 1e-140 and 1e\+140 in size, .* Pass .* \* operator, and divide"
    calls: list[Any] = [
        lambda: es.top_eigenpairs(operator, 2, method="lanczos"),
        lambda: es.spectrum(operator, method="slq"),
        lambda: es.trace(operator, num_matvecs=20),
        lambda: es.diagonal(operator, num_matvecs=20),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    scaled = es.top_eigenpairs(operator / scale, 2, method="lanczos")
    assert scaled.values.tolist() == pytest.approx([4.0, 4 - 3 / 79])


def test_another_search_by_the_same_name_is_refused(tmp_path):
    matrix, _ = planted(np.linspace(0.0, 1.0, 200) ** 3)
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        es.top_eigenpairs(Blind(matrix), 2, method="lanczos", run=run)
        with pytest.raises(ValueError, match=r"'eigenpairs' in this run.*k: 2 → 3"):
            es.top_eigenpairs(Blind(matrix), 3, method="lanczos", run=run)
        es.top_eigenpairs(Blind(matrix), 3, method="lanczos", run=run, name="more")
