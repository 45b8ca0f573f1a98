"""Any of the data that users have, as batches that provably repeat."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from eigenscope.problem.model import rng_preserved

ModelInputs = Tensor | dict[str, Any]
DEFAULT_BATCH_SIZE = 128


class DataChangedError(RuntimeError):
    """The data or the model gave something else on a later pass than on the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive samples on the model's device: inputs, targets, first index."""

    inputs: ModelInputs
    targets: Any
    start: int
    size: int

    def parts(self, size: int) -> Iterator["Batch"]:
        """Yield the batch in parts of `size` samples; the last may be smaller."""
        rest: Batch | None = self
        while rest is not None:
            head, rest = _split(rest, min(size, rest.size))
            yield head


@final
class Batches:
    """The batches of one data set, checked to repeat in content and order.

    A tensor, an (inputs, targets) tuple or a `Dataset` is cut into batches of
    `batch_size`; a `DataLoader`, a list or another re-iterable keeps its own.
    Everything but plain tensors is read twice at construction, and every later
    pass is compared with the first as it goes. Floating-point entries take the
    device and dtype of the model, all others its device.

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
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        self.batch_size = batch_size
        self._labels = labels
        self._device = device
        self._dtype = dtype
        self._source = _batch_source(data, batch_size or DEFAULT_BATCH_SIZE)
        self._data = data
        self._digests: list[bytes] = []
        with rng_preserved():
            sizes = self._first_pass()
            if not isinstance(self._source, _TensorBatches):
                self._compare_a_second_pass()
        self.num_samples = sum(sizes)
        if self.num_samples == 0:
            raise ValueError(
                f"data must hold at least one sample; got an empty "
                f"{type(data).__name__}."
            )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches in order; raise if one differs from the first pass."""
        start = 0
        with rng_preserved():
            for index, raw in enumerate(self._source):
                self._require_same(index, raw)
                batch = self._convert(raw, start)
                yield batch
                start += batch.size
        self._require_complete(start)

    def chunks(self, size: int) -> Iterator[Batch]:
        """Yield the same samples in chunks of exactly `size` (the last is ragged)."""
        pending: list[Batch] = []
        start, waiting = 0, 0
        for batch in self:
            pending.append(batch)
            waiting += batch.size
            while waiting >= size:
                chunk, rest = _split(_join(pending, start), size)
                yield chunk
                start += size
                waiting -= size
                pending = [rest] if rest is not None else []
        if waiting:
            yield _join(pending, start)

    def first(self, size: int) -> Batch:
        """Return the first `size` samples of the first batch, or all that it has."""
        with rng_preserved():
            batch = self._convert(next(iter(self._source)), 0)
        return _split(batch, size)[0] if batch.size > size else batch

    def fingerprint(self) -> str:
        """Return a digest of all inputs and targets in order.

        Returns:
            32 hexadecimal digits; equal data cut into other batches differs.
        """
        total = hashlib.blake2b(digest_size=16)
        for digest in self._digests:
            total.update(digest)
        return total.hexdigest()

    def _first_pass(self) -> list[int]:
        sizes: list[int] = []
        for index, raw in enumerate(self._source):
            inputs, _ = _inputs_and_targets(raw, self._labels, index)
            _require_finite(inputs, sum(sizes))
            sizes.append(_size_of(inputs, index))
            self._digests.append(_digest(raw))
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
        if index < len(self._digests) and _digest(raw) == self._digests[index]:
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
                f"{self.num_samples} samples, this one {count}."
            )

    def _convert(self, raw: object, start: int) -> Batch:
        inputs, targets = _inputs_and_targets(raw, self._labels, 0)
        moved = self._move(inputs)
        return Batch(
            inputs=moved,
            targets=self._move(targets),
            start=start,
            size=_size_of(inputs, 0),
        )

    def _move(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self._move(entry) for key, entry in value.items()}
        if not isinstance(value, Tensor):
            return value
        dtype = self._dtype if value.is_floating_point() else None
        return value.detach().to(device=self._device, dtype=dtype)


@final
class _TensorBatches:
    """Slices of an input tensor and, where there are targets, of those too."""

    def __init__(self, inputs: Tensor, targets: Any, batch_size: int) -> None:
        self._inputs = inputs
        self._targets = targets
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[object]:
        for start in range(0, len(self._inputs), self._batch_size):
            part = slice(start, start + self._batch_size)
            inputs = self._inputs[part]
            yield inputs if self._targets is None else (inputs, self._targets[part])


def _batch_source(data: object, batch_size: int) -> Iterable[object]:
    if isinstance(data, Tensor):
        return _TensorBatches(_at_least_1d(data), None, batch_size)
    if isinstance(data, tuple):
        return _paired_source(cast("tuple[Any, ...]", data), batch_size)
    if isinstance(data, DataLoader):
        return cast("Iterable[object]", data)
    if isinstance(data, Dataset):
        return cast("Iterable[object]", DataLoader(data, batch_size=batch_size))
    if isinstance(data, Iterator):
        raise TypeError(
            f"data must be readable more than once; got the one-pass iterator "
            f"{type(data).__name__}. Pass a list of batches, a Dataset or a DataLoader."
        )
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        return cast("Iterable[object]", data)
    raise TypeError(
        "data must be a tensor, an (inputs, targets) tuple, a Dataset, a DataLoader or "
        f"a re-iterable of batches; got {type(data).__name__}."
    )


def _paired_source(data: tuple[Any, ...], batch_size: int) -> _TensorBatches:
    if len(data) != 2 or not isinstance(data[0], Tensor):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise TypeError(
            "a data tuple must be (inputs, targets) with a tensor of inputs; got "
            f"({kinds}). Pass several batches as a list."
        )
    inputs, targets = _at_least_1d(data[0]), data[1]
    if targets is not None and len(targets) != len(inputs):
        raise ValueError(
            f"inputs and targets must have the same length; got {len(inputs)} inputs "
            f"and {len(targets)} targets."
        )
    return _TensorBatches(inputs, targets, batch_size)


def _at_least_1d(inputs: Tensor) -> Tensor:
    if inputs.ndim == 0:
        raise ValueError("inputs must have a sample axis; got a tensor of shape ().")
    return inputs


def _inputs_and_targets(raw: object, labels: str, index: int) -> tuple[Any, Any]:
    if isinstance(raw, Tensor):
        return raw, None
    if isinstance(raw, Mapping):
        entries = dict(cast("Mapping[str, Any]", raw))
        targets = entries.pop(labels, None)
        return entries, targets
    if isinstance(raw, (tuple, list)):
        parts = list(cast("Iterable[Any]", raw))
        if len(parts) in {1, 2} and isinstance(parts[0], (Tensor, Mapping)):
            return parts[0], parts[1] if len(parts) == 2 else None
    raise TypeError(
        "a batch must be a tensor, an (inputs, targets) pair, or a mapping of the "
        f"model's keyword arguments; batch {index} is a {type(raw).__name__}."
    )


def _tensors(value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, Mapping):
        for key, entry in cast("Mapping[str, Any]", value).items():
            if isinstance(entry, Tensor):
                yield str(key), entry
    elif isinstance(value, (tuple, list)):
        for position, entry in enumerate(cast("Iterable[Any]", value)):
            for name, tensor in _tensors(entry):
                yield f"{position}.{name}", tensor


def _size_of(inputs: object, index: int) -> int:
    sizes = {name: len(t) for name, t in _tensors(inputs) if t.ndim > 0}
    if not sizes:
        raise TypeError(f"batch {index} holds no tensor with a sample axis.")
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "all entries of a batch must have their samples on axis 0; batch "
            f"{index} has lengths {sizes}."
        )
    return next(iter(sizes.values()))


def _require_finite(inputs: object, start: int) -> None:
    for name, tensor in _tensors(inputs):
        if not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        rows = (~tensor.isfinite()).flatten(1 if tensor.ndim > 1 else 0)
        bad = rows.any(1) if tensor.ndim > 1 else rows
        sample = start + int(bad.nonzero()[0, 0])
        entry = f" (entry {name!r})" if name else ""
        raise ValueError(
            f"inputs must be finite; sample {sample}{entry} holds NaN or infinity. "
            "Remove it or repair the preprocessing."
        )


def _digest(raw: object) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in _tensors(raw):
        state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        state.update(data.numpy().data)
    return state.digest()


def _join(batches: list[Batch], start: int) -> Batch:
    if len(batches) == 1:
        only = batches[0]
        return Batch(
            inputs=only.inputs, targets=only.targets, start=start, size=only.size
        )
    return Batch(
        inputs=_concatenate([batch.inputs for batch in batches]),
        targets=_concatenate([batch.targets for batch in batches]),
        start=start,
        size=sum(batch.size for batch in batches),
    )


def _concatenate(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        keys = cast("Mapping[str, Any]", first)
        return {key: _concatenate([part[key] for part in parts]) for key in keys}
    return torch.cat(parts) if isinstance(first, Tensor) else first


def _split(batch: Batch, size: int) -> tuple[Batch, Batch | None]:
    if batch.size == size:
        return batch, None
    head, tail = slice(0, size), slice(size, None)
    return (
        Batch(
            inputs=_take(batch.inputs, head),
            targets=_take(batch.targets, head),
            start=batch.start,
            size=size,
        ),
        Batch(
            inputs=_take(batch.inputs, tail),
            targets=_take(batch.targets, tail),
            start=batch.start + size,
            size=batch.size - size,
        ),
    )


def _take(value: Any, part: slice) -> Any:
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {key: _take(entry, part) for key, entry in entries.items()}
    return value[part] if isinstance(value, Tensor) and value.ndim > 0 else value
