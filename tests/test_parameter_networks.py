"""Whole networks of the literature against a loop of backward passes, in float64."""

from collections.abc import Callable

import pytest
import torch
from parameter_oracles import assert_same, loop_jacobian
from torch import Tensor, nn

import eigenscope as es
from eigenscope.jacobian import ParameterEngine
from eigenscope.zoo import build_model


def two(raw: Tensor) -> Tensor:
    return raw[:, 3:5]


def lenet() -> nn.Module:
    return build_model("lenet", sample_shape=(3, 32, 32), num_classes=10)


def resnet20() -> nn.Module:
    return build_model("resnet20_cifar10", sample_shape=(3, 32, 32))


def from_torchvision(name: str, **options: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = pytest.importorskip("torchvision.models")
        torch.default_generator.manual_seed(0)
        return getattr(models, name)(num_classes=10, **options)

    return make


@pytest.mark.slow
@pytest.mark.vision
@pytest.mark.parametrize(
    ("make", "params"),
    [
        (lenet, None),
        (resnet20, None),
        (from_torchvision("resnet18"), ["conv1.*", "bn1.*", "layer[13]*", "fc.*"]),
        (from_torchvision("vgg11_bn"), ["features.*"]),
        (from_torchvision("convnext_tiny"), ["features.[01]*", "features.3*"]),
        (
            from_torchvision("vit_b_16", image_size=32),
            ["class_token", "*pos*", "*layer_9.*", "heads*"],
        ),
    ],
    ids=["lenet", "resnet20", "resnet18", "vgg11_bn", "convnext", "vit"],
)
def test_the_jacobian_of_a_network_is_that_of_a_loop(make, params):
    with torch.random.fork_rng():
        model = make().double().eval()
        x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    problem = es.Problem(model, x, output=two, params=params)
    engine = ParameterEngine(problem)
    assert {served.path for served in engine.coverage.values()} == {"rules"}
    found = es.parameter_jacobian(model, x, output=two, params=params)
    assert_same(found, loop_jacobian(model, x, two, only=found))
