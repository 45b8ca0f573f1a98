"""Where the samples are inside a network is proven for every way in which it runs."""

import pytest
import torch
from parameter_oracles import assert_same, loop_jacobian
from torch import Tensor, nn

import eigenscope as es
from eigenscope.jacobian.layout import codes
from eigenscope.jacobian.sample_axes import SampleAxes


class ByBatchSize(nn.Module):
    """Positions come first in batches of more than two samples, else samples do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        shape, axis = x.shape[:2], 1
        if len(x) > 2:
            x, shape, axis = x.transpose(0, 1), (x.shape[1], len(x)), 0
        rows = torch.tanh(self.layer(x.flatten(0, 1)))
        return self.head(rows.unflatten(0, shape).sum(axis))


class Reversed(ByBatchSize):
    """Samples of larger batches come in reverse order."""

    def forward(self, x: Tensor) -> Tensor:
        turned = x[:, 0].flip(0) if len(x) > 2 else x[:, 0]
        rows = torch.tanh(self.layer(turned))
        return self.head(rows.flip(0) if len(x) > 2 else rows)


class Swapped(ByBatchSize):
    """Two samples of a batch change places on their way through a layer."""

    def forward(self, x: Tensor) -> Tensor:
        order = torch.arange(len(x))
        if len(x) > 17:
            order[[0, 17]] = order[[17, 0]]
        return self.head(torch.tanh(self.layer(x[order, 0]))[order])


@pytest.mark.parametrize("size", [3, 5, 8])
@pytest.mark.parametrize("network", [ByBatchSize, Reversed])
def test_rows_that_lie_otherwise_in_larger_batches_are_found(network, size):
    model, x = network().double(), torch.randn(size, 5, 3, dtype=torch.float64)
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


def test_two_samples_that_change_places_are_found():
    model, x = Swapped().double(), torch.randn(128, 2, 3, dtype=torch.float64)
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 128, 1000])
def test_no_two_samples_have_the_same_code(dtype, size):
    one, other = codes(size, torch.zeros(1, dtype=dtype))
    ratios = (other / one).sort().values
    assert bool((ratios[1:] / ratios[:-1] > 1.01).all())
    assert max(float(one.max()), float(other.max())) < 2**34


def test_the_same_graph_is_proven_once(monkeypatch):
    proven: list[int] = []
    prove = SampleAxes.prove

    def noted(axes, outputs, trace, calls):
        proven.append(len(outputs))
        return prove(axes, outputs, trace, calls)

    monkeypatch.setattr(SampleAxes, "prove", noted)
    for model, expected in ((ByBatchSize(), [4]), (nn.Sequential(nn.Linear(3, 2)), [])):
        proven.clear()
        problem = es.Problem(model, torch.randn(14, 5, 3), output=_flat, batch_size=4)
        es.ParameterJacobian(problem).dense()
        assert proven == expected


def _flat(raw: Tensor) -> Tensor:
    return raw.flatten(1)
