"""Verdicts on operators with one planted fault each."""

from typing import Any

import operator_cases
import pytest
import torch
from planted import outliers_and_bulk, planted

import eigenscope as es
from eigenscope.operators import LinearOperator, SymmetricOperator

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
