"""Small problems in float64, each with ragged batches and a single sample at first."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Case:
    model: Any  # an nn.Module, whose parts tests reach by attribute or index
    batches: list[Any]


class Residual(nn.Module):
    """Two convolutions with BatchNorm around a skip, pooled by the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.inner_norm(self.inner(x)))
        return self.head(x.mean((2, 3)))


class Lookup(nn.Module):
    """A mapping of one float entry and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.head(torch.tanh(x * self.table(index)))


class ByTheSample(nn.Module):
    """Iterates over the batch, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.sin(self.map(sample)) for sample in x])


class WithLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.tanh(self.map(x)), loss=None)


class Tied(nn.Module):
    """Decodes with the transposed weight that it encodes with."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 2)
        self.decoder = nn.Linear(4, 2)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.encoder(x)) + self.decoder(x)
        return functional.linear(code, self.encoder.weight.T)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def conv_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def bottleneck() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 7))


def sequence() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv1d(4, 3, 1))


SIZES = (1, 4, 2)

_PLAIN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "mlp": (mlp, (6,)),
    "conv_norm": (conv_norm, (2, 6, 6)),
    "lenet": (lenet, (1, 10, 10)),
    "residual": (Residual, (2, 5, 5)),
    "bottleneck": (bottleneck, (8,)),
    "sequence": (sequence, (2, 5)),
    "untraceable": (ByTheSample, (4,)),
    "with_logits": (WithLogits, (4,)),
    "tied": (Tied, (4,)),
}
NAMES = [*_PLAIN, "mapping"]
TRACEABLE = [n for n in NAMES if n not in {"untraceable", "with_logits"}]


def make(name: str) -> Case:
    """Return a new copy of a problem, the same every time."""
    source = torch.Generator().manual_seed(NAMES.index(name))
    if name == "mapping":
        return Case(
            randomized(Lookup(), source),
            [
                {
                    "x": torch.randn(size, 4, generator=source, dtype=torch.float64),
                    "index": torch.randint(0, 5, (size,), generator=source),
                    "labels": torch.arange(size),
                }
                for size in SIZES
            ],
        )
    build, shape = _PLAIN[name]
    model = randomized(build(), source)
    # Continuous random inputs: no ties in a maximum, no kink within a step of 1e-6.
    batches = [
        (
            torch.randn(size, *shape, generator=source, dtype=torch.float64),
            torch.arange(size),
        )
        for size in SIZES
    ]
    return Case(model, batches)


def randomized(model: nn.Module, source: torch.Generator) -> Any:
    """Give a model float64 weights and running statistics that are not trivial."""
    model = model.to(torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            rows = len(parameter) if parameter.ndim else 1
            scale = max(1, parameter.numel() // rows) ** -0.5
            parameter.normal_(std=scale, generator=source)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(generator=source)
                module.running_var.uniform_(0.3, 2.0, generator=source)
    return model
