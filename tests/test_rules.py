"""The rule of every kind of layer against a loop of plain backward passes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parameter_oracles import assert_close, assert_same, loop_jacobian
from torch import Tensor, nn
from torch.nn import functional

import eigenscope as es
from eigenscope.jacobian import (
    ParameterEngine,
)

Shape = tuple[int, ...]


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def _conv(kind: type[nn.Module], **options: Any) -> nn.Module:
    return kind(4, 6, 3, **options)


LAYERS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "linear on sequences": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear on grids": (lambda: nn.Linear(4, 3), (2, 3, 4)),
    "conv1d": (lambda: _conv(nn.Conv1d, padding=1), (4, 7)),
    "conv2d": (lambda: _conv(nn.Conv2d), (4, 6, 5)),
    "conv2d on large images": (lambda: _conv(nn.Conv2d, padding=1), (4, 16, 15)),
    "dilated conv2d on large images": (
        lambda: _conv(nn.Conv2d, padding=2, dilation=(2, 3)),
        (4, 18, 19),
    ),
    "wide steps on large images": (
        lambda: _conv(nn.Conv2d, padding=1, stride=(1, 2)),
        (4, 20, 31),
    ),
    "long steps on large images": (
        lambda: _conv(nn.Conv2d, padding=1, stride=(2, 1)),
        (4, 31, 20),
    ),
    "strided": (lambda: _conv(nn.Conv2d, stride=(2, 3), padding=(1, 2)), (4, 8, 7)),
    "dilated": (lambda: _conv(nn.Conv2d, dilation=(2, 1), padding=2), (4, 6, 7)),
    "grouped": (lambda: _conv(nn.Conv2d, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (4, 5, 5)),
    "padding same": (
        lambda: nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2)),
        (4, 6, 7),
    ),
    "padding valid": (lambda: _conv(nn.Conv2d, padding="valid"), (4, 5, 5)),
    "reflecting": (
        lambda: _conv(nn.Conv2d, padding=1, padding_mode="reflect"),
        (4, 5, 5),
    ),
    "circular": (lambda: _conv(nn.Conv1d, padding=1, padding_mode="circular"), (4, 5)),
    "replicating": (
        lambda: _conv(nn.Conv2d, padding=(1, 2), padding_mode="replicate", groups=2),
        (4, 5, 5),
    ),
    "conv3d": (lambda: _conv(nn.Conv3d, padding=1, stride=(1, 2, 1)), (4, 4, 5, 3)),
    "transposed conv1d": (lambda: _conv(nn.ConvTranspose1d, stride=2), (4, 5)),
    "transposed conv2d": (
        lambda: _conv(
            nn.ConvTranspose2d, stride=2, padding=1, output_padding=1, dilation=2
        ),
        (4, 4, 3),
    ),
    "grouped transposed": (
        lambda: _conv(nn.ConvTranspose2d, groups=2, padding=1),
        (4, 4, 4),
    ),
    "dilated transposed": (lambda: _conv(nn.ConvTranspose1d, dilation=2), (4, 5)),
    "transposed conv3d": (lambda: _conv(nn.ConvTranspose3d), (4, 3, 2, 2)),
    "batch norm": (lambda: nn.BatchNorm1d(4), (4,)),
    "batch norm on sequences": (lambda: nn.BatchNorm1d(4), (4, 5)),
    "batch norm on images": (lambda: nn.BatchNorm2d(4), (4, 3, 3)),
    "batch norm on volumes": (lambda: nn.BatchNorm3d(4), (4, 2, 2, 3)),
    "layer norm": (lambda: nn.LayerNorm(4), (3, 4)),
    "layer norm over two axes": (lambda: nn.LayerNorm([3, 4]), (2, 3, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), (4,)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 3, 3)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), (4, 3, 3)),
    "instance norm with statistics": (
        lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
        (4, 5),
    ),
    "RMS norm": (lambda: nn.RMSNorm([3, 4]), (2, 3, 4)),
    "PReLU": (nn.PReLU, (4, 3)),
    "PReLU per channel": (lambda: nn.PReLU(4), (4, 3, 2)),
    "PReLU per feature": (lambda: nn.PReLU(4), (4,)),
    "attention": (SelfAttention, (3, 4)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return the layer between two others, so that cotangents are of every kind."""
    make, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        x = torch.randn(4, *shape, dtype=torch.float64)
        layer = make().double()
        for tensor in [*layer.parameters(), *layer.buffers()]:
            if tensor.is_floating_point():
                tensor.data.uniform_(0.5, 1.5)
        layer.eval()
        size = layer(x).flatten(1).shape[1]
        head = nn.Linear(size, 3).double()
    return nn.Sequential(layer, nn.Tanh(), nn.Flatten(), head), x


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", LAYERS)
def test_the_rule_is_the_gradient(name):
    model, x = build(name)
    engine = ParameterEngine(es.Problem(model, x))
    assert {served.path for served in engine.coverage.values()} == {"rules"}
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 2},
        {"padding_idx": -1},
        {"mode": "sum"},
        {"mode": "mean", "padding_idx": 2},
    ],
    ids=str,
)
def test_the_rules_of_tables_are_the_gradient(options):
    kind = nn.EmbeddingBag if "mode" in options else nn.Embedding
    table = kind(5, 3, **options)
    nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(table, nn.Flatten()).double()
    ids = torch.tensor([[0, 2, 2], [4, 1, 2], [3, 3, 4], [2, 2, 2]])
    engine = ParameterEngine(es.Problem(model, ids))
    assert engine.coverage["0.weight"].path == "rules"
    assert_same(es.parameter_jacobian(model, ids), loop_jacobian(model, ids))


class _WeightedBag(nn.Module):
    def __init__(self, padding_idx: int | None) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, mode="sum", padding_idx=padding_idx)

    def forward(self, ids: Tensor, scales: Tensor) -> Tensor:
        return self.bag(ids, per_sample_weights=scales)


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_a_weighted_bag_has_a_rule(padding_idx):
    model = _WeightedBag(padding_idx).double()
    ids = torch.tensor([[0, 2, 2], [4, 1, 2], [3, 3, 4], [2, 2, 2]])
    scales = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    data: Any = {"ids": ids, "scales": scales}
    engine = ParameterEngine(es.Problem(model, [data]))
    assert engine.coverage["bag.weight"].path == "rules"
    assert_same(es.parameter_jacobian(model, data), loop_jacobian(model, data))


class _Scaled(nn.Module):
    """A table whose gradients autograd divides by the counts of the indices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding(x, self.weight, scale_grad_by_freq=True)


@pytest.mark.parametrize("build", [lambda: nn.EmbeddingBag(5, 3, mode="max"), _Scaled])
def test_tables_without_rule_are_left_to_autograd(build):
    """The first samples have no index twice: there even a scaled gradient is right."""
    model = build().double()
    ids = torch.tensor([[0, 1], [2, 3], [4, 4], [4, 1]])
    engine = ParameterEngine(es.Problem(model, ids))
    assert engine.coverage["weight"].path in {"vmap", "loop"}
    assert_same(es.parameter_jacobian(model, ids), loop_jacobian(model, ids))


class _Tables(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3, **options)
        self.bag = nn.EmbeddingBag(5, 3, mode="sum", **options)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.table(x)).sum(1) * self.bag(x)


@pytest.mark.parametrize("option", ["sparse", "scale_grad_by_freq"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_how_tables_give_gradients_to_optimizers_changes_no_derivative(
    option, batch_size
):
    torch.default_generator.manual_seed(0)
    plain = _Tables().double()
    model = _Tables(**{option: True}).double()
    model.load_state_dict(plain.state_dict())
    ids = torch.tensor([[0, 1, 1], [2, 3, 1], [4, 4, 4], [4, 1, 0], [1, 1, 1]])
    targets = torch.tensor([0, 1, 2, 1, 0])
    expected = loop_jacobian(plain, ids)
    assert_same(es.parameter_jacobian(model, ids[:1]), loop_jacobian(plain, ids[:1]))
    dense = torch.cat([rows.flatten(2) for rows in expected.values()], 2).flatten(0, 1)
    options: Any = {"loss": nn.CrossEntropyLoss(), "batch_size": batch_size}
    problem = es.Problem(model, (ids, targets), **options)
    jacobian = es.ParameterJacobian(problem)
    assert_close(jacobian.dense(), dense)
    block = torch.randn(len(dense), 2, dtype=torch.float64)
    assert_close(jacobian.T @ block, dense.T @ block)
    assert_close(es.NTK(problem) @ block, dense @ (dense.T @ block))
    # Bags have no second derivative in torch; the other table is used beside one.
    problem = problem.with_params("table.weight")
    reference = es.Problem(plain, (ids, targets), params="table.weight", **options)
    for curvature in (es.Hessian, es.GaussNewton, es.Fisher):
        assert_close(curvature(problem).dense(), curvature(reference).dense())
    assert getattr(model.table, option)
    assert getattr(model.bag, option)


class _Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.bias = nn.Parameter(torch.randn(3))
        self.last = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.addmm(self.bias, x.flatten(0, 1), self.weight).tanh()
        return torch.mm(h, self.last).unflatten(0, (-1, x.shape[1])).sum(1)


def test_matrix_products_with_raw_parameters_have_rules():
    torch.default_generator.manual_seed(0)
    model, x = _Products().double(), torch.randn(4, 2, 4, dtype=torch.float64)
    engine = ParameterEngine(es.Problem(model, x))
    assert {served.path for served in engine.coverage.values()} == {"rules"}
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


class _Called(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.bias = nn.Parameter(torch.randn(3))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w, b: functional.prelu(weight=b, input=x @ w),
        lambda x, w, b: torch.mm(x * b, mat2=w),
        lambda x, w, b: torch.addmm(mat2=w, mat1=x, input=b),
        lambda x, w, b: torch.broadcast_to(input=b, size=x.shape) * x.mm(mat2=w),
    ],
    ids=["prelu", "mm", "addmm", "broadcast_to"],
)
def test_functions_may_be_called_with_keywords(function):
    torch.default_generator.manual_seed(0)
    model, x = _Called(function).double(), torch.randn(4, 3, dtype=torch.float64)
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))
