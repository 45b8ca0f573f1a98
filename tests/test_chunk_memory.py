"""Samples that go through a network together keep to the budget that is stated."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import eigenscope as es
from eigenscope.planning.counting import Counting

N = 96
WIDE = torch.linspace(-1, 1, 64, dtype=torch.float64)
LONG = torch.linspace(-1, 1, N, dtype=torch.float64)
TALL = torch.linspace(-1, 1, 3 * N, dtype=torch.float64)


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


def written(
    kind: type[es.InputJacobian | es.ParameterJacobian],
    folder: Path,
    memory: str | int | None,
) -> Tensor:
    model, x = network()
    with es.Run.create(folder / str(memory), verb="test", arguments={}) as run:
        stored = kind(es.Problem(model, x)).write(run, memory=memory)
        return next(block[:12].clone() for _, block in stored.row_blocks())


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


OPERATORS: dict[str, Callable[[nn.Module, Tensor, str | int | None], Tensor]] = {
    "input Jacobian": lambda model, x, m: es.InputJacobian(
        es.Problem(model, x), memory=m
    ).dense(),
    "input Jacobian, product": lambda model, x, m: (
        es.InputJacobian(es.Problem(model, x), layout="outputs", memory=m) @ WIDE
    ),
    "input Jacobian, transpose": lambda model, x, m: (
        es.InputJacobian(es.Problem(model, x), memory=m).T @ LONG
    ),
    "parameter Jacobian": lambda model, x, m: es.ParameterJacobian(
        es.Problem(model, x, params="6.*"), memory=m
    ).dense(),
    "parameter Jacobian, product": lambda model, x, m: (
        es.ParameterJacobian(es.Problem(model, x), memory=m).T @ TALL
    ),
    "tangent kernel, product": lambda model, x, m: (
        es.NTK(es.Problem(model, x), outputs="trace", memory=m) @ LONG
    ),
}


@pytest.mark.parametrize("name", [*CALLS, *OPERATORS])
def test_chunks_keep_to_the_budget_of_the_call(name):
    model, x = network()
    call = (CALLS | OPERATORS)[name]
    with Counting(torch.device("cpu")) as free:
        expected = call(model, x, None)
    budget = free.peak // 2
    with Counting(torch.device("cpu")) as counted:
        found = call(model, x, budget)
    assert counted.peak <= budget
    # Chunks of another size are added up in another order, in float64.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [es.InputJacobian, es.ParameterJacobian])
def test_a_written_jacobian_keeps_to_its_budget(tmp_path, kind):
    with Counting(torch.device("cpu")) as free:
        expected = written(kind, tmp_path, None)
    budget = free.peak // 2
    with Counting(torch.device("cpu")) as counted:
        found = written(kind, tmp_path, budget)
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
