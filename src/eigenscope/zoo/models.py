"""Models by name, initialised from an explicit seed."""

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from types import MappingProxyType

import torch
from torch import nn

from eigenscope.zoo.extras import require_extra
from eigenscope.zoo.factories import (
    call_model_factory,
    import_factory,
    is_factory,
)
from eigenscope.zoo.names import resolve_name
from eigenscope.zoo.vision_models import IMAGE_SIZE, resnet18, vgg11_bn

_MLP_WIDTHS = MappingProxyType({"mlp-512": (512,), "mlp-512x3": (512, 512, 512)})
_VISION = MappingProxyType({"vgg11-bn": vgg11_bn, "resnet18": resnet18})
_RESNETS = MappingProxyType(
    {
        f"{depth}_cifar{num_classes}": num_classes
        for depth in (
            "resnet20",
            "resnet56",
            "resnet110",
            "resnet164bn",
            "resnet272bn",
            "resnet542bn",
            "resnet1001",
        )
        for num_classes in (10, 100)
    }
)


def model_names() -> tuple[str, ...]:
    """Return every model that `build_model` knows by name.

    Example:
        >>> model_names()[:4]
        ('lenet', 'mlp-512', 'mlp-512x3', 'vgg11-bn')
    """
    return ("lenet", *_MLP_WIDTHS, *_VISION, *_RESNETS)


def build_model(
    name: str,
    *,
    sample_shape: tuple[int, ...],
    num_classes: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """A freshly initialised model on the CPU, by name or from the user's factory.

    - `lenet`: LeNet-5, conv(c, 6, 5) · relu · pool · conv(6, 16, 5) · relu · pool ·
      fc(400, 120) · relu · fc(120, 84) · relu · fc(84, k), for (c, 32, 32) images,
      with torch's default initialisation.
    - `mlp-512`: d-512-k without biases, ReLU, Glorot normal weights; `mlp-512x3`:
      three such hidden layers. Samples of any shape are flattened.
    - `vgg11-bn`, `resnet18`: torchvision's, for (c, 32, 32) images: the first with
      BatchNorm after its two layers of 4096 and no dropout, the second with a 3 × 3
      first convolution of stride 1 and no max-pooling.
    - `resnet20_cifar10` to `resnet1001_cifar100`: pytorchcv's, never downloaded.
    - `package.module:factory`: the user's callable, called with those of
      `sample_shape`, `num_classes` and `seed` that it has parameters for.

    Initial weights depend on `seed` alone; the caller's random state is left as it was.

    Args:
        name: The model.
        sample_shape: Shape of one sample, without the sample axis.
        num_classes: Number of outputs k; the ResNets know theirs.
        seed: Seed of torch's generator during construction.

    Returns:
        The model, in training mode as constructed.

    Raises:
        ValueError: If the name is unknown, or the model cannot take such samples
            or so many classes.

    References:
        LeCun, Bottou, Bengio, Haffner (1998), Proc. IEEE 86.

    Example:
        >>> model = build_model("lenet", sample_shape=(1, 32, 32), num_classes=10)
        >>> sum(p.numel() for p in model.parameters())
        61706
    """
    if is_factory(name):
        with _seeded_construction(seed):
            factory = import_factory("model", name)
        with _seeded_construction(seed):  # whatever the import has drawn
            return call_model_factory(
                name,
                factory,
                sample_shape=sample_shape,
                num_classes=num_classes,
                seed=seed,
            )
    name = resolve_name("model", name, model_names())
    if name in _RESNETS:
        return _resnet(name, sample_shape, num_classes, seed)
    if num_classes is None or num_classes < 1:
        raise ValueError(
            f"{name} requires num_classes, a positive integer; got {num_classes}. On "
            "the command line it is that of the data: return (inputs, targets) tensors "
            "from your factory, or give your data set an attribute `classes`."
        )
    if name == "lenet":
        return _lenet(sample_shape, num_classes, seed)
    if name in _VISION:
        _require_images(name, sample_shape)
        with _seeded_construction(seed):
            return _VISION[name](sample_shape[0], num_classes)
    return _mlp((prod(sample_shape), *_MLP_WIDTHS[name], num_classes), seed)


@contextmanager
def _seeded_construction(seed: int) -> Generator[None]:
    """Build on the CPU from `seed`, then give the caller's random state back."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _resnet(
    name: str, sample_shape: tuple[int, ...], num_classes: int | None, seed: int
) -> nn.Module:
    if tuple(sample_shape) != (3, 32, 32):
        raise ValueError(
            f"{name} requires samples of shape (3, 32, 32), got {tuple(sample_shape)}."
        )
    if num_classes not in {None, _RESNETS[name]}:
        stem = name.rpartition("_")[0]
        raise ValueError(
            f"{name} has {_RESNETS[name]} classes and the data has {num_classes}; "
            f"there are {stem}_cifar10 and {stem}_cifar100."
        )
    resnets = require_extra("pytorchcv.models.resnet_cifar", "vision")
    with _seeded_construction(seed):
        return getattr(resnets, name)(pretrained=False)


def _require_images(name: str, sample_shape: tuple[int, ...]) -> None:
    if len(sample_shape) != 3 or tuple(sample_shape[1:]) != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"{name} requires samples of shape (channel, 32, 32), got "
            f"{tuple(sample_shape)}; pad or resize the images, or take mlp-512."
        )


def _lenet(sample_shape: tuple[int, ...], num_classes: int, seed: int) -> nn.Module:
    _require_images("lenet", sample_shape)
    with _seeded_construction(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(sample_shape[0], 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(400, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, num_classes),
        )
    return nn.Sequential(layers)


def _mlp(widths: tuple[int, ...], seed: int) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    with _seeded_construction(seed):
        for index, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            if index > 1:
                layers[f"relu{index - 1}"] = nn.ReLU()
            linear = nn.Linear(fan_in, fan_out, bias=False)
            nn.init.xavier_normal_(linear.weight)
            layers[f"fc{index}"] = linear
    return nn.Sequential(layers)
