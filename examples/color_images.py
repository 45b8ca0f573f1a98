"""Fashion-MNIST with three equal channels, for networks that take color images.

cd examples
eigenscope train jacobian_evolution.toml
"""

from pathlib import Path

from torch import Tensor

from eigenscope.zoo import load_data


def fashion_mnist(
    split: str, num_samples: int | None = None, root: Path | None = None
) -> tuple[Tensor, Tensor]:
    data = load_data(
        "fashion-mnist",
        root=root,
        split="train" if split == "train" else "test",
        num_samples=num_samples,
    )
    return data.inputs.expand(-1, 3, -1, -1).contiguous(), data.targets
