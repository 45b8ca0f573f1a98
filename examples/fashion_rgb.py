"""Fashion-MNIST as three-channel images, for networks that were made for CIFAR.

cd examples
eigenscope jacobian --model resnet20_cifar10 --data fashion_rgb:images
"""

from pathlib import Path

from torch import Tensor

from eigenscope.zoo import load_data


def images(
    num_samples: int | None = None, split: str = "test", root: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Return the first images of a split, their one channel repeated, and classes."""
    data = load_data(
        "fashion-mnist",
        root=root,
        split="train" if split == "train" else "test",
        num_samples=num_samples,
    )
    return data.inputs.expand(-1, 3, -1, -1).contiguous(), data.targets
