"""Which gradients are kept, which are found again, and which pairs are multiplied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, final

import torch

from eigenscope._types import KernelMethod, KernelOutputs, require_choice
from eigenscope.budget import format_bytes
from eigenscope.jacobian import ParameterEngine, PerSample
from eigenscope.jacobian.mixing import at_least_two
from eigenscope.kernels.blocks import COTANGENT_BYTES, Block, Range, make_block
from eigenscope.kernels.choices import Form, KernelChoice, choose
from eigenscope.kernels.formed import Formed, Layout
from eigenscope.kernels.shelf import Shelf, has_room
from eigenscope.problem import Batch, Problem


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """What decides the rounding of a kernel: to be repeated when a run goes on.

    Attributes:
        step: Samples of a range.
        block_size: Samples that go through the network together.
        forms: "jacobian", "structured" or "products" for every parameter.
    """

    step: int
    block_size: int
    forms: Mapping[str, Literal["jacobian", "structured", "products"]]


_HALF = (torch.float16, torch.bfloat16)
_STREAMED_BYTES = 256 * 2**20
_FEWEST = 8
_SHARE_KEPT = 0.75  # of the free memory; a pass over the network takes the rest


def require_parameters(problem: Problem) -> None:
    """Raise if there is nothing to differentiate by.

    Args:
        problem: The problem.

    Raises:
        ValueError: If it has no parameters.
    """
    if not problem.params:
        raise ValueError(
            "a tangent kernel needs parameters; the model has none that requires "
            "gradients. Name frozen ones: params='*' takes them all."
        )


@final
class KernelEngine:
    """Keeps the gradients of one or two sets of samples and hands them out in pairs.

    A first pass of two samples decides how every parameter's part of the kernel is
    computed. Gradients, or the inputs and cotangents that stand for them, are kept
    for as many samples as the memory holds. Where these are not all, they are on disk;
    without room there, the second member of the pairs is found again for each group
    of samples that is kept.

    Args:
        problem: The samples of the rows.
        other: Those of the columns; None for the same.
        outputs: "full" or "trace".
        method: How the parts are computed.
        free_bytes: Memory for gradients.
        settings: Those of an earlier run, to repeat it.
        source: What differentiates other numbers of the rows than the problem's
            output; None for that.

    Raises:
        ValueError: If the problem has no parameters, or the gradients of a single
            sample do not fit.

    Attributes:
        problem: The samples of the rows.
        choices: How each parameter's part is computed.
        dtype: Type of the sums: float32 for models of half precision.
        ranks: Who shares the pairs.
    """

    def __init__(
        self,
        problem: Problem,
        other: Problem | None = None,
        *,
        outputs: KernelOutputs,
        method: KernelMethod,
        free_bytes: int,
        settings: KernelSettings | None = None,
        source: ParameterEngine | None = None,
    ) -> None:
        require_choice("outputs", outputs, KernelOutputs)
        require_choice("method", method, KernelMethod)
        require_parameters(problem)
        # Pairs are dealt out to the ranks, not samples.
        self.ranks = problem.ranks
        self.problem = problem = problem.whole()
        other = None if other is None else other.whole()
        self.outputs: KernelOutputs = outputs
        self.dtype = torch.float32 if problem.dtype in _HALF else problem.dtype
        # A run that goes on repeats its own chunks.
        room = None if settings else int((1 - _SHARE_KEPT) * free_bytes)
        self._left = source.whole() if source else ParameterEngine(problem, room=room)
        self._right = self._left if other is None else ParameterEngine(other, room=room)
        self._is_symmetric = other is None
        self._free_bytes = free_bytes
        self._method: KernelMethod = method
        self.choices = self._choose()
        self._repeated = settings
        if settings is not None:
            self.choices = {
                name: replace(choice, form=settings.forms[name])
                for name, choice in self.choices.items()
            }

    def settings(self, most: int) -> KernelSettings:
        """Return what decides the rounding, with ranges of at most `most` samples."""
        if self._repeated is not None:
            return self._repeated
        fitting = max(1, self._free_bytes // (2 * self.sample_bytes))
        return KernelSettings(
            step=min(most, fitting, self.problem.num_samples),
            block_size=self._block_size(),
            forms={name: choice.form for name, choice in self.choices.items()},
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the kernel."""
        k = self._left.num_outputs if self.outputs == "full" else 1
        return k * self.problem.num_samples, k * self._right.problem.num_samples

    @property
    def is_symmetric(self) -> bool:
        """Whether rows and columns are the same samples."""
        return self._is_symmetric

    @property
    def sample_bytes(self) -> int:
        """Bytes of what is kept of each sample."""
        return max(1, sum(c.sample_bytes for c in self.choices.values()))

    def pairs(
        self, step: int | None = None, *, wanted: set[tuple[int, int]] | None = None
    ) -> Iterator[tuple[int, int, Range, Range]]:
        """Yield the gradients of pairs of ranges of samples.

        Args:
            step: Samples of a range; all if None and they fit the memory.
            wanted: Pairs (row range, column range) that are needed; of one set, only
                the lower triangle ever is. All if None.

        Yields:
            Number of the row range and of the column range, and the two, which are
            the same object for a range with itself; valid until the next is asked for.
        """
        step = step or self._range_size()
        num_right = -(-self._right.problem.num_samples // step)
        pairs = set(self.all_pairs(step))
        pairs = pairs if wanted is None else pairs & wanted
        if self._method == "products":
            yield from self._product_pairs(step, pairs)
            return
        kept = self._ranges_kept(step, num_right)
        if kept < num_right and self._has_disk():
            yield from self._pairs_from_disk(step, pairs, kept)
            return
        for first in range(0, num_right, kept):
            columns = set(range(first, first + kept))
            mine = {pair for pair in pairs if pair[1] in columns}
            yield from self._pairs_of_columns(step, mine, columns)

    def all_pairs(self, step: int | None = None) -> list[tuple[int, int]]:
        """Return the pairs that `pairs` yields, row by row.

        Args:
            step: Samples of a range; a block if None.

        Returns:
            Row range and column range; of one set, the lower triangle.
        """
        step = step or self._range_size()
        num_left = -(-self.problem.num_samples // step)
        num_right = -(-self._right.problem.num_samples // step)
        return [
            (i, j)
            for i in range(num_left)
            for j in range(i + 1 if self._is_symmetric else num_right)
        ]

    def num_passes(self, step: int | None = None) -> int:
        """Return how often the rows' samples go through the network, with `pairs`."""
        step = step or self._range_size()
        num_ranges = -(-self._right.problem.num_samples // step)
        kept = self._ranges_kept(step, num_ranges)
        is_on_disk = kept < num_ranges and self._method != "products"
        return 1 if is_on_disk and self._has_disk() else -(-num_ranges // kept)

    def _pairs_of_columns(
        self, step: int, pairs: set[tuple[int, int]], columns: set[int]
    ) -> Iterator[tuple[int, int, Range, Range]]:
        """Keep some column ranges and bring every row range that pairs with them."""
        needed = {j for _, j in pairs}
        rows = {i for i, _ in pairs}
        if self._is_symmetric:
            held: dict[int, Range] = {}
            for number, mine in self._ranges(self._left, step, needed | rows):
                if number in columns:
                    held[number] = mine
                for j in sorted(held):
                    if (number, j) in pairs:
                        yield number, j, mine, held[j]
            return
        held = dict(self._ranges(self._right, step, needed))
        for number, mine in self._ranges(self._left, step, rows):
            for j in sorted(held):
                if (number, j) in pairs:
                    yield number, j, mine, held[j]

    def _pairs_from_disk(
        self, step: int, pairs: set[tuple[int, int]], kept: int
    ) -> Iterator[tuple[int, int, Range, Range]]:
        """Write all ranges that are needed, once, and read them pair by pair."""
        rows, columns = {i for i, _ in pairs}, {j for _, j in pairs}
        left, right = "left", "left" if self._is_symmetric else "right"
        with Shelf(self.problem.device) as shelf:
            own = rows | columns if self._is_symmetric else rows
            self._shelve(shelf, left, self._ranges(self._left, step, own))
            if not self._is_symmetric:
                others = self._ranges(self._right, step, columns)
                self._shelve(shelf, right, others)
            wanted = sorted(columns)
            for first in range(0, len(wanted), kept):
                held = {
                    j: shelf.get(right, j, slot=slot)
                    for slot, j in enumerate(wanted[first : first + kept])
                }
                for i in sorted(rows):
                    partners = [j for j in held if (i, j) in pairs]
                    if partners:
                        is_held = self._is_symmetric and i in held
                        row = held[i] if is_held else shelf.get(left, i, slot=kept)
                        for j in partners:
                            yield i, j, row, held[j]

    @staticmethod
    def _shelve(shelf: Shelf, name: str, ranges: Iterator[tuple[int, Range]]) -> None:
        # In a function of its own, at whose end the last range is let go, too.
        for number, mine in ranges:
            shelf.put(name, number, mine)

    def _has_disk(self) -> bool:
        """Whether the disk can take what is kept of all samples."""
        return has_room(self._num_samples() * self.sample_bytes)

    def _product_pairs(
        self, step: int, pairs: set[tuple[int, int]]
    ) -> Iterator[tuple[int, int, Range, Range]]:
        """Keep inputs and cotangents of some rows and bring gradients of columns."""
        num_left = -(-self.problem.num_samples // step)
        kept = self._ranges_kept(step, num_left)
        for first in range(0, num_left, kept):
            rows = set(range(first, first + kept))
            mine = {pair for pair in pairs if pair[0] in rows}
            held = dict(self._ranges(self._left, step, {i for i, _ in mine}))
            needed = {j for _, j in mine}
            for number, other in self._ranges(
                self._right, step, needed, form="jacobian"
            ):
                for i in sorted(held):
                    if (i, number) in mine:
                        yield i, number, held[i], other

    def _ranges(
        self,
        engine: ParameterEngine,
        step: int,
        wanted: set[int],
        *,
        form: Form | None = None,
    ) -> Iterator[tuple[int, Range]]:
        """Yield each range that is wanted, in one pass over the data."""
        layout = self._layout(form)
        like = torch.empty(0, dtype=self.dtype, device=self.problem.device)
        num_samples, k = engine.problem.num_samples, engine.num_outputs
        formed: Formed | None = None
        blocks: list[Block] = []
        for batch in engine.chunks(min(step, self._block_size()), boundary=step):
            number, stop = batch.start // step, batch.start + batch.size
            if number not in wanted:
                continue
            if formed is None:
                size = min(step, num_samples - batch.start)
                formed = Formed(layout, batch.start, (size, k), like)
            work = partial(self._add_block, engine, formed, blocks)
            engine.halving.run(work, batch)
            if stop % step == 0 or stop == num_samples:
                yield (
                    number,
                    Range(start=formed.start, stop=stop, formed=formed, blocks=blocks),
                )
                formed, blocks = None, []

    def _add_block(
        self, engine: ParameterEngine, formed: Formed, blocks: list[Block], batch: Batch
    ) -> None:
        blocks.append(make_block(engine, batch, formed, self.dtype))

    def _layout(self, form: Form | None) -> Layout:
        """Return where the gradients are put that are formed."""
        shapes = {
            name: tuple(parameter.shape)
            for name, parameter in self.problem.params.items()
            if (form or self.choices[name].form) == "jacobian"
        }
        return Layout.of(shapes, in_order=self._method == "products")

    def _range_size(self) -> int:
        """Return the samples whose gradients are multiplied together."""
        columns = self._right.problem.num_samples
        fits = self._num_samples() * self.sample_bytes <= self._free_bytes
        if fits and self._method != "products" and self.ranks.size == 1:
            return max(self.problem.num_samples, columns)
        return self._block_size()

    def _ranges_kept(self, step: int, num_ranges: int) -> int:
        """Return how many ranges of samples are kept together."""
        each = step * self.sample_bytes
        free = int(_SHARE_KEPT * self._free_bytes)
        if num_ranges * each <= free:
            return num_ranges
        return max(1, free // each - 1)

    def _block_size(self) -> int:
        """Return the samples that go through the network together.

        Raises:
            ValueError: If not even one fits.
        """
        if self._repeated is not None:
            return self._repeated.block_size
        if self._method == "products":
            return min(self._left.chunk_size, self._row_block_size())
        fitting = self._free_bytes // (2 * self.sample_bytes)
        if fitting < 1:
            raise ValueError(
                "the memory budget must hold what the kernel needs of two samples, "
                f"{format_bytes(2 * self.sample_bytes)}, beside the result; it leaves "
                f"{format_bytes(max(0, self._free_bytes))}. Give more with memory=."
            )
        outputs = self._left.num_outputs * max(1, self._left.cotangent_bytes)
        together = max(_FEWEST, COTANGENT_BYTES // outputs)
        return min(self._left.chunk_size, fitting, together)

    def _row_block_size(self) -> int:
        """Return the samples whose whole gradients are in memory together."""
        num_entries = sum(p.numel() for p in self.problem.params.values())
        row_bytes = num_entries * self._left.num_outputs * self.dtype.itemsize
        most = min(_STREAMED_BYTES, self._free_bytes // 2)
        return max(1, min(self._left.chunk_size, most // row_bytes))

    def _choose(self) -> dict[str, KernelChoice]:
        engine = self._left
        probe = at_least_two(self.problem.batches.first(2))
        parts: dict[str, list[PerSample]] = {}
        with engine.open(probe) as chunk:
            for name, part in chunk.parts(range(min(2, engine.num_outputs))):
                parts.setdefault(name, []).append(part)
        return choose(
            parts,
            num_entries={n: p.numel() for n, p in self.problem.params.items()},
            num_outputs=engine.num_outputs,
            num_samples=self._num_samples(),
            itemsize=self.dtype.itemsize,
            outputs=self.outputs,
            method=self._method,
            free_bytes=self._free_bytes,
        )

    def _num_samples(self) -> int:
        samples = self.problem.num_samples
        return (
            samples
            if self._is_symmetric
            else (samples + self._right.problem.num_samples)
        )
