"""pytorchcv's ResNets for CIFAR with blocks that begin as the identity.

The last BatchNorm of every residual block starts at zero instead of one (Goyal et al.
2017, arXiv 1706.02677). With ones, every block adds noise of unit variance to what
runs past it, and outputs before training grow with depth, in a thousand layers beyond
what a hundred steps can mend.

cd examples
eigenscope train resnet_family.toml
"""

from functools import partial
from typing import Any

from pytorchcv.models.resnet import ResUnit
from torch import nn

from eigenscope.zoo import build_model


def identity_resnet(name: str, seed: int) -> nn.Module:
    model = build_model(name, sample_shape=(3, 32, 32), seed=seed)
    for module in model.modules():
        if isinstance(module, ResUnit):
            body: Any = module.body
            *_, last = body.children()
            nn.init.zeros_(last.bn.weight)
    return model


resnet20 = partial(identity_resnet, "resnet20_cifar10")
resnet56 = partial(identity_resnet, "resnet56_cifar10")
resnet110 = partial(identity_resnet, "resnet110_cifar10")
resnet164bn = partial(identity_resnet, "resnet164bn_cifar10")
resnet272bn = partial(identity_resnet, "resnet272bn_cifar10")
resnet542bn = partial(identity_resnet, "resnet542bn_cifar10")
resnet1001 = partial(identity_resnet, "resnet1001_cifar10")
