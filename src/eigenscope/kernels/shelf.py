"""Gradients of ranges of samples on disk, where they do not fit in memory."""

import os
import shutil
import tempfile
from itertools import count
from typing import final

import torch
from torch import Tensor

from eigenscope.kernels.blocks import Range

_RESERVE = 0.1  # of the free space, that is left to others


@final
class Shelf:
    """Ranges in a temporary file, written once and read when they are needed.

    Use it as a context. The file is where `tempfile` puts it (`TMPDIR`), and has no
    name, so that it goes when the context or the process ends, however it ends.

    Args:
        device: Where ranges go that are read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._file = tempfile.TemporaryFile(prefix="eigenscope-")  # noqa: SIM115
        self._ranges: dict[tuple[str, int], tuple[int, Range]] = {}
        self._memory: dict[tuple[int, int], Tensor] = {}

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def put(self, name: str, number: int, own: Range) -> None:
        """Write a range.

        Args:
            name: Of the set of samples.
            number: Of the range.
            own: The range.
        """
        start = self._file.seek(0, os.SEEK_END)

        def written(tensor: Tensor) -> Tensor:
            self._file.write(tensor.cpu().contiguous().numpy().data)
            return torch.empty_like(tensor, device="meta").contiguous()

        self._ranges[name, number] = start, own.mapped(written)

    def get(self, name: str, number: int, *, slot: int) -> Range:
        """Read a range.

        Args:
            name: Of the set of samples.
            number: Of the range.
            slot: Whose memory it takes; it lives until the next range of this slot.

        Returns:
            The range.
        """
        start, own = self._ranges[name, number]
        places = count()
        self._file.seek(start)

        def read(like: Tensor) -> Tensor:
            entries = self._room((slot, next(places)), like)
            self._file.readinto(entries.numpy().data)
            return entries.view(like.shape).to(self._device)

        return own.mapped(read)

    def _room(self, key: tuple[int, int], like: Tensor) -> Tensor:
        # Of its own once a slot; what it held before is not needed any more.
        held = self._memory.get(key)
        if held is None or held.dtype != like.dtype or held.numel() < like.numel():
            held = self._memory[key] = torch.empty(like.numel(), dtype=like.dtype)
        return held[: like.numel()]


def has_room(num_bytes: int) -> bool:
    """Return whether the temporary folder's disk can take so many bytes.

    Args:
        num_bytes: The bytes.

    Returns:
        Whether nine tenths of what is free are enough.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return num_bytes <= (1 - _RESERVE) * free
