"""Whole networks of the literature against a loop of backward passes, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parameter_oracles import assert_same, loop_jacobian
from torch import Tensor, nn

import eigenscope as es
from eigenscope.jacobian import ParameterEngine
from eigenscope.zoo import build_model


def one(raw: Tensor) -> Tensor:
    return raw[:, 3:4]


def two(raw: Tensor) -> Tensor:
    return raw[:, 3:5]


def lenet() -> nn.Module:
    return build_model("lenet", sample_shape=(3, 32, 32), num_classes=10)


def resnet20() -> nn.Module:
    return build_model("resnet20_cifar10", sample_shape=(3, 32, 32))


def resnet18() -> nn.Module:
    return torchvision_models().resnet18(num_classes=10)


def torchvision_models() -> Any:
    return pytest.importorskip("torchvision.models")


def vgg11_bn() -> nn.Module:
    """All convolutions at full width, and three small layers for those of 4096."""
    model = torchvision_models().vgg11_bn(num_classes=10, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    parts = [nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
    model.classifier = nn.Sequential(*parts, nn.Linear(32, 10))
    return model


def small_convnext() -> nn.Module:
    convnext = torchvision_models().convnext
    widths = [(16, 32, 2), (32, 48, 1), (48, None, 1)]
    blocks = [convnext.CNBlockConfig(*width) for width in widths]
    return convnext.ConvNeXt(blocks, num_classes=10)


def vision_transformer() -> nn.Module:
    return torchvision_models().VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=10,
    )


@pytest.mark.slow
@pytest.mark.vision
@pytest.mark.parametrize(
    ("make", "num_samples", "output"),
    [
        (lenet, 3, two),
        (resnet20, 3, two),
        (resnet18, 2, one),
        (vgg11_bn, 2, one),
        (small_convnext, 3, two),
        (vision_transformer, 3, two),
    ],
)
def test_the_jacobian_by_all_parameters_is_that_of_a_loop(
    make: Callable[[], nn.Module], num_samples: int, output: Callable[[Tensor], Tensor]
):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = make().double().eval()
        for parameter in model.parameters():  # torchvision starts some at zero
            parameter.data += 0.01 * torch.randn_like(parameter)
        x = torch.randn(num_samples, 3, 32, 32, dtype=torch.float64)
    engine = ParameterEngine(es.Problem(model, x, output=output))
    assert {served.path for served in engine.coverage.values()} == {"rules"}
    found = es.parameter_jacobian(model, x, output=output)
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert_same(found, loop_jacobian(model, x, output))
