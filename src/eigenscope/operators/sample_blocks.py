"""Where a data set's input Jacobians come from: an interface."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.distributed import Ranks

RAW_OUTPUTS = "raw_outputs"

SampleBlock = Float[Tensor, "sample output input"]


class SampleBlocks(ABC):
    """Jacobians (sample, output, input) of a data set, consecutive samples at a time.

    Attributes:
        num_samples: n.
        num_outputs: k.
        input_dim: d.
        sample_shape: Shape of one input.
        dtype: Type of the entries.
        device: Where blocks are.
        ranks: Who shares the work; each has the blocks of its own samples.
    """

    num_samples: int
    num_outputs: int
    input_dim: int
    sample_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    ranks: Ranks

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, k, d)."""
        return self.num_samples, self.num_outputs, self.input_dim

    @abstractmethod
    def blocks(self) -> Iterator[tuple[int, SampleBlock]]:
        """Yield (first sample, block) in order; a block's memory is used again."""

    @abstractmethod
    def fill(self, result: SampleBlock) -> None:
        """Write the Jacobians of all ranks' samples into one contiguous tensor."""

    @abstractmethod
    def raw_outputs(self) -> Tensor:
        """Return the network's raw outputs (sample, *output)."""

    def bounded(self, room: int) -> "SampleBlocks":
        """Return the same, whose chunks of samples take so many bytes at most.

        Args:
            room: The bytes; one sample is always taken.

        Returns:
            The same Jacobians; this object, if it makes no chunks or small ones.
        """
        del room
        return self

    @abstractmethod
    def with_outputs(self, start: int, stop: int) -> "SampleBlocks":
        """Return the same with the outputs start … stop - 1 only."""
