"""Layers in other ways than torch's: values and derivatives up to the second."""

from typing import Any

import curvature_zoo as zoo
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import eigenscope as es
from eigenscope.autodiff import (
    ShortcutMode,
    Shortcuts,
    gradient_graph,
    graph_products,
)

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
    with ShortcutMode(Shortcuts(convolutions=quick)) as mode:
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
    assert mode.num_convolutions == (getattr(layer, "padding", 0) != "same")
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
    with ShortcutMode(Shortcuts(convolutions=True)) as mode:
        assert torch.equal(layer(x), layer(x))
    assert mode.num_convolutions == 0


def normalized(kind: Any, *, separate: bool) -> nn.Module:
    """A layer with batch normalization behind it, or behind something else."""
    layer = kind(2, 3, 3) if kind is not nn.Linear else nn.Linear(4, 3)
    norms: dict[Any, Any] = {nn.Conv1d: nn.BatchNorm1d, nn.Conv3d: nn.BatchNorm3d}
    norm = norms.get(kind, nn.BatchNorm2d)(3)
    source = torch.Generator().manual_seed(5)
    norm.running_mean.normal_(generator=source)
    norm.running_var.uniform_(0.5, 2, generator=source)
    between = [nn.Tanh()] if separate else []
    return nn.Sequential(layer, *between, norm).double().eval()


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.Conv1d, (2, 6)), (nn.Conv2d, (2, 6, 5)), (nn.Conv3d, (2, 4, 4, 3))],
)
def test_folded_normalization_has_the_derivatives_of_torch(
    kind, shape, last, bare, separate
):
    layer: Any = normalized(kind, separate=separate)
    if bare:
        layer[0].bias, layer[-1].weight, layer[-1].bias = None, None, None
    source = torch.Generator().manual_seed(4)
    x = torch.randn(3, *shape, generator=source, dtype=torch.float64)
    x.requires_grad_()
    leaves = [x, *layer.parameters()]
    vectors = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in leaves]
    found: list[list[Tensor]] = []
    for taken in (False, True):
        shortcuts = Shortcuts(
            convolutions=taken, normalization=taken, channels_last=taken and last
        )
        with ShortcutMode(shortcuts) as mode:
            value = layer(x)
        gradients = gradient_graph(value.sin().sum(), leaves)
        products = graph_products(gradients, leaves, vectors)
        found.append([value, *gradients, *products])
        assert (mode.num_convolutions, mode.num_normalizations) == (1, 1)
    for folded, expected in zip(found[1], found[0], strict=True):
        # Sums of some dozens of terms in float64, in other orders.
        assert_close(folded, expected, rtol=1e-10, atol=1e-11)


def test_a_convolution_that_was_written_to_is_not_folded():
    layer: Any = normalized(nn.Conv2d, separate=False)
    x = torch.randn(3, 2, 6, 5, dtype=torch.float64)

    def value() -> Tensor:
        return layer[1](layer[0](x).mul_(2))

    with ShortcutMode(Shortcuts(convolutions=True, normalization=True)):
        found = value()
    assert_close(found, value())


def test_statistics_of_a_batch_are_left_to_torch():
    layer = normalized(nn.Conv2d, separate=False).train()
    x = torch.randn(3, 2, 6, 5, dtype=torch.float64)
    with ShortcutMode(Shortcuts(convolutions=True, normalization=True)) as mode:
        layer(x)
    assert mode.num_normalizations == 0


ALL = ["quick convolutions", "folded normalization", "channels last"]


@pytest.mark.parametrize(
    ("name", "dtype", "names"),
    [
        ("lenet", torch.float64, ALL[:1]),
        ("lenet", torch.float32, ALL[:1]),  # it takes maxima
        ("resnet", torch.float64, ALL[:2]),
        ("resnet", torch.float32, ALL),
        ("tanh", torch.float32, []),
    ],
)
def test_an_operator_tells_which_shortcuts_it_takes(name, dtype, names):
    case = zoo.make(name)
    batches = [(x.to(dtype), y) for x, y in case.batches]
    problem = es.Problem(case.model.to(dtype), batches, loss=case.loss)
    operator = es.Hessian(problem)
    assert operator.remarks() == {}
    _ = operator @ torch.ones(operator.shape[0], dtype=dtype)
    assert operator.remarks() == {"engine": "reverse", "shortcuts": names}


def test_wrong_quick_convolutions_are_not_used(monkeypatch):
    case = zoo.make("lenet")
    matrix = zoo.hessian_oracle(case)

    def wrong(*args: Any) -> Any:
        cotangent, x, weight, *_ = args
        bias = torch.zeros(len(weight), dtype=x.dtype)
        return 2 * torch.zeros_like(x), torch.zeros_like(weight), bias * cotangent.sum()

    monkeypatch.setattr("eigenscope.autodiff.convolution._gradients", wrong)
    operator = es.Hessian(zoo.problem(case))
    ones = torch.ones(len(matrix), dtype=torch.float64)
    assert_close(operator @ ones, matrix @ ones, rtol=1e-9, atol=1e-12)
    assert operator.remarks()["shortcuts"] == []


def test_a_view_that_needs_its_own_order_of_memory_gets_it():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(2, 2, 3), nn.Linear(18, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).view(len(x), -1))

    data = (torch.randn(4, 2, 5, 5), torch.arange(4) % 3)
    operator = es.Hessian(es.Problem(Flat(), data, loss=nn.CrossEntropyLoss()))
    _ = operator @ torch.ones(operator.shape[0])
    assert operator.remarks()["shortcuts"] == ALL[:1]
