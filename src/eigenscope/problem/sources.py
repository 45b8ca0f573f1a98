"""Any of the data that users have, as re-iterables of raw batches."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast, final

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset


@final
class TensorBatches:
    """Slices of an input tensor and, where there are targets, of those too."""

    def __init__(self, inputs: Tensor, targets: Any, batch_size: int) -> None:
        self._inputs = inputs
        self._targets = targets
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[object]:
        """Yield the slices in order."""
        for start in range(0, len(self._inputs), self._batch_size):
            part = slice(start, start + self._batch_size)
            inputs = self._inputs[part]
            yield inputs if self._targets is None else (inputs, self._targets[part])

    def since(self, index: int) -> "TensorBatches":
        """Return the same without the first batches."""
        rest = slice(index * self._batch_size, None)
        targets = None if self._targets is None else self._targets[rest]
        return TensorBatches(self._inputs[rest], targets, self._batch_size)


@final
class DatasetBatches:
    """Batches of a `Dataset` in order, which can be read from any of them on."""

    def __init__(self, dataset: Any, batch_size: int, start: int = 0) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._start = start

    def __iter__(self) -> Iterator[object]:
        """Yield the batches in order."""
        rest = self._dataset
        if self._start:
            rest = Subset(rest, range(self._start, len(rest)))
        yield from DataLoader(rest, batch_size=self._batch_size)

    def since(self, index: int) -> "DatasetBatches":
        """Return the same without the first batches."""
        start = self._start + index * self._batch_size
        return DatasetBatches(self._dataset, self._batch_size, start)


def batch_source(data: object, batch_size: int) -> Iterable[object]:
    """Return the data as a re-iterable of raw batches.

    Args:
        data: Tensor, (inputs, targets) tuple, `Dataset`, `DataLoader` or re-iterable.
        batch_size: Samples per batch where the data does not say.

    Returns:
        The batches as the data gives them.

    Raises:
        TypeError: If `data` is of no supported kind.
        ValueError: If there is no sample axis, or not one target for each input.
    """
    if isinstance(data, Tensor):
        return TensorBatches(_with_samples(data), None, batch_size)
    if isinstance(data, tuple):
        return _paired_source(cast("tuple[Any, ...]", data), batch_size)
    if isinstance(data, DataLoader):
        return cast("Iterable[object]", data)
    if isinstance(data, IterableDataset):
        return cast("Iterable[object]", DataLoader(data, batch_size=batch_size))
    if isinstance(data, Dataset):
        return DatasetBatches(data, batch_size)
    if isinstance(data, Iterator):
        raise TypeError(
            f"data must be readable more than once; got the one-pass iterator "
            f"{type(data).__name__}. Pass a list of batches, a Dataset or a DataLoader."
        )
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        return cast("Iterable[object]", data)
    raise TypeError(
        "data must be a tensor, an (inputs, targets) tuple, a Dataset, a DataLoader or "
        f"a re-iterable of batches; got {type(data).__name__}. Put a single batch that "
        "is a mapping in a list."
    )


def _paired_source(data: tuple[Any, ...], batch_size: int) -> TensorBatches:
    if len(data) != 2 or not isinstance(data[0], Tensor):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise TypeError(
            "a data tuple must be (inputs, targets) with a tensor of inputs; got "
            f"({kinds}). Pass several batches as a list."
        )
    inputs, targets = _with_samples(data[0]), data[1]
    if targets is not None and len(targets) != len(inputs):
        raise ValueError(
            f"inputs and targets must have the same length; got {len(inputs)} inputs "
            f"and {len(targets)} targets. Give every sample its target."
        )
    return TensorBatches(inputs, targets, batch_size)


def _with_samples(inputs: Tensor) -> Tensor:
    if inputs.ndim == 0:
        raise ValueError(
            "inputs must have a sample axis; got a tensor of shape (). Use "
            "inputs.unsqueeze(0) for a single sample."
        )
    return inputs
