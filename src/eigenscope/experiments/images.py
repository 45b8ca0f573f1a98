"""The images of an experiment: splits, label noise, and a few of each class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from eigenscope.experiments.configuration import DataSection, SplitName
from eigenscope.zoo import ImageData, data_from_factory, is_factory, load_data

_SELECTION_SEED = 0  # the published one, set again for every class


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One split of a data set.

    Attributes:
        inputs: All samples.
        targets: Their classes, with noise where it was asked for.
        class_names: By class.
        black: What a black pixel is, by channel.
    """

    inputs: Float[Tensor, "sample *shape"]
    targets: Int64[Tensor, "sample"]
    class_names: tuple[str, ...]
    black: tuple[float, ...]

    def to(self, device: torch.device) -> "Images":
        """Return the same on another device."""
        return Images(
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            class_names=self.class_names,
            black=self.black,
        )

    def first(self, count: int | None) -> tuple[Tensor, Tensor]:
        """Return the first so many inputs and targets; all for None."""
        return self.inputs[:count], self.targets[:count]

    def of_each_class(self, count: int) -> tuple[Tensor, Tensor]:
        """Return so many of each class, class after class, as LayerHessians draws them.

        Raises:
            ValueError: If a class has fewer.
        """
        chosen: list[Tensor] = []
        for number, name in enumerate(self.class_names):
            places = (self.targets == number).nonzero()[:, 0].cpu().numpy()
            if len(places) < count:
                raise ValueError(
                    f"hessian.per_class must be at most {len(places)}, the training "
                    f"images of class {number} ({name}); got {count}"
                )
            source = np.random.RandomState(_SELECTION_SEED)
            drawn = source.choice(places, count, replace=False)
            chosen.append(torch.from_numpy(drawn))
        rows = torch.cat(chosen).to(self.targets.device)
        return self.inputs[rows], self.targets[rows]


def load_split(section: DataSection, split: SplitName) -> Images:
    """Load one split of an experiment's data, with its label noise if it is trained on.

    Args:
        section: What the experiment says of its data.
        split: "train" or "test".

    Returns:
        The images.

    Raises:
        ValueError: If there is no such data set, or too few samples.
        OSError: If files are missing.
        TypeError: If a factory gives no tensors.
    """
    count = section.num_train if split == "train" else section.num_test
    root = None if section.root is None else Path(section.root)
    if is_factory(section.name):
        images = _of_factory(section.name, root, split, count)
    else:
        images = _of_zoo(
            load_data(section.name, root=root, split=split, num_samples=count)
        )
    if split == "test" or section.label_noise == 0:
        return images
    return Images(
        inputs=images.inputs,
        targets=noisy_labels(
            images.targets,
            num_classes=len(images.class_names),
            share=section.label_noise,
            seed=section.label_seed,
        ),
        class_names=images.class_names,
        black=images.black,
    )


def noisy_labels(
    targets: Int64[Tensor, "sample"], *, num_classes: int, share: float, seed: int
) -> Int64[Tensor, "sample"]:
    """Give a share of samples labels that are drawn uniformly from all classes.

    The labels are those that NumPy's `RandomState(seed).choice(num_classes, n)` gives,
    as published; a larger share keeps the random labels of a smaller one.

    Args:
        targets: The true labels.
        num_classes: How many classes there are.
        share: From 0 to 1; each sample is drawn with this probability.
        seed: Of the labels and of which samples get them.

    Returns:
        The labels.

    Example:
        >>> true = torch.zeros(1000, dtype=torch.int64)
        >>> drawn = noisy_labels(true, num_classes=10, share=1.0, seed=0)
        >>> drawn[:5].tolist()
        [5, 0, 3, 3, 7]
    """
    source = np.random.RandomState(seed)
    labels = torch.from_numpy(source.choice(num_classes, len(targets)))
    changed = torch.from_numpy(source.uniform(size=len(targets)) < share)
    return torch.where(changed.to(targets.device), labels.to(targets), targets)


def _of_zoo(data: ImageData) -> Images:
    black = tuple(-mean / std for mean, std in zip(data.mean, data.std, strict=True))
    return Images(
        inputs=data.inputs,
        targets=data.targets,
        class_names=data.class_names,
        black=black,
    )


def _of_factory(name: str, root: Path | None, split: str, count: int | None) -> Images:
    found: Any = data_from_factory(name, root=root, split=split, num_samples=count)
    is_pair = isinstance(found, tuple) and len(found) == 2
    if not is_pair or not all(isinstance(part, Tensor) for part in found):
        raise TypeError(
            f"the data of an experiment must be a pair of tensors, (inputs, targets); "
            f"{name} gave {type(found).__name__}"
        )
    inputs, targets = found
    names = tuple(str(number) for number in range(int(targets.max()) + 1))
    channels = inputs.shape[1] if inputs.ndim == 4 else 1
    return Images(
        inputs=inputs, targets=targets, class_names=names, black=(0.0,) * channels
    )
