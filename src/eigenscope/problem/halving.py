"""Chunks that turn out too large for an accelerator are halved, and work goes on."""

import warnings
from collections.abc import Callable
from typing import final

import torch

from eigenscope.problem.batch import Batch


@final
class Halving:
    """Work on batches in parts, as large as the device has been found to take.

    Args:
        what: Names the work in what is said when a part is halved.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._most: int | None = None

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
            stop = min(first + (self._most or batch.size), batch.size)
            if self._fits(work, batch.part(first, stop)):
                first = stop

    def _fits(self, work: Callable[[Batch], object], part: Batch) -> bool:
        """Return whether a part's work could be done; say so and halve it if not."""
        try:
            work(part)
        except torch.OutOfMemoryError:
            if part.size == 1:
                raise
        else:
            return True
        # Outside of `except`, where the traceback would keep what is to be freed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._most = -(-part.size // 2)
        warnings.warn(
            f"{self._what}: the device ran out of memory with {part.size} samples at "
            f"once; going on with {self._most}. Give less with memory= (--memory) or "
            "batch_size= to have it so from the start.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
