"""Input Jacobians of a data set, read from a run."""

import copy
from collections.abc import Iterator
from typing import cast, final

import torch
from torch import Tensor
from typing_extensions import override

from eigenscope._types import JsonValue, OutputName, OutputSpec
from eigenscope.distributed import ALONE, Ranks
from eigenscope.jacobian import transform_rows
from eigenscope.operators.sample_blocks import SampleBlock, SampleBlocks
from eigenscope.problem import require_classes
from eigenscope.store import TiledArray


@final
class StoredBlocks(SampleBlocks):
    """Jacobians that are read from a run.

    Args:
        array: The logits' Jacobians (sample, output, input), or a callable's.
        raw_array: The raw outputs.
        output: The output wanted; None or a callable takes what is stored.

    Attributes:
        columns: Which of the stored outputs are read.
        tiles: Which of the tiles' samples `blocks` reads.

    Raises:
        ValueError: If a callable's Jacobians are stored and a named output is wanted,
            or a softmax of a single output.
    """

    def __init__(
        self, array: TiledArray, raw_array: TiledArray, *, output: OutputSpec | None
    ) -> None:
        stored = str(array.attributes["output"])
        if isinstance(output, str) and stored.startswith("callable"):
            raise ValueError(
                f"the array {array.name!r} must hold the Jacobians of logits for "
                f"output={output!r}; it holds those of a callable. Leave the output "
                "out, or write the Jacobian of a named output."
            )
        if not callable(output) and output not in {None, "logits"}:
            require_classes(
                torch.empty(1, *raw_array.shape[1:]), cast("OutputName", output)
            )
        self.array = array
        self.raw_array = raw_array
        as_stored = output is None or callable(output) or output == "logits"
        named = cast("OutputName", output)
        self._transform: OutputName | None = None if as_stored else named
        self.num_samples, self.num_outputs, self.input_dim = array.shape
        self.dtype = torch.from_numpy(array[:0]).dtype
        self.device = torch.device("cpu")
        self.ranks = ALONE
        self.tiles = range(array.grid[0])
        self.sample_shape = tuple(cast("list[int]", array.attributes["sample_shape"]))
        self.columns = range(self.num_outputs)

    def identity(self) -> dict[str, JsonValue]:
        """Return what tells these Jacobians from all others: output, model and data."""
        known = ("output", "data", "weights")
        stored = {key: self.array.attributes.get(key) for key in known}
        if self._transform is not None:
            stored["output"] = self._transform
        return {"jacobian": self.array.name, **stored}

    @override
    def blocks(self) -> Iterator[tuple[int, SampleBlock]]:
        tile = self.array.tile_shape[0]
        buffer = torch.empty(tile, self.num_outputs, self.input_dim, dtype=self.dtype)
        for start in range(self.tiles.start * tile, self.num_samples, tile):
            if start >= self.tiles.stop * tile:
                return
            stop = min(start + tile, self.num_samples)
            part = buffer[: stop - start]
            self.read(start, stop, part)
            yield start, part

    @override
    def fill(self, result: SampleBlock) -> None:
        self.read(0, self.num_samples, result)

    @override
    def raw_outputs(self) -> Tensor:
        return torch.from_numpy(self.raw_array[()])

    @override
    def with_outputs(self, start: int, stop: int) -> "StoredBlocks":
        part = copy.copy(self)
        part.columns = self.columns[start:stop]
        part.num_outputs = len(part.columns)
        return part

    def share_of(self, ranks: Ranks) -> "StoredBlocks":
        """Return the same, of which `blocks` reads this rank's share of the tiles."""
        part = copy.copy(self)
        part.tiles = ranks.share(self.array.grid[0])
        return part

    def read(self, start: int, stop: int, result: SampleBlock) -> None:
        """Read the samples start … stop - 1 into a tensor, in the output wanted."""
        whole = len(self.columns) == self.array.shape[1]
        if whole and self._transform is None:
            self.array.read_into(result.numpy(), (slice(start, stop),))
            return
        columns = slice(self.columns.start, self.columns.stop)
        tile = self.array.tile_shape[0]
        for first in range(start, stop, tile):
            last = min(first + tile, stop)
            rows = torch.from_numpy(self.array[first:last])
            target = result[first - start : last - start]
            if self._transform is None:
                target.copy_(rows[:, columns])
                continue
            raw = torch.from_numpy(self.raw_array[first:last])
            full = target if whole else torch.empty_like(rows)
            transform_rows(rows, raw, self._transform, full)
            if not whole:
                target.copy_(full[:, columns])
