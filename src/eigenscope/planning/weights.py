"""The steps of spectra of weight matrices: sizes of the weights alone decide them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import nn

from eigenscope.estimators.weights import weight_shapes
from eigenscope.planning.plan import Step

_FLOPS: Final = 4.0  # for each of rows · columns · smaller side
_NUMBER_BYTES: Final = 24
_MOST_FLOPS: Final = 2e9


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Matrices of one shape."""

    count: int
    rows: int
    columns: int

    @property
    def flops(self) -> float:
        """Those of all singular values of one matrix."""
        return _FLOPS * self.rows * self.columns * min(self.rows, self.columns)

    @property
    def smaller(self) -> "_Shape":
        """A matrix like these that is decomposed in a moment."""
        scale = min(1.0, (_MOST_FLOPS / self.flops) ** (1 / 3))
        sides = (max(1, round(side * scale)) for side in (self.rows, self.columns))
        rows, columns = sides
        return _Shape(count=1, rows=rows, columns=columns)


def step_of_weights(options: dict[str, Any]) -> Step:
    """Return the step of `es.weight_spectra`.

    A matrix of every shape, or a smaller one of the same proportions, is decomposed.

    Args:
        options: Its arguments by name, defaults included.

    Returns:
        The step.
    """
    model: nn.Module = options["model"]
    shapes = weight_shapes(model, params=options["params"], kernels=options["kernels"])
    found = [_Shape(count=c, rows=rows, columns=k) for c, rows, k in shapes.values()]
    largest = max((s.count * s.rows * s.columns for s in found), default=0)
    return Step(
        name="singular values of weights",
        method="LAPACK",
        reason=f"{sum(s.count for s in found)} matrices of {len(found)} weights",
        flops=sum(s.count * s.flops for s in found),
        host_bytes=_NUMBER_BYTES * largest,
        seconds=_seconds(found),
    )


def _seconds(shapes: Sequence[_Shape]) -> float:
    """Return the time of all, from one measurement for each shape."""
    kinds = {(s.rows, s.columns): s for s in shapes}
    measured = {kind: _measured(shape) for kind, shape in kinds.items()}
    return sum(s.count * measured[s.rows, s.columns] for s in shapes)


def _measured(shape: _Shape) -> float:
    """Return the seconds of one matrix."""
    small = shape.smaller
    count = min(16, shape.count) if small.flops == shape.flops else 1
    source = torch.Generator().manual_seed(0)
    matrices = torch.rand(
        count, small.rows, small.columns, generator=source, dtype=torch.float64
    )
    found: list[float] = []
    for _ in range(2):
        started = time.perf_counter()
        torch.linalg.svdvals(matrices)
        found.append(time.perf_counter() - started)
    return min(found) / count * shape.flops / small.flops
