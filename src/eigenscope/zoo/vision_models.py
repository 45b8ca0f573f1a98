"""VGG-11 and ResNet-18 for 32 × 32 images, from torchvision's definitions."""

from collections import OrderedDict

from torch import nn

from eigenscope.zoo.extras import require_extra

IMAGE_SIZE = 32


def vgg11_bn(num_channels: int, num_classes: int) -> nn.Module:
    """VGG-11 with BatchNorm: eight convolutions, then 512-4096-4096-k.

    torchvision's convolutions, which leave 1 × 1 of a 32 × 32 image; the two hidden
    linear layers are followed by BatchNorm and ReLU instead of ReLU and dropout, so
    that the network has no randomness of its own.

    Args:
        num_channels: Of the images.
        num_classes: k.

    Returns:
        The network, initialised from torch's own random state.

    Raises:
        ImportError: If torchvision is missing.

    References:
        Simonyan, Zisserman (2015), arXiv:1409.1556, configuration A.
    """
    vgg = require_extra("torchvision.models.vgg", "vision")
    features = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    features[0] = nn.Conv2d(num_channels, 64, kernel_size=3, padding=1)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        features=features,
        flatten=nn.Flatten(),
        fc1=nn.Linear(512, 4096),
        bn1=nn.BatchNorm1d(4096),
        relu1=nn.ReLU(),
        fc2=nn.Linear(4096, 4096),
        bn2=nn.BatchNorm1d(4096),
        relu2=nn.ReLU(),
        fc3=nn.Linear(4096, num_classes),
    )
    return nn.Sequential(layers)


def resnet18(num_channels: int, num_classes: int) -> nn.Module:
    """ResNet-18 whose stem keeps the size of a 32 × 32 image.

    torchvision's network with a 3 × 3 first convolution of stride 1 and without its
    max-pooling.

    Args:
        num_channels: Of the images.
        num_classes: Number of outputs.

    Returns:
        The network, initialised from torch's own random state.

    Raises:
        ImportError: If torchvision is missing.

    References:
        He, Zhang, Ren, Sun (2016), arXiv:1512.03385.
    """
    models = require_extra("torchvision.models", "vision")
    network = models.resnet18(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(num_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
