"""Gradients of every sample's own loss term against a loop of backward passes."""

from typing import Any

import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import assert_same, loop_jacobian
from torch import Tensor, nn
from torch.nn import functional

import eigenscope as es

CLASS_WEIGHTS = torch.tensor([1.0, 0.2, 3.0], dtype=torch.float64)


def loop_gradients(model: nn.Module, loss: Any, x: Any, y: Any) -> dict[str, Tensor]:
    found = [
        loop_jacobian(
            model,
            zoo.sample(x, index),
            lambda raw, index=index: loss(raw, y[index : index + 1]).reshape(1),
        )
        for index in range(zoo.count(x))
    ]
    return {name: torch.cat([f[name] for f in found])[:, 0] for name in found[0]}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("loss", "numerator"),
    [
        (nn.CrossEntropyLoss, functional.cross_entropy),
        (
            lambda reduction: nn.CrossEntropyLoss(
                weight=CLASS_WEIGHTS, ignore_index=1, reduction=reduction
            ),
            lambda raw, y: functional.cross_entropy(
                raw, y, weight=CLASS_WEIGHTS, ignore_index=1, reduction="sum"
            ),
        ),
        (
            lambda reduction: (
                lambda raw, y: functional.cross_entropy(raw, y, reduction=reduction)
            ),
            functional.cross_entropy,
        ),
    ],
    ids=["plain", "weighted", "callable"],
)
def test_gradients_are_those_of_each_samples_own_numerator(loss, numerator, reduction):
    model, x = zoo.build("vision transformer")
    y = torch.tensor([0, 1, 2, 0, 1])
    found = es.per_sample_gradients(model, loss(reduction=reduction), x, y)
    assert_same(found, loop_gradients(model, numerator, x, y))


def test_functions_of_torch_are_evaluated_without_their_mean():
    model, x = zoo.build("language model")
    y = torch.randint(0, 7, (5, 5))
    found = es.per_sample_gradients(model, functional.cross_entropy, x, y)

    def total(raw: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(raw, target, reduction="sum")

    assert_same(found, loop_gradients(model, total, x, y))


def test_a_squared_error_is_summed_over_a_samples_outputs():
    model, x = zoo.build("twice")
    y = torch.randn(5, 3, dtype=torch.float64)
    found = es.per_sample_gradients(model, nn.MSELoss(), x, y)

    def total(raw: Tensor, target: Tensor) -> Tensor:
        return (raw - target).square().sum()

    assert_same(found, loop_gradients(model, total, x, y))


def test_gradients_of_a_loop_path_model_see_their_own_targets():
    model, x = zoo.build("lstm")
    y = torch.tensor([0, 1, 1, 0, 1])
    found = es.per_sample_gradients(model, nn.CrossEntropyLoss(), x, y)
    assert_same(found, loop_gradients(model, functional.cross_entropy, x, y))


def test_gradients_take_mappings_and_parameter_patterns():
    model, x = zoo.build("dictionary")
    y = torch.randn(5, 2, dtype=torch.float64)
    found = es.per_sample_gradients(model, nn.L1Loss(), x, y, params="other.*")
    assert list(found) == ["other.weight", "other.bias"]
    whole = es.per_sample_gradients(
        model, lambda raw, target: (raw - target).abs().sum(), x, y
    )
    torch.testing.assert_close(found["other.weight"], whole["other.weight"])


def test_per_sample_gradients_can_be_differentiated():
    model, x = zoo.build("twice")
    y = torch.tensor([0, 1, 2, 0, 1])
    found = es.per_sample_gradients(
        model, nn.CrossEntropyLoss(), x, y, create_graph=True
    )
    plain = es.per_sample_gradients(model, nn.CrossEntropyLoss(), x, y)
    assert_same({k: v.detach() for k, v in found.items()}, plain)
    assert found["layer.weight"].requires_grad


@pytest.mark.message
def test_a_loss_without_one_number_per_sample_is_refused():
    model, x = zoo.build("twice")
    with pytest.raises(ValueError, match="must give one number or a pair"):
        es.per_sample_gradients(model, lambda raw, _: raw, x, torch.zeros(5))


def pairwise(raw: Tensor, y: Tensor) -> Tensor:
    """Push samples apart, as contrastive losses do."""
    del y
    return raw.square().sum() + (raw @ raw.T).triu(1).exp().sum()


def by_tokens(raw: Tensor, y: Tensor) -> Tensor:
    """Weigh samples by how many entries count."""
    return functional.cross_entropy(raw, y, ignore_index=1)


@pytest.mark.message
@pytest.mark.parametrize("loss", [pairwise, by_tokens])
def test_a_callable_that_is_no_sum_over_samples_is_refused(loss):
    model, x = zoo.build("twice")
    y = torch.tensor([0, 1, 2, 0, 2])
    with pytest.raises(
        ValueError, match=rf"a sum or a mean over samples; {loss.__name__}"
    ):
        es.per_sample_gradients(model, loss, x, y)


def test_a_callable_may_return_sum_and_count():
    model, x = zoo.build("twice")
    y = torch.tensor([0, 1, 2, 0, 2])

    def pair(raw: Tensor, target: Tensor) -> Any:
        total = functional.cross_entropy(raw, target, ignore_index=1, reduction="sum")
        return total, int((target != 1).sum())

    found = es.per_sample_gradients(model, pair, x, y)
    assert_same(found, loop_gradients(model, lambda z, t: pair(z, t)[0], x, y))


@pytest.mark.message
def test_a_torch_loss_that_sums_over_samples_by_itself_is_refused():
    class Summed(nn.MSELoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
            return (input - target).sum()

    Summed.__module__ = "torch.nn.modules.loss"
    model, x = zoo.build("twice")
    with pytest.raises(ValueError, match="must have a term for every sample"):
        es.per_sample_gradients(model, Summed(), x, torch.zeros(5, 3))
