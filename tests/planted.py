"""Symmetric operators whose eigenvalues are known, seen through products alone."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eigenscope.operators import SymmetricOperator


def planted(values: np.ndarray, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return Q Λ Qᵀ for three random reflections Q, and Q, in float64."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    turn = torch.eye(size, dtype=torch.float64)
    for _ in range(3):
        axis = torch.randn(size, generator=generator, dtype=torch.float64)
        axis /= axis.norm()
        turn -= 2 * torch.outer(axis, axis @ turn)
    return (turn * torch.from_numpy(values)) @ turn.T, turn


class Blind(SymmetricOperator):
    """An operator that gives products and nothing else, and counts them."""

    def __init__(
        self, matrix: Tensor, product: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.matrix, self.count, self.calls = matrix, 0, 0
        self.product = product or (lambda block: matrix @ block)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.matrix), len(self.matrix)

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def multiply(self, block: Tensor) -> Tensor:
        self.count += block.shape[1]
        self.calls += 1
        return self.product(block)

    def dense(self) -> Tensor:
        raise AssertionError("products only")

    def diagonal(self) -> Tensor:
        raise AssertionError("products only")


class InterruptAt:
    """A product that presses Ctrl-C at one call, once."""

    def __init__(self, matrix: Tensor, call: int) -> None:
        self.matrix, self.call, self.calls = matrix, call, 0

    def __call__(self, block: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.matrix @ block


def outliers_and_bulk(size: int, seed: int = 0) -> np.ndarray:
    """A few large eigenvalues of both signs over a dense bulk around zero."""
    bulk = np.random.default_rng(seed).normal(0.0, 0.05, size - 10)
    return np.concatenate(
        [bulk, [20.0, 11.0, 6.0, 3.0, 2.0, 1.5, 1.0, 0.8, -0.9, -0.6]]
    )
