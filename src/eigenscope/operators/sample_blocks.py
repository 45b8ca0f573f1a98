"""Where a data set's input Jacobians come from: the network, or a run's store."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import prod
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope._types import OutputName, OutputSpec
from eigenscope.jacobian import (
    EngineSettings,
    InputJacobianEngine,
    transform_rows,
)
from eigenscope.problem import Batch, Problem, transform_outputs
from eigenscope.progress import progress
from eigenscope.store import Run, TiledArray

_TILE_BYTES = 64 * 2**20
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
    """

    num_samples: int
    num_outputs: int
    input_dim: int
    sample_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, k, d)."""
        return self.num_samples, self.num_outputs, self.input_dim

    @abstractmethod
    def blocks(self) -> Iterator[tuple[int, SampleBlock]]:
        """Yield (first sample, block) in order; a block's memory is used again."""

    @abstractmethod
    def fill(self, result: SampleBlock) -> None:
        """Write the Jacobians of all samples into one tensor."""

    @abstractmethod
    def raw_outputs(self) -> Tensor:
        """Return the network's raw outputs (sample, *output)."""

    @abstractmethod
    def with_outputs(self, start: int, stop: int) -> "SampleBlocks":
        """Return the same with the outputs start … stop - 1 only."""


@final
class ComputedBlocks(SampleBlocks):
    """Jacobians that are computed by the network on every pass.

    Args:
        problem: The network, the data and the output.
        settings: The engine of an earlier run, to repeat it.
    """

    def __init__(
        self, problem: Problem, *, settings: EngineSettings | None = None
    ) -> None:
        self.problem = problem
        self.engine = InputJacobianEngine(problem, settings=settings)
        self.num_samples = problem.num_samples
        self.num_outputs = problem.num_outputs
        self.sample_shape = self.engine.sample_shape
        self.input_dim = prod(self.sample_shape)
        self.dtype, self.device = problem.dtype, problem.device

    @override
    def blocks(self) -> Iterator[tuple[int, SampleBlock]]:
        size = self.engine.settings.chunk_size
        shape = (size, self.num_outputs, *self.engine.sample_shape)
        buffer = torch.empty(shape, dtype=self.dtype, device=self.device)
        for batch in self._chunks(size):
            part = buffer[: batch.size]
            self.engine.fill(batch, [self.problem.output], [part])
            yield batch.start, part.flatten(2)

    @override
    def fill(self, result: SampleBlock) -> None:
        shaped = result.view(
            self.num_samples, self.num_outputs, *self.engine.sample_shape
        )
        for batch in self._chunks(self.engine.settings.chunk_size):
            part = shaped[batch.start : batch.start + batch.size]
            self.engine.fill(batch, [self.problem.output], [part])

    @override
    def raw_outputs(self) -> Tensor:
        with torch.no_grad():
            size = self.engine.settings.chunk_size
            chunks = self.problem.batches.chunks(size)
            return torch.cat([self.problem.raw(batch.inputs) for batch in chunks])

    @override
    def with_outputs(self, start: int, stop: int) -> "ComputedBlocks":
        output = self.problem.output

        def part(raw: Tensor) -> Tensor:
            return transform_outputs(raw, output)[:, start:stop]

        return ComputedBlocks(
            self.problem.with_output(part), settings=self.engine.settings
        )

    def write(self, run: Run, name: str) -> "StoredBlocks":
        """Write Jacobians and raw outputs into a run; tiles that are there stay.

        Named outputs are stored as logits, from which the others follow.

        Args:
            run: A run that is open for writing.
            name: The array's name.

        Returns:
            The stored Jacobians.
        """
        output = self.problem.output if callable(self.problem.output) else "logits"
        num_outputs = self.problem.with_output(output).num_outputs
        chunk = self.engine.settings.chunk_size
        dtype = str(self.dtype).removeprefix("torch.")
        row_bytes = num_outputs * self.input_dim * self.dtype.itemsize
        tile = max(1, _TILE_BYTES // (row_bytes * chunk)) * chunk
        shape = (self.num_samples, num_outputs, self.input_dim)
        raw_shape = self.problem.raw_shape
        array = run.array(
            name,
            shape=shape,
            dtype=dtype,
            tile_shape=(tile, *shape[1:]),
            attributes={
                "output": "callable" if callable(output) else output,
                "sample_shape": list(self.sample_shape),
            },
        )
        raw_array = run.array(
            f"{name}_{RAW_OUTPUTS}",
            shape=(self.num_samples, *raw_shape),
            dtype=dtype,
            tile_shape=(tile, *raw_shape),
        )
        run.require_space(
            len(array.missing()) * (array.tile_bytes + raw_array.tile_bytes)
        )
        self._write_tiles(array, raw_array, output)
        return StoredBlocks(array, raw_array, output=self.problem.output)

    def _write_tiles(
        self, array: TiledArray, raw_array: TiledArray, output: OutputSpec
    ) -> None:
        missing = {index[0] for index in array.missing()}
        tile = array.tile_shape[0]
        shape = (tile, array.shape[1], *self.engine.sample_shape)
        buffer = torch.empty(shape, dtype=self.dtype, device=self.device)
        raws = torch.empty(
            (tile, *self.problem.raw_shape), dtype=self.dtype, device=self.device
        )
        batches = progress(
            self.problem.batches.chunks(tile),
            label="Jacobian",
            total=array.grid[0],
        )
        for batch in batches:
            number = batch.start // tile
            if number not in missing:
                continue
            for part in batch.parts(self.engine.settings.chunk_size):
                first = part.start - batch.start
                rows = slice(first, first + part.size)
                raws[rows] = self.engine.fill(part, [output], [buffer[rows]])
            raw_index = (number, *[0] * (len(raw_array.shape) - 1))
            raw_array.write(raw_index, raws[: batch.size].cpu().numpy())
            block = buffer[: batch.size].flatten(2).cpu().numpy()
            array.write((number, 0, 0), block)

    def _chunks(self, size: int) -> Iterator[Batch]:
        return progress(
            self.problem.batches.chunks(size),
            label="Jacobian",
            total=-(-self.num_samples // size),
        )


@final
class StoredBlocks(SampleBlocks):
    """Jacobians that are read from a run.

    Args:
        array: The logits' Jacobians (sample, output, input), or a callable's.
        raw_array: The raw outputs.
        output: The output wanted; a callable must be the one that was stored.
    """

    def __init__(
        self, array: TiledArray, raw_array: TiledArray, *, output: OutputSpec
    ) -> None:
        self.array = array
        self.raw_array = raw_array
        self.output: OutputSpec = output
        self.num_samples, self.num_outputs, self.input_dim = array.shape
        self.dtype = torch.from_numpy(array[:0]).dtype
        self.device = torch.device("cpu")
        shape = cast("list[int]", array.attributes["sample_shape"])
        self.sample_shape = tuple(shape)
        self._outputs = slice(0, self.num_outputs)

    @override
    def blocks(self) -> Iterator[tuple[int, SampleBlock]]:
        tile = self.array.tile_shape[0]
        buffer = torch.empty(tile, self.num_outputs, self.input_dim, dtype=self.dtype)
        for start in range(0, self.num_samples, tile):
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
        part = StoredBlocks(self.array, self.raw_array, output=self.output)
        part._outputs = slice(start, stop)
        part.num_outputs = stop - start
        return part

    def with_output(self, output: OutputName) -> "StoredBlocks":
        """Return the same Jacobians for another named output."""
        return StoredBlocks(self.array, self.raw_array, output=output)

    def read(self, start: int, stop: int, result: SampleBlock) -> None:
        """Read the samples start … stop - 1 into a tensor, in the output wanted."""
        whole = self._outputs == slice(0, self.array.shape[1])
        as_stored = callable(self.output) or self.output == "logits"
        if whole and as_stored:
            self.array.read_into(result.numpy(), (slice(start, stop),))
            return
        tile = self.array.tile_shape[0]
        for first in range(start, stop, tile):
            last = min(first + tile, stop)
            rows = torch.from_numpy(self.array[first:last])
            target = result[first - start : last - start]
            if as_stored:
                target.copy_(rows[:, self._outputs])
                continue
            raw = torch.from_numpy(self.raw_array[first:last])
            full = target if whole else torch.empty_like(rows)
            transform_rows(rows, raw, self.output, full)
            if not whole:
                target.copy_(full[:, self._outputs])
