"""Chunks that turn out too large for an accelerator are halved, and work goes on."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import final

import torch

from eigenscope.problem.batch import Batch


@final
class Halving:
    """Work in chunks of samples, as large as the device has been found to take.

    Args:
        what: Names the work in what is said when a chunk is halved.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._most: int | None = None

    def within(self, size: int) -> int:
        """Return the samples of a chunk that the device is expected to take.

        Args:
            size: Samples of a chunk if it has never run out of memory.

        Returns:
            As many, or fewer.
        """
        return size if self._most is None else min(size, self._most)

    def run(self, work: Callable[[Batch], object], batch: Batch) -> None:
        """Do a batch's work, in halves if the device runs out of memory.

        Args:
            work: Does a part's work; it may be called again for some of its samples.
            batch: The batch.

        Raises:
            OutOfMemoryError: If not even one sample fits.
        """
        first = 0
        while first < batch.size:
            part = batch.part(first, first + self.within(batch.size - first))
            if self._fits(partial(work, part), part.size):
                first += part.size

    def repeat(self, work: Callable[[], object], size: Callable[[], int]) -> None:
        """Do work on all samples, from its beginning if the device runs out of memory.

        For sums over samples, which what is there of a chunk would spoil.

        Args:
            work: Does it, in chunks of `within` so many samples; it may be called
                again.
            size: Samples of a chunk that it takes next.

        Raises:
            OutOfMemoryError: If not even one sample fits.
        """
        while not self._fits(work, size()):
            pass

    def _fits(self, work: Callable[[], object], size: int) -> bool:
        """Return whether work could be done; say so and halve the chunk if not."""
        try:
            work()
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        else:
            return True
        # Outside of `except`, where the traceback would keep what is to be freed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._most = -(-size // 2)
        warnings.warn(
            f"{self._what}: the device ran out of memory with {size} samples at "
            f"once; going on with {self._most}. Give less with memory= (--memory) or "
            "batch_size= to have it so from the start.",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
