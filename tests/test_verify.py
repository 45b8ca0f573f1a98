"""Verdicts on operators with one planted fault each."""

from functools import partial
from typing import Any

import curvature_zoo
import operator_cases
import pytest
import torch
from planted import outliers_and_bulk, planted

import eigenscope as es
from eigenscope.estimators.verify import Check
from eigenscope.losses import Risk
from eigenscope.operators import LinearOperator, SymmetricOperator
from eigenscope.operators.curvature_factor import OutputFactor

GENERATOR = torch.Generator().manual_seed(0)
MATRIX, _ = planted(outliers_and_bulk(60))


class Faulty(SymmetricOperator):
    """A matrix with a product, a diagonal and a dense form that may be wrong."""

    is_positive_semidefinite = False

    def __init__(self, product: Any = None, size: int = 60, **parts: Any) -> None:
        self.matrix = parts.get("matrix", MATRIX[:size, :size])
        self.product = product or (lambda block: self.matrix @ block)
        self.parts = parts

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.matrix), len(self.matrix)

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def multiply(self, block: torch.Tensor) -> torch.Tensor:
        return self.product(block)

    def dense(self) -> torch.Tensor:
        return self.parts.get("dense", self.matrix)

    def diagonal(self) -> torch.Tensor:
        return self.parts.get("diagonal", self.matrix.diagonal())


class Promising(Faulty):
    is_positive_semidefinite = True


class Split(Faulty):
    def with_batch_size(self, batch_size: int) -> LinearOperator:
        assert batch_size > 0
        return Faulty(matrix=self.matrix * self.parts["factor"])


class WithProblem(Faulty):
    def __init__(self, *, touch: str) -> None:
        super().__init__(self.touching)
        self.touch = touch
        model = torch.nn.Linear(3, 2)
        self.problem = es.Problem(model, torch.ones(4, 3))

    def touching(self, block: torch.Tensor) -> torch.Tensor:
        model: Any = self.problem.model
        if self.touch == "weights":
            model.weight.data += 1e-3
        if self.touch == "mode":
            model.eval()
        if self.touch == "grad":
            model.weight.grad = torch.zeros_like(model.weight)
        return self.matrix @ block


def skewed(size: int = 60) -> torch.Tensor:
    wrong = MATRIX[:size, :size].clone()
    wrong[3, 4] += 5.0
    return wrong


def random(block: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(60, 1, generator=GENERATOR, dtype=torch.float64)
    return MATRIX @ block + 0.01 * noise * block.abs().sum()


def mixing(block: torch.Tensor) -> torch.Tensor:
    return MATRIX @ block + (0 if block.shape[1] == 1 else 1e-3 * block.flip(1))


@pytest.mark.parametrize(
    ("operator", "failed"),
    [
        (Faulty(), set()),
        (Faulty(matrix=skewed()), {"symmetry"}),
        (Faulty(lambda block: MATRIX @ block + 1.0), {"linearity"}),
        (Faulty(random), {"determinism"}),
        (Faulty(mixing), {"block equals its columns"}),
        (Faulty(dense=MATRIX + 1e-3), {"dense form"}),
        (Faulty(diagonal=MATRIX.diagonal() + 1e-3), {"diagonal"}),
        (Promising(), {"positive semi-definite"}),
        (Promising(matrix=MATRIX @ MATRIX), set()),
        (Split(factor=1.0), set()),
        (Split(factor=1.001), {"split invariance"}),
        (WithProblem(touch="nothing"), set()),
        (WithProblem(touch="weights"), {"model untouched"}),
        (WithProblem(touch="mode"), {"model untouched"}),
        (WithProblem(touch="grad"), {"model untouched"}),
        (Faulty(lambda block: MATRIX @ block * torch.nan), {"symmetry"}),
    ],
)
def test_each_fault_is_found_by_its_name(operator, failed):
    verdict = es.verify(operator)
    assert failed <= {check.name for check in verdict.failed}
    assert bool(verdict) is verdict.has_passed is (not failed)
    text = str(verdict)
    assert ("all checks passed" in text) is (not failed)
    for name in failed:
        assert f"FAIL {name}" in text


def test_more_rows_than_a_dense_form_are_checked_entry_by_entry():
    large, _ = planted(outliers_and_bulk(600))
    assert es.verify(Faulty(matrix=large))

    def wrong(block: torch.Tensor) -> torch.Tensor:
        # Right on dense blocks, wrong on unit vectors.
        sparse = (block != 0).sum(0) <= 1
        return large @ block * (1 + 0.1 * sparse)

    names = {check.name for check in es.verify(Faulty(wrong, matrix=large)).failed}
    assert "entries" in names


@pytest.mark.parametrize("kind", ["gram rows", "stored gram columns"])
def test_gram_matrices_of_jacobians_pass(kind):
    subject = operator_cases.make(kind, "mlp", "logits", "samples")
    verdict = es.verify(subject.operator)
    assert verdict, str(verdict)
    assert "positive semi-definite" in {check.name for check in verdict.checks}
    assert len(str(verdict).splitlines()) < 12


@pytest.mark.message
def test_a_rectangle_is_refused():
    with pytest.raises(ValueError, match=r"square to be verified; got shape \(2, 3\)"):
        es.verify(torch.ones(2, 3))


@pytest.mark.parametrize("name", ["tanh", "resnet", "attention", "causal"])
@pytest.mark.parametrize(
    "make",
    [es.Hessian, es.GaussNewton, es.Fisher, partial(es.Fisher, kind="sampled")],
    ids=["hessian", "gauss-newton", "true fisher", "sampled fisher"],
)
def test_curvature_of_every_kind_passes_every_check(name, make):
    operator = make(curvature_zoo.problem(curvature_zoo.make(name)))
    verdict = es.verify(operator)
    assert verdict, str(verdict)
    names = {check.name for check in verdict.checks}
    assert {"split invariance", "model untouched", "determinism"} <= names
    is_hessian = isinstance(operator, es.Hessian)
    assert ("positive semi-definite" in names) is not is_hessian


def test_only_what_is_convex_promises_to_have_no_negative_eigenvalue():
    def sign_checks(operator: SymmetricOperator) -> list[Check]:
        checks = es.verify(operator).checks
        return [check for check in checks if check.name == "positive semi-definite"]

    concave = es.GaussNewton(curvature_zoo.problem(curvature_zoo.make("relu", "any")))
    assert not sign_checks(concave)
    relu = es.Hessian(curvature_zoo.problem(curvature_zoo.make("relu")))
    assert not sign_checks(relu)
    # A piecewise linear layer's block is a Gauss-Newton block.
    (check,) = sign_checks(es.layer_blocks(relu)["0.weight"])
    assert check.has_passed


def test_a_risk_that_depends_on_the_cut_into_batches_is_found(monkeypatch):
    def mean_of_batch(self: Risk, raw: torch.Tensor, targets: Any) -> torch.Tensor:
        return self.loss.numerator(raw, targets) / len(raw)

    monkeypatch.setattr(Risk, "numerator", mean_of_batch)
    problem = curvature_zoo.problem(curvature_zoo.make("tanh"))
    verdict = es.verify(es.Hessian(problem))
    assert "split invariance" in {check.name for check in verdict.failed}


def test_a_wrong_layer_of_a_large_matrix_is_found(monkeypatch):
    net = torch.nn.Sequential(
        torch.nn.Linear(9, 40), torch.nn.Tanh(), torch.nn.Linear(40, 10)
    ).double()
    x = torch.randn(7, 9, generator=GENERATOR, dtype=torch.float64)
    loss = torch.nn.CrossEntropyLoss()
    operator = es.GaussNewton(es.Problem(net, (x, torch.arange(7)), loss=loss))
    assert operator.shape[0] > 512
    verdict = es.verify(operator)
    assert verdict, str(verdict)
    assert "sub-block" in {check.name for check in verdict.checks}
    right = OutputFactor.dense
    monkeypatch.setattr(OutputFactor, "dense", lambda self: 1.001 * right(self))
    failed = {check.name for check in es.verify(operator).failed}
    assert failed == {"sub-block"}
