"""Products of curvature matrices: chunks of samples, recorded once where they fit."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.autodiff import (
    SavedBytes,
    exactly_requiring_grad,
    quick_convolutions,
    recordable,
    recordable_batch,
    recording,
    twice_differentiable,
)
from eigenscope.budget import resolve
from eigenscope.jacobian.pieces import pieces
from eigenscope.losses import Risk
from eigenscope.operators.curvature_graphs import RecordedChunk, Recorder
from eigenscope.problem import Batch, ParameterLayout, left_as_found
from eigenscope.progress import progress

_MAX_CHUNK: Final = 128
_PROOF_SAMPLES: Final = 2
_OUTPUT_BYTES: Final = 16 * 2**20
_BATCHED_BYTES: Final = 2 * 2**20


@final
@dataclass(slots=True, kw_only=True)
class Recordings:
    """What is kept of the chunks of one problem, by all operators that share it.

    Attributes:
        kept: Recordings of the first chunks, for all parameters.
        bytes: What they take.
        num_chunks: Chunks of the data set; 0 before the first pass.
        budget: What they may take; None before the first pass.
        largest: What the largest one recorded for all parameters took.
        is_batchable: Whether several vectors may go through a graph in one pass.
        quick: Whether convolutions are recorded so that their second derivatives are
            quick, which is proven on the first samples; None before the first pass.
    """

    kept: list[RecordedChunk]
    bytes: int
    num_chunks: int
    budget: int | None
    largest: int = 0
    is_batchable: bool = True
    quick: bool | None = None


@final
class CurvatureProducts:
    """Σ over chunks of samples of the products that a recorder's graphs give.

    The first product records each chunk: a forward pass and a backward pass with its
    graph. Recordings are kept while they fit the memory budget, so that further
    products, also of single layers' blocks, are passes through them; what does not fit
    is recorded again for each block of vectors.

    Args:
        risk: The risk, with its problem.
        record: From a chunk and leaves to its recording.
        memory: Budget for what is kept; half of what is available if None.
        names: Parameters of a diagonal block; all if None.
        recordings: What others of the same risk keep.

    Attributes:
        recordings: What is kept.
    """

    def __init__(
        self,
        risk: Risk,
        record: Recorder,
        *,
        memory: str | int | None,
        names: Sequence[str] | None = None,
        recordings: Recordings | None = None,
    ) -> None:
        self._risk = risk
        self._problem = risk.problem
        self._record = record
        self._memory = memory
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
            self._record,
            memory=self._memory,
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
            self._record,
            memory=self._memory,
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
        result = torch.zeros_like(rows)
        with self._problem.ranks.sum_over_ranks(result, same=rows):
            self._risk.require_same_model()
            if self.recordings.quick is None:
                self.recordings.quick = self._are_quick_convolutions_right()
            with self._recording():
                self._add_all(rows, result)
        return result.T

    def _add_all(self, rows: Tensor, result: Tensor) -> None:
        """Add the products of this rank's chunks."""
        for chunk in self._chunks():
            size = self._vectors_together()
            for first in range(0, len(rows), size):
                some = slice(first, first + size)
                self._add_products(chunk, rows[some], result[some])

    def _are_quick_convolutions_right(self) -> bool:
        """Compare products for the first samples with and without them."""
        batch = self._problem.batches.first(_PROOF_SAMPLES)
        source = torch.Generator().manual_seed(13)
        drawn = torch.randn(self._layout.size, generator=source)
        found: list[Tensor] = []
        for quick in (False, True):
            with self._recording(), quick_convolutions(wanted=quick) as mode:
                vector = self._layout.split(drawn.to(self._leaves()[0]))
                chunk = self._recorded(batch, self._names)
                product = chunk.product(self._names, vector)
                found.append(torch.cat([part.flatten() for part in product]))
            if quick and not mode.count:
                return False
        gap = torch.linalg.vector_norm(found[1] - found[0])
        tolerance = torch.finfo(gap.dtype).eps ** 0.5
        return bool(gap <= tolerance * torch.linalg.vector_norm(found[0]))

    def _leaves(self) -> list[Tensor]:
        return [self._problem.params[name] for name in self._names]

    def _add_products(self, chunk: RecordedChunk, rows: Tensor, result: Tensor) -> None:
        """Add a chunk's products with the rows: in one batched pass, or one by one."""
        if len(rows) > 1:
            try:
                parts = self._layout.split(rows)
                found = chunk.product(self._names, parts, together=len(rows))
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

    def _chunks(self) -> Iterator[RecordedChunk]:
        """Yield every chunk's recording."""
        own = self.recordings
        if own.num_chunks and len(own.kept) == own.num_chunks:
            yield from own.kept
            return
        size = self._chunk_size()
        total = -(-len(self._problem.batches.samples) // size)
        count = 0
        for batch in progress(
            pieces(self._problem.batches, size), label="products", total=total
        ):
            if count < len(own.kept):
                yield own.kept[count]
            elif own.num_chunks or len(own.kept) < count:
                yield self._recorded(batch, self._names)
            else:
                yield self._first(batch)
            count += 1
        own.num_chunks = count

    def _first(self, batch: Batch) -> RecordedChunk:
        """Record a chunk for all parameters and keep it if it fits."""
        params = list(self._problem.params.values())
        saved = SavedBytes(params)
        with saved.counting():
            chunk = self._recorded(batch.owned(), list(self._problem.params))
        own = self.recordings
        if own.budget is None:
            own.budget = resolve(self._memory)
        if own.bytes + saved.total <= own.budget:
            own.kept.append(chunk)
            own.bytes += saved.total
        own.largest = max(own.largest, saved.total)
        return chunk

    def _recorded(self, batch: Batch, names: Sequence[str]) -> RecordedChunk:
        leaves: Mapping[str, Tensor] = {n: self._problem.params[n] for n in names}
        return self._record(recordable_batch(batch), leaves)

    def _chunk_size(self) -> int:
        if self._problem.batches.batch_size is not None:
            return self._problem.batches.batch_size
        sample_bytes = prod(self._problem.raw_shape) * self._problem.dtype.itemsize
        most = min(_MAX_CHUNK, self._risk.largest_batch)
        return max(1, min(most, _OUTPUT_BYTES // max(1, sample_bytes)))

    @contextmanager
    def _recording(self) -> Generator[None]:
        """Record what the parameters need; leave the model as it was found."""
        own, model = self.recordings, self._problem.model
        # Where nothing is kept, the graph starts at the first of our own parameters.
        names = self._names if own.num_chunks and not own.kept else self._problem.params
        leaves = [self._problem.params[name] for name in names]
        chosen = {id(leaf) for leaf in leaves}
        others = [p for p in model.parameters() if id(p) not in chosen]
        with ExitStack() as stack:
            stack.enter_context(left_as_found(model))
            stack.enter_context(exactly_requiring_grad(leaves, others))
            stack.enter_context(recording())
            stack.enter_context(twice_differentiable(model))
            stack.enter_context(quick_convolutions(wanted=bool(own.quick)))
            yield
