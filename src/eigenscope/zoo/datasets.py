"""Labelled images by name: read, chosen, scaled and normalised."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final, get_args

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from eigenscope.zoo.names import resolve_name
from eigenscope.zoo.sources import SOURCES, ImageSource, Split


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """Normalised images and their classes.

    Attributes:
        name: The data set, as in `data_names()`.
        split: `"train"`, `"test"`, or `"all"` for an image folder without splits.
        inputs: The images, (pixel − mean) / std with pixels scaled to [0, 1].
        targets: The class of each image.
        class_names: The name of each class.
        mean: What was subtracted from each channel, in units of [0, 1].
        std: What each channel was divided by.
        indices: Position of each image in the whole split, in file order.
    """

    name: str
    split: Split | Literal["all"]
    inputs: Float32[Tensor, "sample channel height width"]
    targets: Int64[Tensor, "sample"]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    indices: Int64[Tensor, "sample"]

    @property
    def num_classes(self) -> int:
        """How many classes the whole data set has."""
        return len(self.class_names)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one image: channel, height, width."""
        return tuple(self.inputs.shape[1:])


def data_names() -> tuple[str, ...]:
    """Return every data set that `load_data` knows by name.

    Example:
        >>> data_names()[:3]
        ('digits', 'mnist', 'fashion-mnist')
    """
    return tuple(SOURCES)


def load_data(
    name: str,
    *,
    root: Path | str | None = None,
    split: Split = "test",
    num_samples: int | None = None,
    per_class: int | None = None,
) -> ImageData:
    """Load a named data set from local files: (pixel / 255 − mean) / std.

    Nothing is ever downloaded, shuffled or augmented. The names, in any case:

    - `mnist`, `fashion-mnist`: idx files, plain or gzipped, in `root` or where
      torchvision puts them below it; without `root`, Fashion-MNIST is looked for
      where Debian's package `dataset-fashion-mnist` installs it. Padded with two
      black pixels on each side to 32×32; (mean, std) are (0.1307, 0.3081) and
      (0.5, 0.5).
    - `cifar10`, `cifar100`, `svhn`: as torchvision stores them; (125.3, 123.0,
      113.9; 63.0, 62.1, 66.7)/255, (129.3, 124.1, 112.4; 68.2, 65.4, 70.4)/255 and
      (0.5, 0.5).
    - `image-folder`: `root/split/class/image`, or `root/class/image` if there is
      neither `root/train` nor `root/test`; RGB, of one size, (0.5, 0.5).
    - `digits`: scikit-learn's 1,797 8×8 images, divided by 16 and enlarged to
      32×32 by bilinear interpolation (`align_corners=False`); in file order the
      first 1,297 are for training, the last 500 for testing; (0.3059, 0.3230), the
      statistics of the training part.

    Args:
        name: The data set.
        root: The folder that holds it; not for `digits`.
        split: `"train"` or `"test"`.
        num_samples: Take the first so many in file order, instead of all.
        per_class: Take the first so many of each class in file order, class after
            class; not together with `num_samples`.

    Returns:
        The images, float32 on the CPU, with what one needs to name and rebuild them.

    Raises:
        FileNotFoundError: If files are missing; says which, and how to get them.
        ImportError: If an optional package is needed; says which extra brings it.
        ValueError: If the name or split is unknown, a file is truncated, changed or
            of the wrong shape, or more samples are asked for than there are.

    References:
        LeCun, Cortes, Burges, The MNIST database.
        Xiao, Rasul, Vollgraf (2017), arXiv:1708.07747.
        Krizhevsky (2009), Learning multiple layers of features from tiny images.
        Netzer et al. (2011), NIPS workshop on deep learning.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> head = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28])
        >>> images = root / "t10k-images-idx3-ubyte"
        >>> size = images.write_bytes(head + bytes(2 * 28 * 28))
        >>> labels = root / "t10k-labels-idx1-ubyte"
        >>> size = labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
        >>> data = load_data("mnist", root=root)
        >>> data.sample_shape, data.targets.tolist(), round(data.inputs.min().item(), 4)
        ((1, 32, 32), [7, 3], -0.4242)
    """
    if split not in get_args(Split):
        listed = ", ".join(repr(choice) for choice in get_args(Split))
        raise ValueError(f"split must be one of {listed}; got {split!r}.")
    if num_samples is not None and per_class is not None:
        raise ValueError(
            f"give num_samples or per_class, not both; got num_samples={num_samples} "
            f"and per_class={per_class}."
        )
    name = resolve_name("data", name, data_names())
    source = SOURCES[name](Path(root).expanduser() if root is not None else None, split)
    indices = _choose(name, source, num_samples, per_class)
    return ImageData(
        name=name,
        split=source.split,
        inputs=_normalize(source, indices),
        targets=source.targets[indices],
        class_names=source.class_names,
        mean=source.mean,
        std=source.std,
        indices=indices,
    )


def _choose(
    name: str, source: ImageSource, num_samples: int | None, per_class: int | None
) -> Int64[Tensor, "chosen"]:
    total = len(source.targets)
    if total == 0:
        raise ValueError(f"{name} must hold at least one image; this one is empty.")
    if per_class is not None:
        return _first_of_each_class(name, source, per_class)
    if num_samples is None:
        return torch.arange(total)
    if not 1 <= num_samples <= total:
        raise ValueError(
            f"num_samples must be from 1 to {total}, the size of {name}'s "
            f"{source.split} split; got {num_samples}."
        )
    return torch.arange(num_samples)


def _first_of_each_class(
    name: str, source: ImageSource, per_class: int
) -> Int64[Tensor, "chosen"]:
    counts = torch.bincount(source.targets, minlength=len(source.class_names))
    rarest = int(counts.argmin())
    if not 1 <= per_class <= int(counts[rarest]):
        raise ValueError(
            f"per_class must be from 1 to {int(counts[rarest])}, the size of the "
            f"smallest class of {name}'s {source.split} split, {rarest} "
            f"({source.class_names[rarest]}); got {per_class}."
        )
    chosen = [
        (source.targets == index).nonzero()[:per_class, 0]
        for index in range(len(source.class_names))
    ]
    return torch.cat(chosen)


def _normalize(
    source: ImageSource, indices: Tensor
) -> Float32[Tensor, "chosen channel height width"]:
    pixels = source.read(indices)
    inputs = pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels
    mean = torch.tensor(source.mean).view(-1, 1, 1)
    std = torch.tensor(source.std).view(-1, 1, 1)
    return inputs.sub_(mean).div_(std).contiguous()
