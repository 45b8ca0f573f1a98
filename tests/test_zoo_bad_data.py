"""What `load_data` refuses, and with which words."""

import pytest
import torch
from image_files import (
    IDX_FILES,
    random_bytes,
    write_cifar,
    write_folder,
    write_mnist,
    write_png,
    write_svhn,
)

from eigenscope import zoo


@pytest.fixture
def pixels():
    return random_bytes(6, 28, 28)


@pytest.fixture
def labels():
    return torch.tensor([1, 0, 1, 2, 0, 1], dtype=torch.uint8)


@pytest.mark.message
def test_unknown_data_sets_are_answered_with_all_names_nearest_first():
    with pytest.raises(ValueError, match=r"one of cifar10, .*digits.*got 'cifar1'"):
        zoo.load_data("cifar1")


@pytest.mark.message
def test_unknown_splits_are_told_the_right_ones():
    with pytest.raises(ValueError, match="one of 'train', 'test'; got 'validation'"):
        zoo.load_data("digits", split="validation")  # pyright: ignore[reportArgumentType]


@pytest.mark.message
@pytest.mark.parametrize("number", [0, 7])
def test_more_samples_than_there_are_is_an_error(tmp_path, pixels, labels, number):
    write_mnist(tmp_path, pixels, labels)
    message = rf"num_samples must be from 1 to 6, .*mnist's test split; got {number}"
    with pytest.raises(ValueError, match=message):
        zoo.load_data("mnist", root=tmp_path, num_samples=number)


@pytest.mark.message
@pytest.mark.parametrize("number", [0, 3])
def test_more_of_a_class_than_there_are_is_an_error(tmp_path, number):
    labels = torch.arange(10, dtype=torch.uint8).repeat(3)[:27]
    write_mnist(tmp_path, random_bytes(27, 28, 28), labels)
    message = (
        rf"per_class must be from 1 to 2, .*mnist's test split, 7 \(7\); got {number}"
    )
    with pytest.raises(ValueError, match=message):
        zoo.load_data("mnist", root=tmp_path, per_class=number)


@pytest.mark.message
def test_two_ways_to_choose_are_one_too_many():
    with pytest.raises(ValueError, match="num_samples=3 and per_class=1"):
        zoo.load_data("digits", num_samples=3, per_class=1)


@pytest.mark.message
@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "image-folder"])
def test_a_root_is_required_where_files_are(name):
    with pytest.raises(ValueError, match=rf"{name} requires root \(--data-root\)"):
        zoo.load_data(name)


@pytest.mark.message
def test_digits_take_no_root(tmp_path):
    with pytest.raises(
        ValueError, match=r"digits .* have no root, got .*; leave it out"
    ):
        zoo.load_data("digits", root=tmp_path)


@pytest.mark.message
def test_missing_idx_files_are_told_with_every_place(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        zoo.load_data("fashion-mnist", root=tmp_path)
    for inner in ("", "/FashionMNIST/raw"):
        for end in ("", ".gz"):
            assert f"{tmp_path}{inner}/{IDX_FILES[0]}{end}" in str(caught.value)
    assert "--data-root" in str(caught.value)
    assert "apt-get install dataset-fashion-mnist" in str(caught.value)


@pytest.mark.message
@pytest.mark.parametrize("position", [0, 1])
def test_a_truncated_idx_file_is_told_with_both_sizes(
    tmp_path, pixels, labels, position
):
    write_mnist(tmp_path, pixels, labels)
    path = tmp_path / IDX_FILES[position]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    size = len(content)
    message = rf"{path.name} is truncated.* {size} bytes, found {size - 1}"
    with pytest.raises(ValueError, match=message):
        zoo.load_data("mnist", root=tmp_path)


@pytest.mark.message
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic number 00 00 08 03 .*found nothing"),
        (b"\x00\x00\x08\x01" + bytes(12), "magic number 00 00 08 03 .*00 00 08 01"),
        (b"\x00\x00\x08\x03" + bytes(3), "is truncated: .* 16 bytes, found 7"),
        (b"\x00\x00\x08\x03" + bytes(13), "is too long: .* 16 bytes, found 17"),
    ],
)
def test_another_head_is_told(tmp_path, pixels, labels, content, message):
    write_mnist(tmp_path, pixels, labels)
    (tmp_path / IDX_FILES[0]).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{IDX_FILES[0]} .*{message}"):
        zoo.load_data("mnist", root=tmp_path)


@pytest.mark.message
@pytest.mark.parametrize("damage", ["cut", "not gzip", "changed"])
def test_a_damaged_gzip_is_told(tmp_path, pixels, labels, damage):
    write_mnist(tmp_path, pixels, labels, gz=True)
    path = tmp_path / f"{IDX_FILES[0]}.gz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "not gzip":
        content[:] = b"<html>not found</html>"
    else:
        content[len(content) // 2] ^= 255
    path.write_bytes(content)
    message = rf"{path.name} \({len(content)} bytes\) is truncated or not gzip"
    with pytest.raises(ValueError, match=message):
        zoo.load_data("mnist", root=tmp_path)


@pytest.mark.message
def test_images_of_another_size_are_told(tmp_path, labels):
    write_mnist(tmp_path, random_bytes(6, 8, 9), labels)
    with pytest.raises(ValueError, match="images of 28 × 28 pixels, found 8 × 9"):
        zoo.load_data("mnist", root=tmp_path)


@pytest.mark.message
def test_another_number_of_labels_is_told(tmp_path, pixels, labels):
    write_mnist(tmp_path, pixels, labels[:5])
    with pytest.raises(ValueError, match=r"holds 6 images and .* 5 labels"):
        zoo.load_data("mnist", root=tmp_path)


@pytest.mark.message
def test_labels_outside_the_classes_are_told(tmp_path, pixels, labels):
    labels[2] = 10
    write_mnist(tmp_path, pixels, labels)
    with pytest.raises(ValueError, match="must hold labels from 0 to 9, found 10"):
        zoo.load_data("mnist", root=tmp_path)


@pytest.mark.message
def test_an_empty_data_set_is_told(tmp_path, pixels, labels):
    write_mnist(tmp_path, pixels[:0], labels[:0])
    with pytest.raises(ValueError, match="mnist must hold at least one image"):
        zoo.load_data("mnist", root=tmp_path)


@pytest.mark.vision
@pytest.mark.message
def test_missing_cifar_files_are_told(tmp_path, monkeypatch):
    write_cifar(monkeypatch, tmp_path, "CIFAR10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    message = r"looked for \S*data_batch_3\. Give.*--data-root.*datasets.CIFAR10\("
    with pytest.raises(FileNotFoundError, match=message):
        zoo.load_data("cifar10", root=tmp_path)


@pytest.mark.vision
@pytest.mark.message
def test_a_truncated_cifar_file_is_told_and_never_unpickled(tmp_path, monkeypatch):
    write_cifar(monkeypatch, tmp_path, "CIFAR10")
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"test_batch is truncated .*in 100 bytes"):
        zoo.load_data("cifar10", root=tmp_path)


@pytest.mark.vision
@pytest.mark.message
def test_a_missing_or_changed_svhn_file_is_told(tmp_path, monkeypatch):
    write_svhn(monkeypatch, tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"test_32x32.mat is truncated or changed"):
        zoo.load_data("svhn", root=tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"looked for \S*test_32x32.mat"):
        zoo.load_data("svhn", root=tmp_path)


@pytest.mark.vision
@pytest.mark.message
def test_images_of_unequal_size_are_told(tmp_path):
    write_folder(tmp_path)
    write_png(random_bytes(3, 8, 8), tmp_path / "dogs" / "2.png")
    message = r"0.png has 5 × 7 pixels, \S*2.png has 8 × 8; resize"
    with pytest.raises(ValueError, match=message):
        zoo.load_data("image-folder", root=tmp_path)


@pytest.mark.vision
@pytest.mark.message
def test_a_damaged_image_is_told(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "cats" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1.png \(60 bytes\) is truncated or not an"):
        zoo.load_data("image-folder", root=tmp_path)


@pytest.mark.vision
@pytest.mark.message
def test_a_folder_without_images_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image-folder found no images in"):
        zoo.load_data("image-folder", root=tmp_path)
