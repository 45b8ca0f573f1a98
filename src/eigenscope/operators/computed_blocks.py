"""Input Jacobians of a data set, computed by the network on every pass."""

import copy
import hashlib
from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any, cast, final

import torch
from torch import Tensor
from typing_extensions import override

from eigenscope._types import OutputSpec
from eigenscope.autodiff import writable_empty
from eigenscope.budget import resolve, rows_within
from eigenscope.jacobian import EngineSettings, InputJacobianEngine
from eigenscope.operators.sample_blocks import RAW_OUTPUTS, SampleBlock, SampleBlocks
from eigenscope.operators.stored_blocks import StoredBlocks
from eigenscope.problem import (
    Batch,
    Halving,
    ModelState,
    Problem,
    left_as_found,
    require_finite_outputs,
)
from eigenscope.progress import progress
from eigenscope.store import Run, TiledArray

_TILE_BYTES = 64 * 2**20


@final
class ComputedBlocks(SampleBlocks):
    """Jacobians that are computed by the network on every pass.

    Args:
        problem: The network, the data and the output.
        settings: The engine of an earlier run, to repeat it.

    Attributes:
        problem: The problem.
        engine: What computes.
        columns: Which of the outputs are computed.
    """

    def __init__(
        self, problem: Problem, *, settings: EngineSettings | None = None
    ) -> None:
        self.problem = problem
        self.ranks = problem.ranks
        self.engine = _engine(problem, settings)
        self.num_samples = problem.num_samples
        self.num_outputs = problem.num_outputs
        self.sample_shape = self.engine.sample_shape
        self.input_dim = prod(self.sample_shape)
        self.dtype, self.device = problem.dtype, problem.device
        self.columns = range(problem.num_outputs)
        self._state = ModelState(problem.model)
        self._halving = Halving("input Jacobian")

    @override
    def blocks(self) -> Iterator[tuple[int, SampleBlock]]:
        size = min(self.engine.settings.chunk_size, self.num_samples)
        buffer = self._empty(size, self.num_outputs, *self.sample_shape)
        for batch in self._chunks():
            part = buffer[: batch.size]
            self._fill(batch, part)
            yield batch.start, part.view(*part.shape[:2], -1)

    @override
    def fill(self, result: SampleBlock) -> None:
        shaped = result.view(self.num_samples, self.num_outputs, *self.sample_shape)
        if self.ranks.size > 1:
            result.zero_()
        with self.ranks.sum_over_ranks(result):
            for batch in self._chunks():
                self._fill(batch, shaped[batch.start : batch.start + batch.size])

    @override
    def raw_outputs(self) -> Tensor:
        result = self._empty(self.num_samples, *self.problem.raw_shape).zero_()
        with torch.no_grad(), self.ranks.sum_over_ranks(result):
            for batch in self._chunks():
                rows = slice(batch.start, batch.start + batch.size)
                with left_as_found(self.problem.model):
                    raw = self.problem.raw(batch.inputs)
                require_finite_outputs(raw, batch.start)
                result[rows] = raw
        return result

    @override
    def with_outputs(self, start: int, stop: int) -> "ComputedBlocks":
        part = copy.copy(self)
        part.columns = self.columns[start:stop]
        part.num_outputs = len(part.columns)
        return part

    @override
    def bounded(self, room: int) -> "ComputedBlocks":
        def chosen() -> dict[str, Any]:
            return self.engine.within(room).to_json()

        return self.repeated(EngineSettings(**self.ranks.from_first(chosen)))

    def repeated(self, settings: EngineSettings) -> "ComputedBlocks":
        """Return the same, computed with the settings of an earlier run.

        Args:
            settings: Of the engine.

        Returns:
            The same Jacobians; this object, if these are its settings.
        """
        if settings == self.engine.settings:
            return self
        other = ComputedBlocks(self.problem, settings=settings)
        other.columns, other.num_outputs = self.columns, self.num_outputs
        return other

    def write(
        self, run: Run, name: str, *, memory: str | int | None = None
    ) -> StoredBlocks:
        """Write Jacobians and raw outputs into a run; tiles that are there stay.

        Named outputs are stored as logits, from which the others follow. The engine is
        recorded in the run's settings; a resumed run takes it from there.

        Args:
            run: A run that is open for writing.
            name: The array's name.
            memory: Budget, of which a tile takes at most a quarter, and a chunk that
                goes through the network at most half.

        Returns:
            The stored Jacobians.
        """
        key = f"{name}_engine"
        recorded = cast("dict[str, Any] | None", run.settings.get(key))
        made = self
        if recorded is not None:
            made = self.repeated(EngineSettings(**recorded))
        elif memory is not None:
            made = self.bounded(resolve(memory) // 2)
        if made is not self:
            return made.write(run, name, memory=memory)
        run.record_settings({key: self.engine.settings.to_json()})
        output = self._stored_output()
        array, raw_array = self._arrays(run, name, memory)
        either = [
            *run.ranks.from_first(array.missing),
            *run.ranks.from_first(raw_array.missing),
        ]
        missing = sorted({index[0] for index in either})
        run.require_space(len(missing) * (array.tile_bytes + raw_array.tile_bytes))
        steps = self._write_tiles(
            array, raw_array, output, self.ranks.deal(missing), total=array.grid[0]
        )
        self.ranks.in_step(steps, rounds=-(-len(missing) // self.ranks.size))
        return StoredBlocks(array, raw_array, output=self.problem.output)

    def _arrays(
        self, run: Run, name: str, memory: str | int | None
    ) -> tuple[TiledArray, TiledArray]:
        """Make the arrays of Jacobians and raw outputs, or open them again."""
        output = self._stored_output()
        shape = (self.num_samples, self._stored_outputs(), self.input_dim)
        cut = run.ranks.from_first(lambda: run.tile_shape(name))
        tile = cut[0] if cut else self.tile_samples(resolve(memory))
        dtype = str(self.dtype).removeprefix("torch.")
        raw_shape = self.problem.raw_shape
        array = run.array(
            name,
            shape=shape,
            dtype=dtype,
            tile_shape=(tile, *shape[1:]),
            attributes={
                "output": self._callable_name() if callable(output) else output,
                "sample_shape": list(self.sample_shape),
                **self.problem.fingerprint(),
            },
        )
        raw_array = run.array(
            f"{name}_{RAW_OUTPUTS}",
            shape=(self.num_samples, *raw_shape),
            dtype=dtype,
            tile_shape=(tile, *raw_shape),
        )
        return array, raw_array

    def _stored_output(self) -> OutputSpec:
        """Return the output that is written: logits for all named ones."""
        return self.problem.output if callable(self.problem.output) else "logits"

    def _stored_outputs(self) -> int:
        return self.problem.with_output(self._stored_output()).num_outputs

    def _callable_name(self) -> str:
        """Return a name that tells a callable from others by its first Jacobian."""
        batch = self.problem.batches.first(1)
        block = self._empty(1, self.num_outputs, *self.sample_shape)
        self.engine.fill(batch, [self.problem.output], [block])
        digest = hashlib.blake2b(block.cpu().numpy().tobytes(), digest_size=8)
        return f"callable {digest.hexdigest()}"

    def tile_samples(self, budget: int) -> int:
        """Return the samples of a tile, whole chunks of them where these fit.

        Args:
            budget: Bytes of memory to use.

        Returns:
            Samples, maybe more than there are.
        """
        chunk = self.engine.settings.chunk_size
        num_outputs = self._stored_outputs()
        sample_bytes = num_outputs * self.input_dim * self.dtype.itemsize
        # A Gram matrix is made of three tiles in memory.
        fitting = rows_within(budget, 4 * sample_bytes)
        samples = min(fitting, max(chunk, _TILE_BYTES // sample_bytes))
        return samples // chunk * chunk or samples

    def _write_tiles(
        self,
        array: TiledArray,
        raw_array: TiledArray,
        output: OutputSpec,
        mine: list[int],
        *,
        total: int,
    ) -> Iterator[None]:
        """Write some tiles, one whenever the iterator is advanced."""
        if not mine:
            return
        self._require_same_model()
        tile = array.tile_shape[0]
        buffer = self._empty(tile, array.shape[1], *self.sample_shape)
        raws = self._empty(tile, *self.problem.raw_shape)
        last = min((mine[-1] + 1) * tile, self.num_samples)
        own = self.problem.batches.within(range(mine[0] * tile, last))
        batches = (b for b in own.chunks(tile) if b.start // tile in set(mine))
        done = total - len(mine) * self.ranks.size
        for batch in progress(batches, label="Jacobian", total=total, done=done):
            work = partial(self._fill_rows, batch.start, output, buffer, raws)
            for part in batch.parts(self.engine.settings.chunk_size):
                self._halving.run(work, part)
            number = batch.start // tile
            raw_index = (number, *[0] * (len(raw_array.shape) - 1))
            raw_array.write(raw_index, raws[: batch.size].cpu().numpy())
            block = buffer[: batch.size].view(batch.size, *array.shape[1:])
            array.write((number, 0, 0), block.cpu().numpy())
            yield

    def _fill_rows(
        self, start: int, output: OutputSpec, buffer: Tensor, raws: Tensor, own: Batch
    ) -> None:
        rows = slice(own.start - start, own.start - start + own.size)
        raws[rows] = self.engine.fill(own, [output], [buffer[rows]])

    def _fill(self, batch: Batch, part: Tensor) -> None:
        output = self.problem.output

        def work(own: Batch) -> None:
            first = own.start - batch.start
            rows = part[first : first + own.size]
            if len(self.columns) == self.problem.num_outputs:
                self.engine.fill(own, [output], [rows])
            else:
                self.engine.fill_part(own, output, self.columns, rows)

        self._halving.run(work, batch)

    def _chunks(self) -> Iterator[Batch]:
        """Return the chunks of one pass.

        Raises:
            DataChangedError: If the model is not what it was.
        """
        self._require_same_model()
        size = self.engine.settings.chunk_size
        return progress(
            self.problem.batches.chunks(size),
            label="Jacobian",
            total=-(-len(self.problem.batches.samples) // size),
        )

    def _require_same_model(self) -> None:
        self._state.require_same("InputJacobian")
        self.engine.require_current_copy()

    def _empty(self, *shape: int) -> Tensor:
        return writable_empty(shape, dtype=self.dtype, device=self.device)


def _engine(problem: Problem, settings: EngineSettings | None) -> InputJacobianEngine:
    """Return an engine, the same on all ranks: that of rank 0, which may measure."""
    if problem.ranks.size == 1 or settings is not None:
        return InputJacobianEngine(problem, settings=settings)
    made: list[InputJacobianEngine] = []

    def choose() -> dict[str, Any]:
        made.append(InputJacobianEngine(problem))
        return made[0].settings.to_json()

    chosen = problem.ranks.from_first(choose)
    with problem.ranks.together():
        if not made:
            made.append(InputJacobianEngine(problem, settings=EngineSettings(**chosen)))
    return made[0]
