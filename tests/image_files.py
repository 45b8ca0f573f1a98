"""Small image files in the original formats of the named data sets."""

import gzip
import hashlib
import importlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

IDX_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.numpy().tobytes()


def random_bytes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def write_mnist(folder: Path, images: Tensor, labels: Tensor, *, gz=False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_FILES, (images, labels), strict=True):
        if gz:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))


def write_cifar(monkeypatch: pytest.MonkeyPatch, root: Path, class_name: str) -> Tensor:
    """All files of CIFAR10 or CIFAR100 below `root`, with four images each.

    torchvision is made to expect their MD5.
    """
    datasets: Any = importlib.import_module("torchvision.datasets")
    dataset_class = getattr(datasets, class_name)
    label_key = {"CIFAR10": "labels", "CIFAR100": "fine_labels"}[class_name]
    folder = root / dataset_class.base_folder
    folder.mkdir()
    pixels = random_bytes(4, 3, 32, 32)
    batch = {"data": pixels.reshape(4, -1).numpy(), label_key: [3, 1, 0, 3]}
    for attribute in ("train_list", "test_list"):
        listed: list[list[str]] = []
        for name, _ in getattr(dataset_class, attribute):
            (folder / name).write_bytes(pickle.dumps(batch))
            listed.append([name, md5(folder / name)])
        monkeypatch.setattr(dataset_class, attribute, listed)
    names = [f"class {index}" for index in range(int(class_name[5:]))]
    meta = folder / dataset_class.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset_class.meta["key"]: names}))
    entry = {**dataset_class.meta, "md5": md5(meta)}
    monkeypatch.setattr(dataset_class, "meta", entry)
    return pixels


def write_svhn(monkeypatch: pytest.MonkeyPatch, root: Path) -> Tensor:
    """SVHN's test file with five images; torchvision is made to expect its MD5."""
    pixels = random_bytes(5, 3, 32, 32)
    path = root / "test_32x32.mat"
    columns = torch.tensor([[10], [1], [9], [10], [3]], dtype=torch.uint8).numpy()
    savemat(path, {"X": pixels.permute(2, 3, 1, 0).numpy(), "y": columns})
    listed = {"test": ["", path.name, md5(path)]}
    monkeypatch.setattr("torchvision.datasets.SVHN.split_list", listed)
    return pixels


def write_folder(root: Path) -> Tensor:
    """Two lossless images in each of two classes."""
    pixels = random_bytes(4, 3, 5, 7)
    for index, image in enumerate(pixels):
        place = root / ("cats", "dogs")[index // 2]
        place.mkdir(parents=True, exist_ok=True)
        write_png(image, place / f"{index}.png")
    return pixels


def write_png(image: Tensor, path: Path) -> None:
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
