"""Gradients of tangent kernels against loops of plain double backward passes."""

from typing import Any

import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import assert_close, assert_same, loop_kernels
from torch import Tensor, nn

import eigenscope as es


def rows_of(model: nn.Module, x: Tensor) -> list[list[dict[str, Tensor]]]:
    """Every sample's and output's gradients, recorded."""
    names, leaves = zip(*model.named_parameters(), strict=True)
    rows = []
    for sample in x.unbind():
        z = model(sample.unsqueeze(0)).flatten()
        found = [
            torch.autograd.grad(
                value,
                leaves,
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for value in z
        ]
        rows.append([dict(zip(names, grads, strict=True)) for grads in found])
    return rows


def regularizers(model: nn.Module, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Σ Θ_p[i, j, c, e] (1 + i + 2 j + 3 c + 5 e)² / 100, parameter by parameter."""
    left, right = rows_of(model, a), rows_of(model, b)
    total: dict[str, Tensor] = {}
    for i, own in enumerate(left):
        for j, others in enumerate(right):
            for c, one in enumerate(own):
                for e, two in enumerate(others):
                    weight = (1 + i + 2 * j + 3 * c + 5 * e) ** 2 / 100
                    for name, values in one.items():
                        part = weight * (values * two[name]).sum()
                        total[name] = total[name] + part if name in total else part
    return total


def gradients(value: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def weighted(kernel: Tensor) -> Tensor:
    n, m, k, _ = kernel.shape
    i, j, c, e = torch.meshgrid(*map(torch.arange, (n, m, k, k)), indexing="ij")
    return (kernel * (1 + i + 2 * j + 3 * c + 5 * e) ** 2 / 100).sum()


def smooth_network() -> tuple[nn.Module, Tensor]:
    """A convolution, a layer that is used twice, and a head."""
    torch.default_generator.manual_seed(0)
    again = nn.Linear(8, 8)
    parts = [nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), again, nn.Tanh(), again]
    model = nn.Sequential(*parts, nn.Softplus(), nn.Linear(8, 2)).double()
    return model, torch.randn(3, 1, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("second", [False, True])
def test_gradients_of_a_kernel_are_those_of_a_loop(second):
    model, x = smooth_network()
    x.requires_grad_()
    other = x[:2].detach() + 1 if second else None
    leaves = [x, *model.parameters()]
    parts = regularizers(model, x, x if other is None else other)
    expected = gradients(torch.stack(list(parts.values())).sum(), leaves)
    kernel = es.ntk(model, x, other, create_graph=True)
    for one, two in zip(gradients(weighted(kernel), leaves), expected, strict=True):
        assert_close(one, two)
    kernels = es.ntk_components(model, x, other, create_graph=True)
    for name in ("0.weight", "3.weight", "3.bias"):
        alone = gradients(weighted(kernels[name]), leaves)
        for one, two in zip(alone, gradients(parts[name], leaves), strict=True):
            assert_close(one, two, name)


@pytest.mark.parametrize("name", ["vgg", "language model", "twice", "lstm", "squared"])
def test_values_are_those_of_the_kernel(name):
    model, inputs = zoo.build(name)
    expected = loop_kernels(model, inputs)
    found = es.ntk_components(model, inputs, create_graph=True)
    assert_same({k: v.detach() for k, v in found.items()}, expected)
    for outputs in ("full", "trace", "pseudo"):
        options: dict[str, Any] = {"outputs": outputs}
        graph = es.ntk(model, inputs, create_graph=True, **options)
        assert graph.requires_grad
        assert_close(graph.detach(), es.ntk(model, inputs, **options))


def test_a_regularizer_makes_a_kernel_smaller():
    model, x = smooth_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    norms: list[float] = []
    for _ in range(5):
        optimizer.zero_grad()
        norm = es.ntk(model, x, outputs="trace", create_graph=True).norm()
        norm.backward()
        optimizer.step()
        norms.append(float(norm.detach()))
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < norms[0]


@pytest.mark.message
def test_ways_that_form_no_gradients_and_large_ones_are_refused():
    model, x = smooth_network()
    options: dict[str, Any] = {"create_graph": True, "method": "structured"}
    with pytest.raises(ValueError, match="method must be 'auto' or 'jacobian'"):
        es.ntk(model, x, **options)
    with pytest.raises(ValueError, match="can be differentiated must fit the memory"):
        es.ntk(model, x, create_graph=True, memory="1KiB")
