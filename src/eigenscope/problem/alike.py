"""What must be alike: two sets of samples, and what the ranks hold."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eigenscope.distributed import Ranks
from eigenscope.problem.data import DataChangedError


def data_of(x: object) -> object:
    """Return inputs as data: a mapping of keyword arguments is one batch."""
    return x if isinstance(x, Tensor) else [x]


def require_alike(x1: object, x2: object) -> None:
    """Raise unless samples of both sets have the same shape and dtype.

    Args:
        x1: Inputs.
        x2: More inputs.

    Raises:
        ValueError: If they differ.
    """
    first, second = _described(x1), _described(x2)
    if first != second:
        raise ValueError(
            "x1 and x2 must hold samples of the same shape and dtype; x1 holds "
            f"{first}, x2 {second}. Convert one of them."
        )


def require_same_on_all(ranks: Ranks, fingerprint: Mapping[str, str]) -> None:
    """Raise on all ranks unless all have the same data and weights.

    Args:
        ranks: Who shares the work.
        fingerprint: This rank's digests.

    Raises:
        DataChangedError: Naming the ranks that differ from rank 0, and in what.
    """
    found = ranks.gather(dict(fingerprint))
    for what in fingerprint:
        others = [r for r, own in enumerate(found) if own[what] != found[0][what]]
        if others:
            listed = ", ".join(map(str, others))
            raise DataChangedError(
                f"all {ranks.size} ranks must be given the same {what}; those of rank "
                f"{listed} differ from rank 0's. Load the same file on every rank, "
                "seed what is random alike, give each rank the whole data without a "
                "DistributedSampler, or pass ranks='own' for a problem of one rank."
            )


def require_same_numbers(
    ranks: Ranks, what: str, own: Sequence[float], dtype: torch.dtype
) -> None:
    """Raise on all ranks unless all have computed the same, up to rounding.

    Args:
        ranks: Who shares the work.
        what: What they have computed of the same samples.
        own: This rank's numbers.
        dtype: Type that they were computed in.

    Raises:
        DataChangedError: Naming the ranks that differ from rank 0.
    """
    found = [torch.tensor(one, dtype=torch.float64) for one in ranks.gather(list(own))]
    first = found[0]
    epsilon = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    noise = epsilon**0.5 * first.abs().amax()
    others = [
        rank
        for rank, one in enumerate(found)
        if one.shape != first.shape or bool(((one - first).abs() > noise).any())
    ]
    if others:
        raise DataChangedError(
            f"all {ranks.size} ranks must compute the same {what}; those of rank "
            f"{', '.join(map(str, others))} differ from rank 0's by more than "
            "rounding. Give every rank the same network in the same mode, and the "
            "same output= and loss=."
        )


def _described(x: object) -> str:
    if isinstance(x, Mapping):
        entries = (f"{key}: {_described(value)}" for key, value in x.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(x, Tensor):
        return f"{tuple(x.shape[1:])} {x.dtype}"
    return type(x).__name__
