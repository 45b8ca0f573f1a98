"""What a batch holds as the data gives it: its parts, its size and its digest."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from eigenscope.distributed.pieces import is_in_pieces, whole_tensor


def inputs_and_targets(raw: object, labels: str, index: int) -> tuple[Any, Any]:
    """Return what goes into the model and what is compared with its output.

    Args:
        raw: A batch.
        labels: The entry of a mapping that is the target.
        index: Number of the batch, for the message.

    Returns:
        The inputs, a tensor or a mapping, and the targets or None.

    Raises:
        TypeError: If the batch is of no supported kind.
    """
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
        + (" Use torch.from_numpy." if isinstance(raw, np.ndarray) else "")
    )


def size_of(inputs: object, targets: object, index: int) -> int:
    """Return the number of samples of a batch.

    Args:
        inputs: A tensor or a mapping.
        targets: Compared where they are a tensor.
        index: Number of the batch, for the message.

    Returns:
        The common length of all entries' first axes.

    Raises:
        TypeError: If no entry has a sample axis.
        ValueError: If entries, or inputs and targets, have different lengths, or
            are in pieces.
    """
    for name, tensor in _tensors({"inputs": inputs, "targets": targets}):
        if is_in_pieces(tensor):
            raise ValueError(
                "every rank must be given the whole data as plain tensors; the "
                f"{name} of batch {index} are a DTensor. Pass its full_tensor()."
            )
    sizes = {name: len(t) for name, t in _tensors(inputs) if t.ndim > 0}
    if not sizes:
        raise TypeError(
            f"a batch must hold a tensor with a sample axis; batch {index} has none."
        )
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "all entries of a batch must have their samples on axis 0; batch "
            f"{index} has lengths {sizes}."
        )
    size = next(iter(sizes.values()))
    for _, target in _tensors(targets):
        if target.ndim > 0 and len(target) != size:
            raise ValueError(
                f"inputs and targets must have the same length; batch {index} has "
                f"{size} inputs and {len(target)} targets. Give every sample its "
                "target."
            )
    return size


def require_finite(inputs: object, start: int) -> None:
    """Raise if an input holds NaN or infinity.

    Args:
        inputs: A tensor or a mapping.
        start: Index of the first sample.

    Raises:
        ValueError: Naming the sample and the entry.
    """
    for name, tensor in _tensors(inputs):
        if not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        rows = (~tensor.isfinite()).reshape(len(tensor) if tensor.ndim else 1, -1)
        sample = start + int(rows.any(1).nonzero()[0, 0])
        entry = f" (entry {name!r})" if name else ""
        raise ValueError(
            f"inputs must be finite; sample {sample}{entry} holds NaN or infinity in "
            f"{tensor.dtype}. Remove it or repair the preprocessing."
        )


def digest_of(raw: object) -> bytes:
    """Return a digest of all tensors, arrays, numbers and strings of a batch."""
    state = hashlib.blake2b(digest_size=16)
    for name, leaf in _leaves(raw):
        state.update(name.encode())
        if isinstance(leaf, Tensor):
            update_digest(state, leaf)
        elif isinstance(leaf, np.ndarray):
            state.update(f"{leaf.shape}{leaf.dtype}".encode() + leaf.tobytes())
        elif isinstance(leaf, str | bytes | int | float | complex | None):
            state.update(repr(leaf).encode())
    return state.digest()


def beginning(raw: object, size: int, *, of: int) -> Any:
    """Return the first samples of a batch, in the same form.

    Args:
        raw: The batch.
        size: How many.
        of: Samples of the batch.
    """
    if isinstance(raw, Tensor | np.ndarray):
        return raw[:size] if len(raw.shape) and raw.shape[0] == of else raw
    if isinstance(raw, Mapping):
        pairs = cast("Mapping[object, object]", raw).items()
        return {key: beginning(entry, size, of=of) for key, entry in pairs}
    if isinstance(raw, (tuple, list)):
        entries = [*cast("Iterable[object]", raw)]
        if len(entries) == of and not any(isinstance(e, Tensor) for e in entries):
            return entries[:size]  # one text, say, for each sample
        return [beginning(entry, size, of=of) for entry in entries]
    return raw


def update_digest(state: "hashlib.blake2b", tensor: Tensor) -> None:
    """Add a tensor's shape, dtype and bytes to a digest."""
    state.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    plain = whole_tensor(tensor).resolve_conj().resolve_neg()
    flat = plain.cpu().contiguous().flatten()
    state.update(flat.view(torch.uint8).numpy().data)


def _tensors(value: object) -> Iterator[tuple[str, Tensor]]:
    for name, leaf in _leaves(value):
        if isinstance(leaf, Tensor):
            yield name, leaf


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
    elif isinstance(value, (tuple, list)):
        pairs = enumerate(cast("Iterable[object]", value))
    else:
        yield name, value
        return
    for key, entry in pairs:
        yield from _leaves(entry, f"{name}.{key}" if name else str(key))
