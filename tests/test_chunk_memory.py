"""Samples that go through a network together keep to the budget that is stated."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import eigenscope as es
from eigenscope.planning.counting import Counting

N = 96


def network() -> tuple[nn.Module, Tensor]:
    """Few parameters and inputs, many activations: chunks are what takes memory."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 8, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    ).double()
    source = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=source)
    return model, torch.randn(N, 1, 8, 8, generator=source, dtype=torch.float64)


def written(folder: Path, memory: str | int | None) -> Tensor:
    model, x = network()
    with es.Run.create(folder / str(memory), verb="test", arguments={}) as run:
        return es.InputJacobian(es.Problem(model, x)).write(run, memory=memory).dense()


CALLS: dict[str, Callable[[nn.Module, Tensor, str | int | None], Tensor]] = {
    "input_jacobian": lambda model, x, m: es.input_jacobian(model, x, memory=m),
    "parameter_jacobian": lambda model, x, m: es.parameter_jacobian(
        model, x, params="6.*", memory=m
    )["6.weight"],
    "per_sample_gradients": lambda model, x, m: es.per_sample_gradients(
        model, nn.CrossEntropyLoss(), x, torch.arange(N) % 3, params="6.*", memory=m
    )["6.weight"],
    "ntk": lambda model, x, m: es.ntk(
        model, x, params="6.*", outputs="trace", memory=m
    ),
    "projected_ntk": lambda model, x, m: (
        es.projected_ntk(
            model, x, params="6.*", num_projections=8, outputs="trace", memory=m
        ).value
    ),
    "conjugate_kernel": lambda model, x, m: es.conjugate_kernel(model, x, memory=m),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_of_plain_tensors_keep_to_their_budget(name):
    model, x = network()
    with Counting(torch.device("cpu")) as free:
        expected = CALLS[name](model, x, None)
    budget = free.peak // 2
    with Counting(torch.device("cpu")) as counted:
        found = CALLS[name](model, x, budget)
    assert counted.peak <= budget
    # Chunks of another size are added up in another order, in float64.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_written_jacobian_keeps_to_its_budget(tmp_path):
    with Counting(torch.device("cpu")) as free:
        expected = written(tmp_path, None)
    budget = free.peak // 2
    with Counting(torch.device("cpu")) as counted:
        found = written(tmp_path, budget)
    assert counted.peak <= budget
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_transforms_of_torch_inside_a_network_need_no_account():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            total = torch.func.grad(lambda z: self.linear(z).tanh().sum())
            return total(x)

    model, x = Inner(), torch.ones(5, 3, dtype=torch.float64)
    found = es.input_jacobian(model, x, memory="1MB")
    assert found.shape == (5, 3, 3)
