"""Inputs that are given as two sets of samples."""

from collections.abc import Mapping

from torch import Tensor


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


def _described(x: object) -> str:
    if isinstance(x, Mapping):
        entries = (f"{key}: {_described(value)}" for key, value in x.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(x, Tensor):
        return f"{tuple(x.shape[1:])} {x.dtype}"
    return type(x).__name__
