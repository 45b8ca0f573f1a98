"""Gradients of ranges of samples on disk, where they do not fit in memory."""

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from eigenscope.kernels.blocks import Range

_RESERVE = 0.1  # of the free space, that is left to others


@final
class Shelf:
    """Ranges in a temporary folder, written once and read when they are needed.

    Use it as a context; the folder, which is where `tempfile` puts it (`TMPDIR`), goes
    when the context ends.

    Args:
        device: Where ranges go that are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._folder = tempfile.TemporaryDirectory(prefix="eigenscope-")
        self._ranges: dict[tuple[str, int], Range] = {}
        self._memory: dict[tuple[int, int], Tensor] = {}

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def put(self, name: str, number: int, own: Range) -> None:
        """Write a range.

        Args:
            name: Of the set of samples.
            number: Of the range.
            own: The range.
        """
        paths = self._paths(name, number)

        def written(tensor: Tensor) -> Tensor:
            tensor.cpu().contiguous().numpy().tofile(next(paths))
            return torch.empty_like(tensor, device="meta").contiguous()

        self._ranges[name, number] = own.mapped(written)

    def get(self, name: str, number: int, *, slot: int) -> Range:
        """Read a range.

        Args:
            name: Of the set of samples.
            number: Of the range.
            slot: Whose memory it takes; it lives until the next range of this slot.

        Returns:
            The range.
        """
        paths = enumerate(self._paths(name, number))

        def read(like: Tensor) -> Tensor:
            place, path = next(paths)
            entries = self._room((slot, place), like)
            with path.open("rb") as file:
                file.readinto(entries.numpy().data)
            return entries.view(like.shape).to(self._device)

        return self._ranges[name, number].mapped(read)

    def _room(self, key: tuple[int, int], like: Tensor) -> Tensor:
        # Of its own once a slot; what it held before is not needed any more.
        held = self._memory.get(key)
        if held is None or held.dtype != like.dtype or held.numel() < like.numel():
            held = self._memory[key] = torch.empty(like.numel(), dtype=like.dtype)
        return held[: like.numel()]

    def _paths(self, name: str, number: int) -> Iterator[Path]:
        folder = Path(self._folder.name)
        return (folder / f"{name}-{number}-{place}" for place in count())


def has_room(num_bytes: int) -> bool:
    """Return whether the temporary folder's disk can take so many bytes.

    Args:
        num_bytes: The bytes.

    Returns:
        Whether nine tenths of what is free are enough.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return num_bytes <= (1 - _RESERVE) * free
