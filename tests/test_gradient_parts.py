"""Per-sample gradients in parts: each form does what its whole tensor does."""

from collections.abc import Callable

import pytest
import torch
from parameter_oracles import assert_close
from torch import nn

import eigenscope as es
from eigenscope.jacobian import (
    Convolved,
    Outer,
    ParameterEngine,
    PerSample,
    Plain,
    Scattered,
)


def _outer(shared: str) -> Outer:
    draw = torch.Generator().manual_seed(2)
    outputs = {"left": (1, 3), "right": (3, 1)}[shared]
    left = torch.randn(4, outputs[0], 2, 5, 3, generator=draw, dtype=torch.float64)
    right = torch.randn(4, outputs[1], 2, 5, 2, generator=draw, dtype=torch.float64)
    return Outer(left, right, (6, 2))


def _convolved() -> Convolved:
    torch.default_generator.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(588, 3)).double()
    x = torch.randn(4, 2, 16, 16, dtype=torch.float64)
    engine = ParameterEngine(es.Problem(model, x))
    with engine.open(next(engine.chunks())) as chunk:
        (part,) = [part for name, part in chunk.parts() if name == "0.weight"]
    assert isinstance(part, Convolved)
    return part


def _scattered() -> Scattered:
    draw = torch.Generator().manual_seed(2)
    indices = torch.randint(0, 5, (4, 6), generator=draw)
    values = torch.randn(4, 3, 6, 2, generator=draw, dtype=torch.float64)
    return Scattered(indices, values, 5)


def _plain() -> Plain:
    draw = torch.Generator().manual_seed(2)
    return Plain(torch.randn(4, 3, 5, 2, generator=draw, dtype=torch.float64))


PARTS: dict[str, Callable[[], PerSample]] = {
    "plain": _plain,
    "outer with a shared left": lambda: _outer("left"),
    "outer with a shared right": lambda: _outer("right"),
    "convolved": _convolved,
    "scattered": _scattered,
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_give_the_same_products_and_norms_as_their_tensor(name):
    part = PARTS[name]()
    dense = part.tensor()
    assert part.shape == tuple(dense.shape)
    draw = torch.Generator().manual_seed(1)
    vectors = torch.randn(7, *dense.shape[2:], generator=draw, dtype=torch.float64)
    weights = torch.randn(*dense.shape[:2], 7, generator=draw, dtype=torch.float64)
    flat = dense.flatten(2)
    rows = vectors.flatten(1)
    expected = torch.einsum("nkp,mp->nkm", flat, rows)
    assert_close(part.times(vectors), expected)
    expected = torch.einsum("nkp,nkm->mp", flat, weights).view_as(vectors)
    assert_close(part.combined(weights), expected)
    squares = dense.square()
    assert_close(part.squared_norms(), squares.flatten(2).sum(2))
    assert_close(part.squared_sums(), squares.sum((0, 1)))


@pytest.mark.parametrize("strided", [True, False])
@pytest.mark.parametrize("name", PARTS)
def test_parts_write_and_add_into_any_strides(name, strided):
    part = PARTS[name]()
    dense = part.tensor()
    n, k = dense.shape[:2]
    size = dense[0, 0].numel()
    memory = torch.full((n, k, 2 * size if strided else size), torch.nan).double()
    out = memory[:, :, :size].unflatten(2, dense.shape[2:])
    part.write(out, add=False)
    assert_close(out, dense)
    part.write(out, add=True)
    assert_close(out, 2 * dense)


def test_norms_of_short_sequences_need_no_gradients():
    """Both ways of the squared norm: by Gram matrices of positions, or by entries."""
    for positions in (1, 2, 50):
        draw = torch.Generator().manual_seed(positions)
        shape = (3, 2, 1, positions, 6)
        left = torch.randn(*shape, generator=draw, dtype=torch.float64)
        right = torch.randn(3, 1, *shape[2:], generator=draw, dtype=torch.float64)
        part = Outer(left, right, (6, 6))
        expected = part.tensor().square().sum((2, 3))
        assert_close(part.squared_norms(), expected)
        expected = part.tensor().square().sum((0, 1))
        assert_close(part.squared_sums(), expected)
