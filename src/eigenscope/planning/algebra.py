"""How long an estimate's vectors take beside its products: by a matrix for nothing."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.operators import SymmetricOperator
from eigenscope.planning.rehearsal import grown

_MOST_ENTRIES: Final = 2**21  # blocks of vectors leave the caches, as longer ones
_POWERS: Final = (0, 1, 2)  # what is orthogonalized grows with the square
_KNOWN: Final = 3

Options = dict[str, Any]


@final
class StandIn(SymmetricOperator):
    """A diagonal matrix with entries 1/D, 2/D, … 1.

    Args:
        dim: D.
        dtype: Of the entries.
        device: Where.
    """

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._entries = torch.arange(1, dim + 1, device=device).to(dtype) / dim

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return len(self._entries), len(self._entries)

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._entries.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self._entries.device

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return (block.T * self._entries).T

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        return self._entries

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        return torch.diag(self._entries)


def algebra_seconds(
    call: Callable[..., object],
    options: Options,
    *,
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
    sizes: str,
    least: int,
    total: int,
    effort: float,
) -> float:
    """Return what an estimate takes with a matrix whose products cost nothing.

    It is made with few products or steps and with twice as many, and so on, and of a
    smaller matrix than two million rows.

    Args:
        call: The estimate.
        options: Its other arguments by name, without the matrix.
        dim: Rows of the matrix.
        dtype: Of the matrix.
        device: Where.
        sizes: The argument that is the number of products or steps.
        least: The fewest of them.
        total: How many there will be.
        effort: Seconds to spend.

    Returns:
        Seconds.
    """
    stand_in = StandIn(min(dim, _MOST_ENTRIES), dtype, device)
    given = options | {"generator": None, "run": None}
    size, started = min(least, total), time.perf_counter()
    counts: list[float] = []
    seconds: list[float] = []
    while True:
        found: list[float] = []
        for _ in range(2):  # the first one often waits for memory
            before = time.perf_counter()
            call(stand_in, **given | {sizes: size})
            found.append(time.perf_counter() - before)
        counts.append(size)
        seconds.append(min(found))
        spent = time.perf_counter() - started
        if size == total or (len(counts) > 1 and spent + 6 * seconds[-1] > effort):
            break
        size = min(2 * size, total)
    scale = dim / stand_in.shape[0]
    return scale * _at(counts, seconds, total)


def _at(counts: Sequence[float], seconds: Sequence[float], total: int) -> float:
    if counts[-1] == total:
        return seconds[-1]
    known = slice(-_KNOWN, None)
    return grown(counts[known], seconds[known], powers=_POWERS, size=total)
