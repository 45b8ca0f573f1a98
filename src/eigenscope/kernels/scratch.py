"""Memory that is used again: touching fresh pages costs more than the arithmetic."""

from math import prod
from typing import final

import torch
from torch import Tensor


@final
class Scratch:
    """Buffers by role; each grows to the largest size that was asked of it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, role: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return uninitialized memory, which the same role gives out again later.

        Args:
            role: What it is for.
            shape: Entries along each axis.
            like: Gives dtype and device.

        Returns:
            A contiguous tensor.
        """
        size = prod(shape)
        found = self._buffers.get(role)
        if found is None or found.numel() < size or found.dtype != like.dtype:
            found = torch.empty(size, dtype=like.dtype, device=like.device)
            self._buffers[role] = found
        return found[:size].view(shape)
