"""Consecutive samples, and how they are cut and joined along the sample axis."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor

ModelInputs = Tensor | dict[str, Any]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive samples on the model's device: inputs, targets, first index."""

    inputs: ModelInputs
    targets: Any
    start: int
    size: int

    def parts(self, size: int) -> Iterator["Batch"]:
        """Yield the batch in parts of `size` samples; the last may be smaller."""
        for first in range(0, self.size, size):
            yield self.part(first, min(first + size, self.size))

    def part(self, first: int, stop: int) -> "Batch":
        """Return the samples first … stop - 1 of the batch."""
        if (first, stop) == (0, self.size):
            return self
        part = slice(first, stop)
        return Batch(
            inputs=take(self.inputs, part, self.size),
            targets=take(self.targets, part, self.size),
            start=self.start + first,
            size=stop - first,
        )

    def owned(self) -> "Batch":
        """Return the batch in memory of its own, which the data cannot reuse."""
        return Batch(
            inputs=_clone(self.inputs),
            targets=_clone(self.targets),
            start=self.start,
            size=self.size,
        )


def join(batches: list[Batch]) -> Batch:
    """Return consecutive batches as one.

    Args:
        batches: At least one, in order.

    Returns:
        All their samples.

    Raises:
        ValueError: If the samples of two batches have different shapes.
    """
    if len(batches) == 1:
        return batches[0]
    sizes = [batch.size for batch in batches]
    return Batch(
        inputs=_concatenate([batch.inputs for batch in batches], sizes),
        targets=_concatenate([batch.targets for batch in batches], sizes),
        start=batches[0].start,
        size=sum(sizes),
    )


def sample_shapes(value: Any) -> Any:
    """Return the shapes of single samples of a batch's inputs."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {key: sample_shapes(entry) for key, entry in entries.items()}
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else None


def _concatenate(parts: list[Any], sizes: list[int]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        keys = cast("Mapping[str, Any]", first)
        return {key: _concatenate([part[key] for part in parts], sizes) for key in keys}
    if isinstance(first, Tensor) and first.ndim > 0:
        _require_one_shape(parts)
        return torch.cat(parts)
    if not _has_samples(first, sizes[0]):
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    return [entry for part in parts for entry in part]


def _require_one_shape(parts: list[Tensor]) -> None:
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            "all samples must have the same shape; batches with samples of shapes "
            f"{sorted(shapes)} follow each other. Pad or crop them."
        )


def take(value: Any, part: slice, size: int) -> Any:
    """Return some samples of a batch's inputs or targets.

    Args:
        value: Tensors, arrays or lists with samples on axis 0, mappings of these, or
            anything else, which all samples share.
        part: The samples.
        size: How many the batch has.

    Returns:
        The same kind of thing.
    """
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {key: take(entry, part, size) for key, entry in entries.items()}
    return value[part] if _has_samples(value, size) else value


def _has_samples(value: object, size: int) -> bool:
    """Return whether axis 0 of an entry holds the samples of a batch."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, list | tuple) and len(cast("list[Any]", value)) == size


def _clone(value: Any) -> Any:
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {key: _clone(entry) for key, entry in entries.items()}
    return value.clone() if isinstance(value, Tensor) else value
