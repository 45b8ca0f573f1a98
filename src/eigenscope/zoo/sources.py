"""Where the images of each named data set come from."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, final

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, pad

from eigenscope.zoo.extras import require_extra
from eigenscope.zoo.idx import read_idx

Split = Literal["train", "test"]
Pixels = UInt8[Tensor, "sample channel height width"]
UnitPixels = Float32[Tensor, "sample channel height width"]

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_DIGITS_NUM_TRAIN = 1297
_DIGIT_NAMES = tuple(str(digit) for digit in range(10))
_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Labels at once, pixels on demand.

    Attributes:
        split: `"train"`, `"test"`, or `"all"` where there is no split.
        targets: The class of each image, in file order.
        read: Gives the images at some indices, as bytes or as floats in [0, 1].
        class_names: One for each class.
        mean: Mean of each channel that normalisation subtracts, in units of [0, 1].
        std: What normalisation divides each channel by.
    """

    split: Split | Literal["all"]
    targets: Int64[Tensor, "sample"]
    read: Callable[[Int64[Tensor, "chosen"]], Pixels | UnitPixels]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _mnist(root: Path | None, split: Split) -> ImageSource:
    where = "get it with torchvision.datasets.MNIST(ROOT, download=True)"
    folder = _require_root("mnist", root, where)
    folders = (folder / "MNIST" / "raw", folder)
    return _idx_source("mnist", folders, split, where, _DIGIT_NAMES, 0.1307, 0.3081)


def _fashion_mnist(root: Path | None, split: Split) -> ImageSource:
    where = (
        "on Debian, apt-get install dataset-fashion-mnist puts it where it is found "
        "without a root; elsewhere get it with "
        "torchvision.datasets.FashionMNIST(ROOT, download=True)"
    )
    folder = root or _DEBIAN_FASHION_MNIST
    folders = (folder / "FashionMNIST" / "raw", folder)
    return _idx_source("fashion-mnist", folders, split, where, _FASHION_NAMES, 0.5, 0.5)


def _cifar10(root: Path | None, split: Split) -> ImageSource:
    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    return _cifar("CIFAR10", root, split, mean, std)


def _cifar100(root: Path | None, split: Split) -> ImageSource:
    mean, std = (129.3, 124.1, 112.4), (68.2, 65.4, 70.4)
    return _cifar("CIFAR100", root, split, mean, std)


def _svhn(root: Path | None, split: Split) -> ImageSource:
    where = "get it with torchvision.datasets.SVHN(ROOT, split, download=True)"
    folder = _require_root("svhn", root, where)
    dataset_class = require_extra("torchvision.datasets", "vision").SVHN
    _, name, md5 = dataset_class.split_list[split]
    _require_files("svhn", [(folder / name, md5)], where)
    dataset = dataset_class(folder, split=split)
    return ImageSource(
        split=split,
        targets=torch.from_numpy(dataset.labels),
        read=torch.from_numpy(dataset.data).__getitem__,
        class_names=_DIGIT_NAMES,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


def _digits(root: Path | None, split: Split) -> ImageSource:
    if root is not None:
        raise ValueError(
            f"digits come with scikit-learn and have no root, got {root}; leave it out."
        )
    bunch = require_extra("sklearn.datasets", "digits").load_digits()
    part = slice(None, _DIGITS_NUM_TRAIN)
    if split == "test":
        part = slice(_DIGITS_NUM_TRAIN, None)
    small = torch.from_numpy(bunch.images[part]).float().div(16)[:, None]

    def read(chosen: Tensor) -> UnitPixels:
        return interpolate(
            small[chosen], size=(32, 32), mode="bilinear", align_corners=False
        )

    return ImageSource(
        split=split,
        targets=torch.from_numpy(bunch.target[part]).long(),
        read=read,
        class_names=_DIGIT_NAMES,
        mean=(0.3059,),
        std=(0.3230,),
    )


def _image_folder(root: Path | None, split: Split) -> ImageSource:
    where = "it holds one folder of images for each class, or train and test with such"
    folder = _require_root("image-folder", root, where)
    has_splits = any((folder / name).is_dir() for name in ("train", "test"))
    folder = folder / split if has_splits else folder
    datasets = require_extra("torchvision.datasets", "vision")
    functional = require_extra("torchvision.transforms.functional", "vision")
    try:
        dataset = datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"image-folder found no images in {folder}: {error} (--data-root): {where}."
        ) from error

    def read(chosen: Tensor) -> Pixels:
        paths = [dataset.samples[index][0] for index in chosen.tolist()]
        return _stack(paths, lambda path: _open(path, dataset.loader, functional))

    return ImageSource(
        split=split if has_splits else "all",
        targets=torch.tensor(dataset.targets),
        read=read,
        class_names=tuple(dataset.classes),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


SOURCES = MappingProxyType(
    {
        "digits": _digits,
        "mnist": _mnist,
        "fashion-mnist": _fashion_mnist,
        "svhn": _svhn,
        "cifar10": _cifar10,
        "cifar100": _cifar100,
        "image-folder": _image_folder,
    }
)


def _require_root(name: str, root: Path | None, where: str) -> Path:
    if root is None:
        raise ValueError(
            f"{name} requires root (--data-root), the folder that holds it; {where}."
        )
    return root


def _idx_source(
    name: str,
    folders: tuple[Path, ...],
    split: Split,
    where: str,
    class_names: tuple[str, ...],
    mean: float,
    std: float,
) -> ImageSource:
    stem = "train" if split == "train" else "t10k"
    image_path = _find(name, f"{stem}-images-idx3-ubyte", folders, where)
    label_path = _find(name, f"{stem}-labels-idx1-ubyte", folders, where)
    images = read_idx(image_path, num_dims=3)
    targets = read_idx(label_path, num_dims=1)
    if images.shape[1:] != (28, 28):
        raise ValueError(
            f"{image_path} must hold images of 28 × 28 pixels, "
            f"found {images.shape[1]} × {images.shape[2]}."
        )
    if len(images) != len(targets):
        raise ValueError(
            f"{image_path} holds {len(images)} images and {label_path} {len(targets)} "
            "labels; they must be of one data set and split."
        )
    if len(targets) and int(targets.max()) >= len(class_names):
        raise ValueError(
            f"{label_path} must hold labels from 0 to {len(class_names) - 1}, "
            f"found {int(targets.max())}."
        )
    return ImageSource(
        split=split,
        targets=targets.long(),
        read=lambda chosen: pad(images[chosen][:, None], (2, 2, 2, 2)),
        class_names=class_names,
        mean=(mean,),
        std=(std,),
    )


def _find(name: str, file: str, folders: tuple[Path, ...], where: str) -> Path:
    paths = [folder / f"{file}{end}" for folder in folders for end in ("", ".gz")]
    for path in paths:
        if path.is_file():
            return path
    listed = ", ".join(str(path) for path in paths)
    raise FileNotFoundError(
        f"{name} was not found; looked for {listed}. Give the folder that holds it as "
        f"root (--data-root); {where}."
    )


def _cifar(
    class_name: str,
    root: Path | None,
    split: Split,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> ImageSource:
    name = class_name.lower()
    where = f"get it with torchvision.datasets.{class_name}(ROOT, download=True)"
    folder = _require_root(name, root, where)
    dataset_class = getattr(require_extra("torchvision.datasets", "vision"), class_name)
    listed = [*dataset_class.train_list, *dataset_class.test_list]
    listed.append((dataset_class.meta["filename"], dataset_class.meta["md5"]))
    inner = folder / dataset_class.base_folder
    _require_files(name, [(inner / file, md5) for file, md5 in listed], where)
    dataset = dataset_class(folder, train=split == "train")
    pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
    return ImageSource(
        split=split,
        targets=torch.tensor(dataset.targets),
        read=pixels.__getitem__,
        class_names=tuple(dataset.classes),
        mean=tuple(value / 255 for value in mean),
        std=tuple(value / 255 for value in std),
    )


def _require_files(name: str, files: list[tuple[Path, str]], where: str) -> None:
    missing = [str(path) for path, _ in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name} was not found; looked for {', '.join(missing)}. Give the folder "
            f"that holds it as root (--data-root); {where}."
        )
    for path, md5 in files:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise ValueError(
                f"{path} is truncated or changed: its MD5 must be {md5}, found {found} "
                f"in {path.stat().st_size} bytes; {where}."
            )


def _open(path: str, loader: Callable[[str], Any], functional: Any) -> Tensor:
    try:
        return functional.pil_to_tensor(loader(path))
    except OSError as error:
        raise ValueError(
            f"{path} ({Path(path).stat().st_size} bytes) is truncated or not an image "
            f"({error}); replace or remove it."
        ) from error


def _stack(paths: list[str], load: Callable[[str], Tensor]) -> Tensor:
    images: list[Tensor] = []
    for path in paths:
        images.append(load(path))
        if images[-1].shape != images[0].shape:
            (_, *first), (_, *other) = images[0].shape, images[-1].shape
            raise ValueError(
                f"all images must be of one size: {paths[0]} has {first[0]} × "
                f"{first[1]} pixels, {path} has {other[0]} × {other[1]}; resize them."
            )
    return torch.stack(images)
