"""Products of curvature matrices: chunks of samples, recorded once where they fit."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.autodiff import (
    SavedBytes,
    recordable,
    recordable_batch,
    writable_empty,
)
from eigenscope.budget import resolve
from eigenscope.jacobian.pieces import pieces
from eigenscope.losses import Risk
from eigenscope.operators.curvature_engines import (
    Engine,
    EngineChoice,
    Proof,
    Way,
    recording_of,
)
from eigenscope.operators.curvature_graphs import RecordedChunk, Recorder
from eigenscope.precision import is_finite
from eigenscope.problem import Batch, Halving, ParameterLayout
from eigenscope.progress import progress

LARGEST_CHUNK: Final = 1024
_LARGEST_BYTES: Final = 10 * 2**20  # of one tensor; larger ones leave the caches
_BATCHED_BYTES: Final = 2 * 2**20
_PASSING: Final = 4  # recordings that one more recording and a pass through it take


@final
@dataclass(slots=True, kw_only=True)
class Recordings:
    """What is kept of the chunks of one problem, by all operators that share it.

    Attributes:
        kept: Recordings of the first chunks, for all parameters.
        bytes: What they take.
        num_chunks: Chunks of the data set; 0 before the first pass.
        budget: What they may take with a pass through them; None before the first.
        largest: What the largest one recorded for all parameters took.
        is_batchable: Whether several vectors may go through a graph in one pass.
        way: How chunks are recorded, proven on the first samples; None before the
            first pass.
        halving: Makes chunks smaller where the device runs out of memory.
        most_kept: What the device was found to hold of recordings; None if it has
            never run out of memory.
    """

    kept: list[RecordedChunk]
    bytes: int
    num_chunks: int
    budget: int | None
    largest: int = 0
    is_batchable: bool = True
    way: Way | None = None
    halving: Halving = field(default_factory=lambda: Halving("curvature products"))
    most_kept: int | None = None

    def release(self) -> None:
        """Let go of all recordings, of which from now on half as many are kept."""
        if self.bytes:
            self.most_kept = self.bytes // 2
        self.kept.clear()
        self.bytes = self.num_chunks = self.largest = 0

    def has_room(self, taken: int) -> bool:
        """Return whether another recording and a pass through it fit."""
        needed = self.bytes + taken
        if self.most_kept is not None and needed > self.most_kept:
            return False
        return needed + _PASSING * self.largest <= (self.budget or 0)


@final
class CurvatureProducts:
    """Σ over chunks of samples of the products that a recorder's graphs give.

    The first product records each chunk: a forward pass and a backward pass with its
    graph. Recordings are kept while they fit the memory budget, so that further
    products, also of single layers' blocks, are passes through them; what does not fit
    is recorded again for each block of vectors.

    Args:
        risk: The risk, with its problem.
        recorders: From a chunk and leaves to its recording, for every engine.
        memory: Budget for what is kept and one pass through it; half of what is
            available if None.
        engine: The engine, or "auto".
        names: Parameters of a diagonal block; all if None.
        recordings: What others of the same risk keep.

    Attributes:
        recordings: What is kept.
        memory: The budget, as it was given.
    """

    def __init__(
        self,
        risk: Risk,
        recorders: Mapping[Engine, Recorder],
        *,
        memory: str | int | None,
        engine: EngineChoice = "auto",
        names: Sequence[str] | None = None,
        recordings: Recordings | None = None,
    ) -> None:
        self._risk = risk
        self._problem = risk.problem
        self._recorders = recorders
        self._engine: EngineChoice = engine
        self.memory = memory
        self._names = list(risk.problem.params if names is None else names)
        params = risk.problem.params
        self._layout = ParameterLayout({name: params[name] for name in self._names})
        self.recordings = recordings or Recordings(
            kept=[], bytes=0, num_chunks=0, budget=None
        )

    def restricted(self, names: Sequence[str]) -> "CurvatureProducts":
        """Return the products of the diagonal block of some parameters.

        Args:
            names: The parameters, in order.

        Returns:
            Products that share the recordings.
        """
        return CurvatureProducts(
            self._risk,
            self._recorders,
            memory=self.memory,
            engine=self._engine,
            names=names,
            recordings=self.recordings,
        )

    def with_batch_size(self, batch_size: int) -> "CurvatureProducts":
        """Return the same products from chunks of another size, recorded anew.

        Args:
            batch_size: Samples of a chunk.

        Returns:
            Products that share nothing but the risk.
        """
        return CurvatureProducts(
            self._risk.with_batch_size(batch_size),
            self._recorders,
            memory=self.memory,
            engine=self._engine,
            names=self._names,
        )

    def multiply(
        self, block: Float[Tensor, "param vector"]
    ) -> Float[Tensor, "param vector"]:
        """Return the products of all columns.

        Args:
            block: Vectors as columns.

        Returns:
            Their products as columns.
        """
        rows = recordable(block.T.contiguous())
        result = writable_empty(
            rows.shape, dtype=rows.dtype, device=rows.device
        ).zero_()
        with self._problem.ranks.sum_over_ranks(result, same=rows):
            self._risk.require_same_model()
            way = self.way()
            self.recordings.halving.repeat(
                partial(self._add_all, way, rows, result), lambda: self._chunk_size(way)
            )
            if not is_finite(result):
                with self._recording(way):
                    self._refuse(way, rows)
        return result.T

    def _add_all(self, way: Way, rows: Tensor, result: Tensor) -> None:
        """Add the products of this rank's chunks, to zero."""
        result.zero_()
        try:
            with self._recording(way):
                for chunk in self._chunks(way):
                    size = self._vectors_together()
                    for first in range(0, len(rows), size):
                        some = slice(first, first + size)
                        self._add_products(chunk, rows[some], result[some])
        except torch.OutOfMemoryError:
            self.recordings.release()
            raise

    def _refuse(self, way: Way, rows: Tensor) -> None:
        """Raise for products that are not finite; name the first samples behind them.

        Raises:
            ValueError: If a chunk's product with finite vectors is not finite.
        """
        if not is_finite(rows):
            raise ValueError(
                "vectors must be finite; a column holds NaN or infinity. Look at where "
                "it was computed."
            )
        for batch in pieces(self._problem.batches, self._chunk_size(way)):
            found = torch.zeros_like(rows)
            self._add_products(self._recorded(way, batch, self._names), rows, found)
            if not is_finite(found):
                raise ValueError(
                    "products with a curvature matrix must be finite; samples "
                    f"{batch.start} to {batch.start + batch.size - 1} give NaN or "
                    f"infinity in {rows.dtype}. Look for functions without a second "
                    "derivative there, such as a root at 0, or use a wider dtype."
                )

    def way(self) -> Way:
        """Return how chunks are recorded; the first call proves it.

        Raises:
            ValueError: If an engine was asked for that is not right for the model.
        """
        own = self.recordings
        if own.way is None:
            names = list(self._problem.params)
            own.way = Proof(self._risk, self._recorders, names).choose(self._engine)
            own.budget = resolve(self.memory)
        return own.way

    def remarks(self) -> dict[str, JsonValue]:
        """Return what results should say of how products were computed."""
        way = self.recordings.way
        if way is None:
            return {}
        return {"engine": way.engine, "shortcuts": list(way.shortcuts.names)}

    def _add_products(self, chunk: RecordedChunk, rows: Tensor, result: Tensor) -> None:
        """Add a chunk's products with the rows: in one batched pass, or one by one."""
        if len(rows) > 1:
            try:
                parts = self._layout.split(rows)
                found = chunk.product(self._names, parts, together=len(rows))
            except torch.OutOfMemoryError:  # a RuntimeError, too
                raise
            except RuntimeError:  # a function without a batching rule
                self.recordings.is_batchable = False
            else:
                self._layout.add(result, found)
                return
        for row, total in zip(rows, result, strict=True):
            self._layout.add(total, chunk.product(self._names, self._layout.split(row)))

    def _vectors_together(self) -> int:
        """Return how many vectors go through a graph in one pass.

        Batched passes save the overhead of many small operations and are slower where
        the work is large.
        """
        own = self.recordings
        if not own.is_batchable or not own.largest:
            return 1
        return max(1, _BATCHED_BYTES // own.largest)

    def _chunks(self, way: Way) -> Iterator[RecordedChunk]:
        """Yield every chunk's recording."""
        own = self.recordings
        if own.num_chunks and len(own.kept) == own.num_chunks:
            yield from own.kept
            return
        size = self._chunk_size(way)
        total = -(-len(self._problem.batches.samples) // size)
        count = 0
        for batch in progress(
            pieces(self._problem.batches, size), label="products", total=total
        ):
            if count < len(own.kept):
                yield own.kept[count]
            elif own.num_chunks or len(own.kept) < count:
                yield self._recorded(way, batch, self._names)
            else:
                yield self._first(way, batch)
            count += 1
        own.num_chunks = count

    def _first(self, way: Way, batch: Batch) -> RecordedChunk:
        """Record a chunk for all parameters and keep it if it fits."""
        params = list(self._problem.params.values())
        saved = SavedBytes(params)
        # What `torch.func` computes saves nothing beyond its own calls.
        with saved.counting() if way.engine == "reverse" else nullcontext():
            chunk = self._recorded(way, batch.owned(), list(self._problem.params))
        own = self.recordings
        taken = saved.total
        own.largest = max(own.largest, taken)
        if own.has_room(taken):
            own.kept.append(chunk)
            own.bytes += taken
        return chunk

    def _recorded(self, way: Way, batch: Batch, names: Sequence[str]) -> RecordedChunk:
        leaves: Mapping[str, Tensor] = {n: self._problem.params[n] for n in names}
        return self._recorders[way.engine](recordable_batch(batch), leaves)

    def _chunk_size(self, way: Way) -> int:
        """Return how many samples are recorded together, as even as possible.

        Large chunks save overhead; tensors that are too large leave the caches, and
        recordings must leave room for a pass through them.
        """
        most = self._problem.batches.batch_size
        if most is None:
            most = min(LARGEST_CHUNK, _LARGEST_BYTES // max(1, way.largest_bytes))
        room = (self.recordings.budget or 0) // (1 + _PASSING)
        most = max(1, min(most, room // max(1, way.sample_bytes)))
        num_samples = max(1, len(self._problem.batches.samples))
        most = self.recordings.halving.within(min(most, num_samples))
        if self._problem.batches.batch_size is not None:
            return most
        return -(-num_samples // -(-num_samples // most))

    @contextmanager
    def _recording(self, way: Way) -> Generator[None]:
        """Record what the parameters need; leave the model as it was found."""
        own = self.recordings
        # Where nothing is kept, the graph starts at the first of our own parameters.
        names = self._names if own.num_chunks and not own.kept else self._problem.params
        with recording_of(self._risk, list(names), way.engine, way.shortcuts):
            yield
