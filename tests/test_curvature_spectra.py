"""Exact spectra of curvature from the small side, against dense oracles."""

from typing import Any

import curvature_zoo as zoo
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

import eigenscope as es
from eigenscope.jacobian import ParameterEngine
from eigenscope.operators.small_sides import RowSide

K, N = 3, sum(zoo.SIZES)


def wide(hidden: int = 12) -> nn.Module:
    return nn.Sequential(
        nn.Linear(9, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, K),
    )


def make(loss: str) -> zoo.Case:
    source = torch.Generator().manual_seed(2)
    model = zoo.zoo.randomized(wide(), source)
    x = torch.randn(N, 9, generator=source, dtype=torch.float64)
    y = torch.randn(N, K, generator=source, dtype=torch.float64)
    targets = torch.arange(N) % K if loss in {"classes", "weighted"} else y
    batches = list(zip(x.split(zoo.SIZES), targets.split(zoo.SIZES), strict=True))
    return zoo.Case(model, batches, zoo.LOSSES[loss], zoo.LOSSES[loss])


def check(spectrum: es.Spectrum, matrix: Tensor, rank: int) -> None:
    """All eigenvalues of the oracle, its structural zeros as one atom."""
    expected = torch.linalg.eigvalsh(matrix).numpy()
    assert spectrum.dimension == len(matrix)
    assert spectrum.exact
    assert len(spectrum.values) == rank + 1
    counts = np.rint(spectrum.weights * spectrum.dimension).astype(int)
    found = np.sort(np.repeat(spectrum.values, counts))
    assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("loss", "rank"),
    [("classes", N * (K - 1)), ("weighted", N * (K - 1)), ("squared", N * K)],
)
def test_the_spectrum_of_a_gauss_newton_matrix_comes_from_its_small_side(loss, rank):
    case = make(loss)
    operator = es.GaussNewton(zoo.problem(case))
    assert isinstance(operator.smaller_side(), RowSide)
    found = es.spectrum(operator, method="exact")
    check(found, zoo.gauss_newton_oracle(case), rank)
    assert found.provenance["size"] == rank
    assert found.provenance["operator"] == "GaussNewton"


def test_small_sides_need_memory_for_themselves_and_two_samples():
    case = make("classes")
    size = 8 * (N * (K - 1)) ** 2
    roomy = es.GaussNewton(zoo.problem(case)).smaller_side()
    tight = es.GaussNewton(zoo.problem(case), memory=size + 20_000).smaller_side()
    assert roomy is not None
    assert tight is not None
    assert_allclose(tight.dense().numpy(), roomy.dense().numpy(), atol=1e-14)


@pytest.mark.message
def test_a_small_side_beyond_the_memory_of_the_operator_is_refused():
    operator = es.GaussNewton(zoo.problem(make("classes")), memory=1000)
    side = operator.smaller_side()
    assert side is not None
    message = r"the \d+ × \d+ matrix takes .* budget of the operator, 1000 B.*'slq'"
    with pytest.raises(ValueError, match=message):
        side.dense()


@pytest.mark.parametrize("loss", ["classes", "any"])
@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton])
def test_all_blocks_share_one_engine_for_rows_and_one_for_columns(
    monkeypatch, kind, loss
):
    case = make(loss)
    operator = kind(zoo.problem(case))
    blocks = es.layer_blocks(operator)
    engines: list[list[str]] = []
    start = ParameterEngine.__init__

    def counted(self: ParameterEngine, problem: es.Problem, **options: Any) -> None:
        engines.append(list(problem.params))
        start(self, problem, **options)

    monkeypatch.setattr(ParameterEngine, "__init__", counted)
    matrix = zoo.gauss_newton_oracle(case)
    for name, block in reversed(blocks.items()):
        rows = operator.layout.columns[name]
        oracle = torch.linalg.eigvalsh(matrix[rows, rows]).numpy()
        side = block.factor.smaller_side()  # type: ignore[attr-defined]
        found = (block.factor.dense if side is None else side.dense)()  # type: ignore[attr-defined]
        nonzero = np.linalg.eigvalsh(found.numpy())
        scale = 1e-12 * np.abs(oracle).max()
        assert_allclose(np.sort(nonzero)[-5:], oracle[-5:], atol=scale)
        assert_allclose(nonzero.sum(), oracle.sum(), atol=10 * scale)
    assert len(engines) == 2
    assert sorted(name for own in engines for name in own) == sorted(blocks)


def test_blocks_that_share_parameters_or_exceed_the_memory_are_computed_alone():
    case = make("classes")
    groups = {"first": "0.*", "weights": ["0.weight", "2.weight"], "one": "2.bias"}
    size = 8 * (N * (K - 1)) ** 2
    matrix = zoo.gauss_newton_oracle(case)
    for by, memory in ((groups, None), ("parameter", size + 20_000)):
        operator = es.GaussNewton(zoo.problem(case), memory=memory)
        for block in es.layer_blocks(operator, by=by).values():  # type: ignore[arg-type]
            names = list(block.problem.params)  # type: ignore[attr-defined]
            columns = operator.layout.columns
            rows = torch.cat([torch.arange(len(matrix))[columns[n]] for n in names])
            oracle = torch.linalg.eigvalsh(matrix[rows][:, rows]).numpy()
            found = es.spectrum(block, method="exact")
            assert found.moment(1) * found.dimension == pytest.approx(oracle.sum())
            assert_allclose(found.values[-2:], oracle[-2:], atol=1e-12)


def test_a_dense_form_with_more_parameters_than_rows_is_that_of_the_oracle():
    case = make("any")
    block = es.layer_blocks(es.GaussNewton(zoo.problem(case)))["2.weight"]
    rows = es.GaussNewton(zoo.problem(case)).layout.columns["2.weight"]
    oracle = zoo.gauss_newton_oracle(case)[rows, rows]
    assert_allclose(block.dense().numpy(), oracle.numpy(), atol=1e-12)


def test_auto_forms_matrices_whose_dense_form_needs_no_products(monkeypatch):
    monkeypatch.setattr("eigenscope.estimators.whole.FEW_ROWS", 5)
    operator = es.Hessian(zoo.problem(make("classes")))
    block = es.layer_blocks(operator)["2.weight"]
    assert es.spectrum(block).exact
    assert not es.spectrum(operator).exact
    few = "eigenscope.operators.small_sides.SmallSides.has_few_rows"
    monkeypatch.setattr(few, lambda *_: False)
    assert es.spectrum(block).exact


def test_a_loss_that_is_not_convex_has_a_small_side_with_both_signs():
    case = make("any")
    operator = es.GaussNewton(zoo.problem(case))
    side = operator.smaller_side()
    assert isinstance(side, RowSide)
    matrix = zoo.gauss_newton_oracle(case)
    assert torch.linalg.eigvalsh(matrix)[0] < -0.01
    check(es.spectrum(operator), matrix, 2 * N * K)
    dense = side.dense()
    block = torch.ones(len(dense), 2, dtype=torch.float64)
    assert_allclose((side @ block).numpy(), (dense @ block).numpy())
    assert_allclose(side.diagonal().numpy(), dense.diagonal().numpy())


def test_fisher_matrices_have_small_sides_of_their_own_rank():
    case = make("classes")
    operator = es.Fisher(zoo.problem(case), kind="empirical")
    check(es.spectrum(operator), zoo.empirical_fisher_oracle(case), N)


def test_layers_of_a_piecewise_linear_network_have_exact_spectra():
    case = make("classes")
    operator = es.Hessian(zoo.problem(case))
    matrix = zoo.hessian_oracle(case)
    blocks = es.layer_blocks(operator)
    for name in ("0.weight", "2.weight"):
        rows = operator.layout.columns[name]
        found = es.spectrum(blocks[name], method="exact")
        check(found, matrix[rows, rows], N * (K - 1))
        assert found.provenance["recognized"] == "Gauss-Newton block"
        assert found.provenance["side"] == "samples × outputs"
    assert operator.smaller_side() is None
    whole = es.spectrum(operator)
    assert len(whole.values) == len(matrix)
    assert_allclose(whole.values, torch.linalg.eigvalsh(matrix).numpy(), atol=1e-12)


def test_a_curved_layer_is_no_gauss_newton_block():
    case = make("classes")
    case.model[1] = nn.Tanh()
    block = es.layer_blocks(es.Hessian(zoo.problem(case)))["0.weight"]
    assert block.smaller_side() is None


def test_multiples_keep_their_small_side_and_shifts_do_not():
    case = make("classes")
    operator = es.GaussNewton(zoo.problem(case))
    matrix = zoo.gauss_newton_oracle(case)
    check(es.spectrum(-2.0 * operator), -2 * matrix, N * (K - 1))
    assert operator.shifted(0.1).smaller_side() is None
    assert (operator + operator).smaller_side() is None


def test_sequences_of_different_lengths_have_a_small_side():
    case = zoo.make("causal")
    operator = es.GaussNewton(zoo.problem(case))
    expected = torch.linalg.eigvalsh(zoo.gauss_newton_oracle(case)).numpy()
    found: Any = es.spectrum(operator)
    assert_allclose(found.moment(1) * found.dimension, expected.sum())
    assert_allclose(found.values[-5:], expected[-5:], atol=1e-12)


def test_eigenpairs_of_curvature_are_found_as_often_as_they_are_there():
    """Least squares of a linear layer: eigenvalues of XᵀX, once for every output."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(40, 30, generator=source, dtype=torch.float64)
    y = torch.randn(40, 4, generator=source, dtype=torch.float64)
    model = nn.Linear(30, 4, bias=False).double()
    problem = es.Problem(model, (x, y), loss=nn.MSELoss(), batch_size=16)
    values = torch.linalg.eigvalsh(x.T @ x).flip(0) * 2 / y.numel()
    for kind in (es.Hessian, es.GaussNewton):
        pairs = es.top_eigenpairs(kind(problem), 10, method="lanczos")
        expected = values.repeat_interleave(4)[:10]
        assert bool(pairs.converged.all())
        torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-6)


def test_a_curvature_matrix_takes_no_more_products_than_single_vectors_need():
    case = make("classes")
    operator = es.Hessian(zoo.problem(case))
    taken = [
        es.top_eigenpairs(operator, 3, method="lanczos", block_size=size).provenance
        for size in (None, 1, 2)
    ]
    assert [made["block_size"] for made in taken] == [1, 1, 2]
    counts = [int(str(made["num_matvecs"])) for made in taken]
    assert counts[0] == counts[1] < counts[2]
