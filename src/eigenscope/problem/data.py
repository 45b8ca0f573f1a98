"""A data set as batches that provably repeat."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from eigenscope.problem.batch import Batch, join, sample_shapes
from eigenscope.problem.random_state import RandomState, rng_preserved
from eigenscope.problem.raw_batches import (
    beginning,
    digest_of,
    inputs_and_targets,
    require_finite,
    size_of,
)
from eigenscope.problem.sources import DatasetBatches, TensorBatches, batch_source

DEFAULT_BATCH_SIZE = 128
_END = object()


class DataChangedError(RuntimeError):
    """The data or the model gave something else on a later pass than on the first."""


@final
class Batches:
    """The batches of one data set, checked to repeat in content and order.

    A tensor, an (inputs, targets) tuple or a `Dataset` is cut into batches of
    `batch_size`; a `DataLoader`, a list or another re-iterable keeps its own.
    Everything but plain tensors is read twice at construction, and every later
    pass is compared with the first as it goes. Floating-point entries take the
    device and dtype of the model, all others its device. Random states that the data
    advances are the caller's again whenever a batch is handed out.

    Args:
        data: Tensor, (inputs, targets), `Dataset`, `DataLoader` or re-iterable of
            batches; a batch is a tensor, (inputs, targets), or a mapping.
        batch_size: Samples per batch where the data does not say.
        labels: The entry of a mapping that is the target.
        device: Device of the model; None keeps the data's own.
        dtype: Floating dtype of the model; None keeps the data's own.

    Raises:
        TypeError: If `data` is of no supported kind.
        ValueError: If it is empty, or its batches are malformed.
        DataChangedError: If two passes differ.

    Attributes:
        begin: Called at the start of each pass, returns what changes a batch, if any.
        samples: Which of the samples are handed out; all unless `within` says less.
    """

    def __init__(
        self,
        data: object,
        *,
        batch_size: int | None,
        labels: str,
        device: torch.device | None,
        dtype: torch.dtype | None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(
                f"batch_size must be at least 1; got {batch_size}. None chooses."
            )
        self.batch_size = batch_size
        self.labels = labels
        self._device = device
        self._dtype = dtype
        self._source = batch_source(data, batch_size or DEFAULT_BATCH_SIZE)
        self._data = data
        self._digests: list[bytes] = []
        self.begin: Callable[[], Callable[[Batch], Batch]] | None = None
        self._generators = _generators_of(data)
        with rng_preserved(self._generators):
            sizes = self._first_pass()
            if not isinstance(self._source, TensorBatches):
                self._compare_a_second_pass()
        self._sizes = sizes
        self.num_samples = sum(sizes)
        self.samples = range(self.num_samples)
        if self.num_samples == 0:
            raise ValueError(
                f"data must hold at least one sample; got an empty "
                f"{type(data).__name__}."
            )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches in order; raise if one differs from the first pass.

        Of other samples than `samples` nothing is read or compared that need not be.
        """
        yield from self._read(self.samples)

    def _read(self, samples: range) -> Iterator[Batch]:
        if not samples:
            return
        changed = None if self.begin is None else self.begin()
        # What changes one batch after the other has to see all of them.
        index, start = (0, 0) if changed else self._first_batch(samples)
        for raw in self._raw_batches(index):
            size = self._sizes[index] if index < len(self._sizes) else 0
            part = range(max(start, samples.start), min(start + size, samples.stop))
            if part or changed or index >= len(self._sizes):
                self._require_same(index, raw)
                batch = self._convert(raw, start, index)
                batch = batch if changed is None else changed(batch)
                if part:
                    yield batch.part(part.start - start, part.stop - start)
            index, start = index + 1, start + size
            if start >= samples.stop and samples.stop < self.num_samples:
                return
        self._require_complete(start)

    def _first_batch(self, samples: range) -> tuple[int, int]:
        """Return the first batch to read, and its first sample."""
        if not isinstance(self._source, TensorBatches | DatasetBatches):
            return 0, 0
        index = start = 0
        while start + self._sizes[index] <= samples.start:
            index, start = index + 1, start + self._sizes[index]
        return index, start

    def within(self, samples: range) -> "Batches":
        """Return batches that share the data and hand out some of the samples.

        Args:
            samples: Consecutive ones; batches that hold others, too, are cut.

        Returns:
            The same data set: `num_samples`, `first` and `fingerprint` are the whole's.
        """
        other = copy.copy(self)
        other.samples = samples
        return other

    def changed(self, begin: Callable[[], Callable[[Batch], Batch]]) -> "Batches":
        """Return the same batches with something changed in each, in order.

        Args:
            begin: Called at the start of each pass; returns what changes a batch.

        Returns:
            Batches that share the data.
        """
        other = copy.copy(self)
        other.begin = begin
        return other

    def with_batch_size(self, batch_size: int) -> "Batches":
        """Return the same batches, which engines cut into chunks of another size.

        Args:
            batch_size: Samples of a chunk.

        Returns:
            Batches that share the data.
        """
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    def chunks(self, size: int) -> Iterator[Batch]:
        """Yield the same samples in chunks of exactly `size` (the last is ragged)."""
        pending: list[Batch] = []
        waiting = 0
        for batch in self:
            first = min(size - waiting, batch.size)
            pending.append(batch.part(0, first))
            waiting += first
            while waiting == size:
                yield _joined(pending)
                stop = min(first + size, batch.size)
                pending = [batch.part(first, stop)] if stop > first else []
                waiting, first = stop - first, stop
            if pending:  # the data may use the memory of this batch for the next one
                pending[-1] = pending[-1].owned()
        if waiting:
            yield _joined(pending)

    def as_given(self, batch: Batch) -> object:
        """Return a batch in the form in which data may give it.

        Args:
            batch: Some samples of this data set.

        Returns:
            A pair (inputs, targets), or a mapping that holds the targets, too.
        """
        if isinstance(batch.inputs, dict):
            return batch.inputs | {self.labels: batch.targets}
        return batch.inputs, batch.targets

    def first(self, size: int) -> Batch:
        """Return the first `size` samples, or fewer where no more of one shape come."""
        found: list[Batch] = []
        count = 0
        for batch in self._read(range(self.num_samples)):
            same = not found or (
                sample_shapes(found[0].inputs) == sample_shapes(batch.inputs)
            )
            if not same:
                break
            found.append(batch.part(0, min(size - count, batch.size)).owned())
            count += found[-1].size
            if count == size:
                break
        return join(found)

    def fingerprint(self, num_samples: int | None = None) -> str:
        """Return a digest of all inputs and targets in order.

        Args:
            num_samples: Of the first samples alone, as if there were no others.

        Returns:
            32 hexadecimal digits; equal data cut into other batches differs.
        """
        total = hashlib.blake2b(digest_size=16)
        is_whole = num_samples is None
        for digest in self._digests if is_whole else self._beginning(num_samples):
            total.update(digest)
        return total.hexdigest()

    def _beginning(self, num_samples: int) -> Iterator[bytes]:
        """Yield the digests of the batches of the first samples alone."""
        for index, raw in enumerate(self._raw_batches(0)):
            size = self._sizes[index]
            if num_samples < size:
                yield digest_of(beginning(raw, num_samples, of=size))
                return
            yield self._digests[index]
            num_samples -= size
            if not num_samples:
                return

    def _raw_batches(self, index: int) -> Iterator[object]:
        """Yield what the data gives, with random states of its own between batches."""
        source = self._source
        if isinstance(source, TensorBatches | DatasetBatches):
            source = source.since(index)
        iterator = chain.from_iterable([source])
        inner: RandomState | None = None
        while True:
            outer = RandomState.capture(self._generators)
            try:
                if inner is not None:
                    inner.restore()
                raw = next(iterator, _END)
                inner = RandomState.capture(self._generators)
            finally:
                outer.restore()
            if raw is _END:
                return
            yield raw

    def _first_pass(self) -> list[int]:
        sizes: list[int] = []
        for index, raw in enumerate(self._source):
            inputs, targets = inputs_and_targets(raw, self.labels, index)
            size = size_of(inputs, targets, index)
            require_finite(self._move(inputs), sum(sizes))
            sizes.append(size)
            self._digests.append(digest_of(raw))
        return sizes

    def _compare_a_second_pass(self) -> None:
        count = 0
        for index, raw in enumerate(self._source):
            self._require_same(index, raw)
            count += 1
        if count != len(self._digests):
            raise DataChangedError(
                f"data must give the same batches on every pass; the first pass gave "
                f"{len(self._digests)}, the second {count}. Pass a list of batches, "
                "a Dataset or a DataLoader rather than an iterator that is used up."
            )

    def _require_same(self, index: int, raw: object) -> None:
        if index < len(self._digests) and digest_of(raw) == self._digests[index]:
            return
        cause = "it shuffles or augments at random"
        if isinstance(self._data, DataLoader) and isinstance(
            self._data.sampler, RandomSampler
        ):
            cause = "the DataLoader shuffles (build it with shuffle=False)"
        raise DataChangedError(
            f"data must give the same batches in the same order on every pass; batch "
            f"{index} differed: {cause}, or it was changed in place. Fix the order "
            "and switch random augmentation off."
        )

    def _require_complete(self, count: int) -> None:
        if count != self.num_samples:
            raise DataChangedError(
                f"data must give the same batches on every pass; the first pass gave "
                f"{self.num_samples} samples, this one {count}. Do not add to the data "
                "or take from it while it is used."
            )

    def _convert(self, raw: object, start: int, index: int) -> Batch:
        inputs, targets = inputs_and_targets(raw, self.labels, index)
        return Batch(
            inputs=self._move(inputs),
            targets=self._move(targets),
            start=start,
            size=size_of(inputs, targets, index),
        )

    def _move(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            entries = cast("Mapping[object, Any]", value)
            return {str(key): self._move(entry) for key, entry in entries.items()}
        if not isinstance(value, Tensor):
            return value
        dtype = self._dtype if value.is_floating_point() else None
        return value.detach().to(device=self._device, dtype=dtype)


def _generators_of(data: object) -> list[torch.Generator]:
    """Return the generators of a DataLoader, which its owner may share with others."""
    samplers = (getattr(data, name, None) for name in ("sampler", "batch_sampler"))
    owners = [data, *samplers] if isinstance(data, DataLoader) else []
    owners += [getattr(owner, "sampler", None) for owner in owners]
    found = (getattr(owner, "generator", None) for owner in owners)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _joined(pending: list[Batch]) -> Batch:
    """Return some batches as one, and let go of them."""
    joined = join(pending)
    pending.clear()
    return joined
