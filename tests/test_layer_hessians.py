"""The twelve pairs of the layer-Hessian study, on tiny files in their own formats.

VGG-11 and ResNet-18 keep every layer and a sixteenth of its width.
"""

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_cases import as_json
from image_files import idx_bytes, md5, random_bytes
from scipy.io import savemat
from torch import nn

import eigenscope as es
from eigenscope.zoo.vision_models import resnet18, vgg11_bn

pytestmark = [pytest.mark.slow, pytest.mark.vision]

LABELS = torch.arange(20) % 10
CHANGES = [
    *("training.epochs=1", "hessian.per_class=1", "hessian.every=2"),
    *("hessian.max_probes=2", "hessian.max_steps=2", "hessian.num_outer=0"),
]
# matrices of convolutions and linear layers
NUM_LAYERS = {"lenet": 5, "vgg11-bn": 11, "resnet18": 21}

SHARE = 16
Factory = Callable[[int, int], nn.Module]


def narrow(width: int) -> int:
    """Return a share of a hidden width; channels of images and classes stay."""
    return width // SHARE if width > 10 else width


def narrow_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        sizes: dict[str, Any] = {
            name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")
        }
        channels = narrow(layer.in_channels), narrow(layer.out_channels)
        return nn.Conv2d(*channels, bias=layer.bias is not None, **sizes)
    if isinstance(layer, nn.Linear):
        return nn.Linear(narrow(layer.in_features), narrow(layer.out_features))
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return type(layer)(narrow(layer.num_features))
    return layer


def narrow_network(factory: Factory) -> Factory:
    """Return a factory of the same layers, a sixteenth as wide."""

    def build(num_channels: int, num_classes: int) -> nn.Module:
        with torch.device("meta"):
            network = factory(num_channels, num_classes)
        for parent in list(network.modules()):
            for name, layer in list(parent.named_children()):
                setattr(parent, name, narrow_layer(layer))
        return network

    return build


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    factories = {"vgg11-bn": vgg11_bn, "resnet18": resnet18}
    narrowed = {name: narrow_network(real) for name, real in factories.items()}
    monkeypatch.setattr("eigenscope.zoo.models._VISION", narrowed)


def write_all(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Twenty images of ten classes in every split of every data set."""
    for name in ("MNIST", "FashionMNIST"):
        folder = root / name / "raw"
        folder.mkdir(parents=True)
        for stem in ("train", "t10k"):
            images, labels = random_bytes(20, 28, 28), LABELS.to(torch.uint8)
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    pixels = random_bytes(20, 3, 32, 32)
    listed: dict[str, list[str]] = {}
    columns = torch.where(LABELS == 0, 10, LABELS).to(torch.uint8)[:, None].numpy()
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        savemat(path, {"X": pixels.permute(2, 3, 1, 0).numpy(), "y": columns})
        listed[split] = ["", path.name, md5(path)]
    monkeypatch.setattr("torchvision.datasets.SVHN.split_list", listed)
    datasets: Any = importlib.import_module("torchvision.datasets")
    cifar = datasets.CIFAR10
    folder = root / cifar.base_folder
    folder.mkdir()
    batch = {"data": pixels.reshape(20, -1).numpy(), "labels": LABELS.tolist()}
    for attribute in ("train_list", "test_list"):
        files = [name for name, _ in getattr(cifar, attribute)]
        for name in files:
            (folder / name).write_bytes(pickle.dumps(batch))
        sums = [[name, md5(folder / name)] for name in files]
        monkeypatch.setattr(cifar, attribute, sums)
    meta = folder / cifar.meta["filename"]
    names = [f"class {number}" for number in range(10)]
    meta.write_bytes(pickle.dumps({cifar.meta["key"]: names}))
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(meta)})


@pytest.mark.usefixtures("narrow_networks")
def test_all_twelve_pairs_run_by_one_command_and_are_matched(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    write_all(monkeypatch, tmp_path)
    words = ["train", "layer-hessians", "--data-root", str(tmp_path), "--out", "all"]
    found = as_json(capsys, *words, "--set", *CHANGES)
    assert len(found["runs"]) == 12
    for path in found["runs"]:
        run = es.Run.open(Path(path))
        assert run.is_complete
        history = es.History.load(run)
        layers = [n for n in history.names if n.startswith("hessian/")]
        assert len(layers) == 1 + NUM_LAYERS[str(run.arguments["model"])]
        for layer in layers[1:]:
            block = history.spectra(layer)[1]
            assert block.exact
            assert block.values[0] >= -block.noise_floor  # a Gauss-Newton block
    matched = as_json(capsys, "match", "all", "--out", "match")
    assert len(matched["runs"]) == 12
    assert Path("match/match_distros_wasserstein.png").stat().st_size > 20_000
