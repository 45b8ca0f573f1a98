"""The layer-wise kernel of fully connected stacks, against a notebook's numbers.

The notebook took a 2-3-3-1 stack with standard normal weights and biases and three
normal inputs. Its numbers were printed in float32; the components here were found by
loops in float64.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from parameter_oracles import assert_close, loop_kernels
from torch import Tensor, nn

import eigenscope as es

COMPONENTS: dict[str, list[list[float]]] = {
    "0.weight": [
        [1.1859366, 5.3510981, 5.3296874],
        [5.3510981, 48.6424921, 16.4320732],
        [5.3296874, 16.4320732, 26.3198254],
    ],
    "0.bias": [[6.7057739] * 3] * 3,
    "2.weight": [
        [8.6105186, 14.9180425, 17.615518],
        [14.9180425, 27.3354502, 32.8746405],
        [17.615518, 32.8746405, 41.1446421],
    ],
    "2.bias": [[1.4107608] * 3] * 3,
    "4.weight": [
        [35.6086988, 57.3783808, 62.6700903],
        [57.3783808, 93.0671638, 102.3494315],
        [62.6700903, 102.3494315, 115.1990042],
    ],
    "4.bias": [[1.0] * 3] * 3,
}
BIASES = 9.116535


def stack(
    *widths: int, activation: Callable[[], nn.Module], seed: int, bias: bool = True
) -> nn.Sequential:
    """Standard normal weights and biases, drawn as the notebook drew them."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        layers = [
            nn.Linear(before, after, bias=bias) for before, after in pairwise(widths)
        ]
        for layer in layers:
            nn.init.normal_(layer.weight)
            if bias:
                nn.init.normal_(layer.bias)
    parts: list[nn.Module] = []
    for layer in layers:
        parts += [layer, activation()]
    return nn.Sequential(*parts[:-1]).double()


def test_the_first_row_of_the_later_notebook_with_tanh():
    model = stack(2, 3, 3, 1, activation=nn.Tanh, seed=2)
    x = np.random.RandomState(2).normal(0, 1, (4, 2)).astype(np.float32)
    found = es.ntk(model, torch.from_numpy(x).double(), outputs="trace")[0]
    expected = torch.tensor([8.254051, 4.5994496, 2.5208883, 7.149842]).double()
    # Printed in float32, seven digits.
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=2e-6)


def notebook() -> tuple[nn.Sequential, Tensor]:
    model = stack(2, 3, 3, 1, activation=nn.Identity, seed=2)
    x = np.random.RandomState(2).normal(0, 1, (3, 2)).astype(np.float32)
    return model, torch.from_numpy(x).double()


def test_the_six_components_of_the_notebook():
    model, x = notebook()
    for method in ("structured", "jacobian", "auto"):
        found = es.ntk_components(model, x, outputs="trace", method=method)
        assert list(found) == list(COMPONENTS)
        for name, kernel in found.items():
            expected = torch.tensor(COMPONENTS[name], dtype=torch.float64)
            # Recorded with seven decimals.
            torch.testing.assert_close(kernel, expected, rtol=0, atol=1.1e-7)


def test_what_was_off_by_a_scalar_is_the_biases():
    """Weights alone are the same kernel less 9.116535 in every entry."""
    model, x = notebook()
    whole = es.ntk(model, x, outputs="trace")
    weights = es.ntk(model, x, outputs="trace", params="*.weight")
    missing = torch.full((3, 3), BIASES, dtype=torch.float64)
    torch.testing.assert_close(whole - weights, missing, rtol=0, atol=1e-6)
    biases = es.ntk(model, x, outputs="trace", params="*.bias")
    assert_close(biases, whole - weights)


def layerwise(model: nn.Sequential, x: Tensor, slope: Any) -> dict[str, Tensor]:
    """K_W = (SᵀS) ∘ (XᵀX) and K_b = SᵀS, pair of outputs by pair, by hand."""
    inputs, before = [x], list[Tensor]()
    for number, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            before.append(layer(inputs[-1]))
            last = number == len(model) - 1
            inputs.append(before[-1] if last else model[number + 1](before[-1]))
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    outputs = linear[-1].out_features
    cotangents = torch.eye(outputs, dtype=x.dtype).expand(
        len(x), -1, -1
    )  # (sample, c, unit)
    found: dict[str, Tensor] = {}
    for depth in reversed(range(len(linear))):
        grams = torch.einsum("ica,jea->ijce", cotangents, cotangents)
        X = inputs[depth] @ inputs[depth].T
        found[f"{2 * depth}.bias"] = grams
        found[f"{2 * depth}.weight"] = grams * X[:, :, None, None]
        if depth:
            cotangents = (cotangents @ linear[depth].weight) * slope(
                before[depth - 1]
            ).unsqueeze(1)
    return found


class Erf(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.erf(z)


SLOPES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "identity": (nn.Identity, torch.ones_like),
    "tanh": (nn.Tanh, lambda z: 1 - torch.tanh(z).square()),
    "relu": (nn.ReLU, lambda z: (z > 0).to(z)),
    "erf": (
        Erf,
        lambda z: 2 / torch.pi**0.5 * torch.exp(-z.square()),
    ),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(2, 3, 3, 1), (5, 7, 4, 6, 3), (4, 2)])
@pytest.mark.parametrize("activation", SLOPES)
def test_any_stack_has_the_layer_wise_kernel(activation, widths, bias):
    make, slope = SLOPES[activation]
    model = stack(*widths, activation=make, seed=5, bias=bias)
    x = torch.from_numpy(np.random.RandomState(1).normal(0, 1, (6, widths[0])))
    expected = layerwise(model, x, slope)
    loops = loop_kernels(model, x)
    found = es.ntk_components(model, x, method="structured")
    assert list(found) == list(loops)
    for name, kernel in found.items():
        assert_close(kernel, expected[name].detach(), name)
        assert_close(kernel, loops[name], name)


class Scaled(nn.Module):
    """z = σ_w / √fan_in · W x + σ_b · b, the parametrization of infinite widths."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        nn.init.normal_(self.linear.weight)
        nn.init.normal_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.5 / x.shape[1] ** 0.5
        return nn.functional.linear(
            x, scale * self.linear.weight, 0.1 * self.linear.bias
        )


def test_stacks_with_scaled_parameters_are_exact_too():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(3)
        model = nn.Sequential(Scaled(4, 6), nn.Tanh(), Scaled(6, 2)).double()
        x = torch.randn(5, 4, dtype=torch.float64)
    expected = loop_kernels(model, x)
    for method in ("structured", "auto"):
        found = es.ntk_components(model, x, method=method)
        for name, kernel in found.items():
            assert_close(kernel, expected[name], name)
