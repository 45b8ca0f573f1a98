"""Spectra of weight matrices, against NumPy and the weightwatcher package."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import eigenscope as es

EXACT = 1e-10  # squares of singular values in float64, relative to the largest


def squares(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False) ** 2


def network() -> Any:
    """A linear layer with heavy-tailed rows and a convolution, from fixed numbers."""
    source = np.random.default_rng(0)
    net: Any = nn.Sequential(nn.Linear(120, 80), nn.Conv2d(16, 24, 3))
    rows = source.standard_normal((80, 120)) * source.random((80, 1)) ** -0.5
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(rows))
        kernel = source.standard_normal((24, 16, 3, 3))
        net[1].weight.copy_(torch.from_numpy(kernel))
    return net


# α, KS distance, values in the tail, from weightwatcher 0.7.5.5's analyze().
WEIGHTWATCHER = {
    "0.weight": (1.9301289249049816, 0.06908064694283211, 31, 5.467889321836517),
    "1.weight": (5.647652094545931, 0.12272257303654421, 26, 44.92474794858759),
}


@pytest.mark.parametrize("name", WEIGHTWATCHER)
def test_tails_are_those_of_weightwatcher(name):
    alpha, distance, num_tail, stable_rank = WEIGHTWATCHER[name]
    spectrum = es.weight_spectra(network())[name]
    fit = es.fit_power_law(spectrum)
    assert fit.alpha == pytest.approx(alpha, rel=1e-6)  # it computes in float32
    assert fit.ks_distance == pytest.approx(distance, rel=1e-6)
    assert fit.num_tail == num_tail
    assert spectrum.intrinsic_dimension() == pytest.approx(stable_rank, rel=1e-6)


def test_the_eigenvalues_are_squared_singular_values():
    net = network()
    found = es.weight_spectra(net)
    assert list(found) == ["0.weight", "1.weight"]
    linear, kernel = (
        p.detach().double().numpy() for p in net.parameters() if p.ndim > 1
    )
    expected = np.sort(squares(linear))
    np.testing.assert_allclose(
        found["0.weight"].values, expected, rtol=0, atol=EXACT * expected[-1]
    )
    slices = [squares(kernel[:, :, i, j]) for i in range(3) for j in range(3)]
    expected = np.sort(np.concatenate(slices))
    assert found["1.weight"].dimension == 9 * 16
    np.testing.assert_allclose(
        found["1.weight"].values, expected, rtol=0, atol=EXACT * expected[-1]
    )
    whole = es.weight_spectra(net, params="1.*", kernels="matrix")
    expected = np.sort(squares(kernel.reshape(24, -1)))
    assert list(whole) == ["1.weight"]
    np.testing.assert_allclose(
        whole["1.weight"].values, expected, rtol=0, atol=EXACT * expected[-1]
    )


def test_the_trace_is_the_squared_frobenius_norm():
    net = network()
    for name, spectrum in es.weight_spectra(net).items():
        norm = net.get_parameter(name).detach().double().square().sum()
        assert spectrum.trace() == pytest.approx(float(norm), rel=1e-12)


def test_a_parametrized_layer_has_the_spectrum_of_the_weight_that_it_uses():
    layer: Any = parametrizations.weight_norm(nn.Linear(5, 4))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(3)
    (name,) = found = es.weight_spectra(nn.Sequential(layer))
    assert name == "0.weight"
    expected = np.sort(squares(layer.weight.detach().double().numpy()))
    np.testing.assert_allclose(found[name].values, expected, rtol=EXACT)
    assert layer.weight.requires_grad


def test_ranks_show_above_the_floor():
    layer = nn.Linear(40, 30)
    with torch.no_grad():
        source = torch.Generator().manual_seed(0)
        left = torch.randint(-3, 4, (30, 3), generator=source).float()
        right = torch.randint(-3, 4, (3, 40), generator=source).float()
        layer.weight.copy_(left @ right)
    assert es.weight_spectra(layer)["weight"].rank() == 3


@pytest.mark.message
def test_wrong_options_and_weights_are_refused():
    net = network()
    with pytest.raises(ValueError, match="kernels must be one of 'slices', 'matrix'"):
        es.weight_spectra(net, kernels="fft")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"'2\.weight' matches none\. The nearest"):
        es.weight_spectra(net, params="2.weight")
    with pytest.raises(ValueError, match=r"'0\.weight' must fit .* params="):
        es.weight_spectra(net, memory=1000)
    with torch.no_grad():
        net[1].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="all entries must be finite"):
        es.weight_spectra(net)
