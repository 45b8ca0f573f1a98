"""Weight gradients of convolutions as those of one convolution with grouped samples."""

import copy
from typing import Any

import pytest
import torch
from parameter_oracles import assert_close, loop_jacobian
from torch import Tensor, nn

import eigenscope as es
from eigenscope.jacobian import Convolved, ParameterEngine

CONVOLUTIONS: dict[str, tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d, {"padding": 2, "kernel_size": 5}, (8, 70)),
    "conv2d": (nn.Conv2d, {"padding": 1}, (8, 9, 10)),
    "oblong padding": (nn.Conv2d, {"padding": (2, 0)}, (8, 9, 11)),
    "steps that leave a rest": (
        nn.Conv2d,
        {"stride": (2, 1), "padding": 1},
        (8, 16, 10),
    ),
    "dilated": (nn.Conv2d, {"dilation": (2, 3), "padding": 2}, (8, 12, 14)),
    "groups": (nn.Conv2d, {"groups": 2, "padding": 1}, (16, 8, 9)),
    "depthwise": (nn.Conv2d, {"groups": 16, "padding": 1}, (16, 8, 9)),
    "conv3d": (nn.Conv3d, {"padding": 1}, (8, 4, 5, 6)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    kind, options, shape = CONVOLUTIONS[name]
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        layer = kind(shape[0], 16, **{"kernel_size": 3, **options}).double()
        x = torch.randn(11, *shape, dtype=torch.float64)
        head = nn.Linear(layer(x).flatten(1).shape[1], 2).double()
    return nn.Sequential(layer, nn.Tanh(), nn.Flatten(), head), x


def convolved(model: nn.Module, x: Tensor, outputs: range) -> Convolved:
    engine = ParameterEngine(es.Problem(model, x))
    with engine.open(next(engine.chunks())) as chunk:
        (part,) = [p for name, p in chunk.parts(outputs) if name == "0.weight"]
    assert isinstance(part, Convolved)
    return part


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_samples_as_groups_give_the_gradient(name):
    model, x = build(name)
    outputs = range(1, 2) if "groups" in CONVOLUTIONS[name][1] else range(2)
    expected = loop_jacobian(model, x)["0.weight"][:, outputs.start :]
    part = convolved(model, x, outputs)
    assert_close(part.as_groups(), expected)
    assert_close(part.tensor(), expected)


@pytest.mark.parametrize("block_bytes", [1, 2**30])
@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_in_single_precision_are_written_block_by_block(
    name, add, block_bytes, monkeypatch
):
    monkeypatch.setattr("eigenscope.jacobian.rules.parts._BLOCK_BYTES", block_bytes)
    calls: list[int] = []
    plain = Convolved.as_groups
    monkeypatch.setattr(
        Convolved,
        "as_groups",
        lambda self: calls.append(len(self.images)) or plain(self),
    )
    model, x = build(name)
    expected = loop_jacobian(model, x)["0.weight"][:, 1:]
    part = convolved(copy.deepcopy(model).float(), x.float(), range(1, 2))
    calls.clear()
    out = torch.ones(11, 1, *part.weight_shape)
    part.write(out, add=add)
    assert calls == ([8, 3] if block_bytes == 1 else [11])
    # Sums of up to 70 products, each rounded to single precision.
    error = (out.double() - int(add) - expected).abs().max()
    assert error <= 100 * torch.finfo(torch.float32).eps * expected.abs().max()
