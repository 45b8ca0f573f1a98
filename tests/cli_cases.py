"""What the tests of the command line share: own factories, and ways to call it."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import pytest

from eigenscope.cli import main
from eigenscope.store import Run

# A module in the current directory, as users have one. 24 samples of 6 entries in 3
# classes; the last batch is ragged.
MODULE = "nets_of_mine"
SOURCE = """
import os, time
import torch
from torch import nn
from torch.utils.data import TensorDataset

def net(sample_shape=(6,), num_classes=3):
    width = sample_shape[0] if sample_shape else 6
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, num_classes or 3))

def tall():
    return nn.Sequential(nn.Linear(6, 3), nn.Unflatten(1, (3, 1)))

def narrow():
    return nn.Linear(6, 2)

class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        return 0 * self.net(x)

def gap():
    return lambda z, y: (z.gather(1, y[:, None]) ** 2).mean()

def pairs(num_samples=24, width=6):
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_samples, width, generator=source)
    return inputs, torch.arange(num_samples) % 3

class Overflowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(6) for _ in range(14)])
        self.last = nn.Linear(6, 3)
    def forward(self, x):
        for norm in self.norms:
            x = norm(x * 1000)
        return self.last(x)

def inputs(split):
    return pairs()[0] + {"train": 0.0, "test": 1.0}[split]

def wide_pairs(num_samples=48):
    return pairs(num_samples, 400)

def dataset():
    found = TensorDataset(*pairs())
    found.classes = ["red", "green", "blue"]
    return found

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x, scale):
        return self.net(x * scale)

def mappings():
    x, y = pairs()
    return [
        {"x": part, "scale": torch.full((len(part), 1), 2), "labels": label}
        for part, label in zip(x.split(10), y.split(10))
    ]

def images():
    return torch.zeros(4, 3, 32, 32), torch.arange(4) + 6

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net((400,))
    def forward(self, x):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return self.net(x)

def broken():
    return 1 / 0
"""


@final
class Without:
    """An import finder that knows that a package is not there."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def enter_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with the user's module the current directory."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return tmp_path


def mine() -> Any:
    """The user's module itself."""
    return importlib.import_module(MODULE)


def factory(name: str) -> str:
    return f"{MODULE}:{name}"


OWN = ["jacobian", "--model", factory("net"), "--data", factory("pairs")]

# 48 samples of 400 entries: the budget gives 4 tiles of the Jacobian and 10 of each
# Gram matrix.
TILED = [
    *("jacobian", "--model", factory("Slow"), "--data", factory("wide_pairs")),
    *("--layout", "samples", "outputs", "--output", "probabilities"),
    *("--vectors", "1", "--batch-size", "4", "--memory", "280kB"),
]


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error of a verb that ends with code 1."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    printed = capsys.readouterr()
    assert caught.value.code == 1
    assert printed.out == ""
    assert printed.err.startswith("eigenscope: ")
    return printed.err


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The document that a verb prints with --json, alone on standard output."""
    capsys.readouterr()
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **changes}


def called(
    *words: str, program: Sequence[str] = ("-m", "eigenscope")
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, its output piped."""
    return subprocess.run(
        [sys.executable, *program, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment(),
    )


def files_of(path: Path) -> list[Path]:
    """Everything that a run has computed so far."""
    tiles = [file for file in path.glob("arrays.zarr/*/c/**/*") if file.is_file()]
    return [*tiles, *path.glob("results/*.npz")]


def numbers_of(path: Path) -> dict[str, bytes]:
    """Every file of arrays and results of a run, byte for byte; and its numbers."""
    found = {
        str(file.relative_to(path)): file.read_bytes()
        for folder in ("arrays.zarr", "results")
        for file in (path / folder).rglob("*")
        if file.is_file()
    }
    results = dict(Run.open(path).results)
    found["results"] = json.dumps(results, sort_keys=True).encode()
    return found
