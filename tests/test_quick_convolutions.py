"""Our convolution against torch's own: its value and derivatives up to the second."""

from typing import Any

import curvature_zoo as zoo
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import eigenscope as es
from eigenscope.autodiff import gradient_graph, graph_products, quick_convolutions

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "plain": (nn.Conv2d(2, 3, 3), (2, 6, 5)),
    "without bias": (nn.Conv2d(2, 3, 3, bias=False), (2, 6, 5)),
    "strided": (nn.Conv2d(2, 3, 3, stride=2, padding=(1, 0)), (2, 6, 5)),
    "dilated": (nn.Conv2d(2, 3, (2, 3), dilation=2), (2, 6, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 5, 5)),
    "one axis": (nn.Conv1d(2, 3, 3, padding=1), (2, 6)),
    "three axes": (nn.Conv3d(2, 3, 2), (2, 3, 4, 3)),
    "same": (nn.Conv2d(2, 3, 3, padding="same"), (2, 6, 5)),
}


def products(layer: nn.Module, x: Tensor, *, quick: bool) -> list[Tensor]:
    leaves = [x, *layer.parameters()]
    source = torch.Generator().manual_seed(3)
    with quick_convolutions(wanted=quick) as mode:
        value = layer(x)
        gradients = gradient_graph(value.sin().sum(), leaves)
        vectors = [
            torch.randn(leaf.shape, generator=source, dtype=leaf.dtype)
            for leaf in leaves
        ]
        found = graph_products(gradients, leaves, vectors)
        block = [torch.stack([vector, 2 * vector]) for vector in vectors]
        several = graph_products(gradients, leaves, block, together=2)
        alone = graph_products(gradients[1:2], leaves[1:2], vectors[1:2])
    assert mode.count == (quick and getattr(layer, "padding", 0) != "same")
    for one, two in zip(found, several, strict=True):
        assert_close(two, torch.stack([one, 2 * one]))
    return [value, *gradients, *found, *alone]


@pytest.mark.parametrize("name", CASES)
def test_quick_convolutions_have_the_derivatives_of_torch(name):
    layer, shape = CASES[name]
    source = torch.Generator().manual_seed(4)
    layer = layer.double()
    x = torch.randn(
        3, *shape, generator=source, dtype=torch.float64, requires_grad=True
    )
    pairs = (products(layer, x, quick=True), products(layer, x, quick=False))
    for found, expected in zip(*pairs, strict=True):
        # Sums of some dozens of terms in float64, in other orders.
        assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_a_single_image_without_a_sample_axis_is_left_to_torch():
    layer = nn.Conv2d(2, 3, 3).double()
    x = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    with quick_convolutions(wanted=True) as mode:
        assert torch.equal(layer(x), layer(x))
    assert mode.count == 0


@pytest.mark.parametrize(("name", "quick"), [("lenet", True), ("tanh", False)])
def test_an_operator_tells_whether_its_convolutions_are_quick(name, quick):
    operator = es.Hessian(zoo.problem(zoo.make(name)))
    assert operator.products.recordings.quick is None
    _ = operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    assert operator.products.recordings.quick is quick


def test_wrong_quick_convolutions_are_not_used(monkeypatch):
    case = zoo.make("lenet")
    matrix = zoo.hessian_oracle(case)

    def wrong(*args: Any) -> Any:
        cotangent, x, weight, *_ = args
        return 2 * torch.zeros_like(x), torch.zeros_like(weight) * cotangent.sum()

    monkeypatch.setattr("eigenscope.autodiff.convolution._gradients", wrong)
    operator = es.Hessian(zoo.problem(case))
    ones = torch.ones(len(matrix), dtype=torch.float64)
    assert_close(operator @ ones, matrix @ ones, rtol=1e-9, atol=1e-12)
    assert operator.products.recordings.quick is False
