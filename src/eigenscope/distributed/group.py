"""The ranks of an initialized process group of torch."""

import os
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import (
    _get_default_store,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)
from typing_extensions import override

from eigenscope.distributed.failures import explained, leave_word, own_words
from eigenscope.distributed.ranks import Ranks

Value = TypeVar("Value")

_PACKED_BYTES: Final = 2**24
_BASE: Final = 61
_NUM_DIGITS: Final = 4
_HALF: Final = (torch.float16, torch.bfloat16)


@final
class Group(Ranks):
    """All processes of the default process group.

    Made by all of them at the same time: it is their first exchange.

    Raises:
        RuntimeError: If a rank has ended, or does not come before the group's timeout.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._is_broken = False
        self._places: list[str] = []
        self._places = self.gather(f"process {os.getpid()} on {socket.gethostname()}")

    @override
    @contextmanager
    def sum_over_ranks(
        self, total: Tensor, *, same: Tensor | None = None
    ) -> Generator[None]:
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        # Half precision would lose what several ranks have added.
        wide = torch.float32 if total.dtype in _HALF else total.dtype
        marks = [float(failure is not None), *_digest(same)]
        note = torch.tensor(marks, dtype=wide, device=total.device)
        if total.nbytes <= _PACKED_BYTES:
            packed = torch.cat([total.detach().flatten().to(wide), note])
            self._add_up(packed)
            found, summed = packed[-len(marks) :].tolist(), packed[: -len(marks)]
        else:
            self._add_up(note)
            found, summed = note.tolist(), None
        if found[0]:
            self._raise_first(failure)
        self._require_same(found[1:])
        if summed is None:
            summed = total.detach().to(wide).contiguous()
            self._add_up(summed)
        if summed.data_ptr() != total.data_ptr():
            total.copy_(summed.view(total.shape))

    @override
    @contextmanager
    def together(self) -> Generator[None]:
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        self._raise_first(failure)

    @override
    def gather(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.size
        with self._exchange():
            dist.all_gather_object(values, value)
        return values

    @override
    def from_first(self, make: Callable[[], Value]) -> Value:
        message: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                message = [make(), None]
            except Exception as error:
                failure = error
                message = [None, own_words(error)]
        with self._exchange():
            dist.broadcast_object_list(message, src=0)
        if failure is not None:
            raise failure
        if message[1] is not None:
            raise RuntimeError(self._stopped(0, message[1]))
        return message[0]

    @override
    def in_step(self, steps: Iterator[object], *, rounds: int) -> None:
        for _ in range(rounds):
            with self.together():
                next(steps, None)

    def _add_up(self, tensor: Tensor) -> None:
        with self._exchange():
            dist.all_reduce(tensor)

    def _raise_first(self, failure: Exception | None) -> None:
        """Raise our own error, or tell of the first rank's that has one."""
        if self._is_broken and failure is not None:
            raise failure
        words = self.gather(None if failure is None else own_words(failure))
        if failure is not None:
            raise failure
        for rank, text in enumerate(words):
            if text is not None:
                raise RuntimeError(self._stopped(rank, text))

    def _require_same(self, sums: list[float]) -> None:
        """Compare digits whose sums, and sums of squares, over the ranks are given."""
        pairs = zip(sums[::2], sums[1::2], strict=True)
        # Equality in Cauchy's inequality: all ranks have the same digit.
        if all(int(a) ** 2 == self.size * int(b) for a, b in pairs):
            return
        raise RuntimeError(
            "all ranks must multiply the same vectors; they have different ones. Seed "
            "generators alike, make the same calls in the same order on every rank, "
            "and let all have the same processor, torch and number of threads."
        )

    def _stopped(self, rank: int, words: str) -> str:
        return f"rank {rank} of {self.size} ({self._places[rank]}) stopped: {words}"

    @contextmanager
    def _exchange(self) -> Generator[None]:
        """Tell what it means if an exchange fails."""
        try:
            yield
        except RuntimeError as error:
            self._is_broken = True
            message = explained(
                error, _get_default_store(), self.rank, self.size, self._places
            )
            raise RuntimeError(message) from error


def tell_why(error: BaseException) -> None:
    """Leave the reason why this rank ends where the others look for it.

    Args:
        error: Why.
    """
    leave_word(_get_default_store(), dist.get_rank(), error)


def agreed_number(name: str, own: int, num_local: int) -> int:
    """Return what the rank that asks first divides among the processes of its host.

    Args:
        name: What it is.
        own: This host's.
        num_local: Processes on this host; 0 if unknown, which counts all ranks.

    Returns:
        The same number on every rank.
    """
    share = own // (num_local or dist.get_world_size())
    found = _get_default_store().compare_set(f"eigenscope/{name}", "", str(share))
    return int(found.decode())


def _digest(tensor: Tensor | None) -> list[float]:
    """Return digits of a tensor's bits, each with its square.

    Sums of either over thousands of ranks are exact in float32.
    """
    if tensor is None or not tensor.numel():
        return []
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().contiguous().view(kinds[tensor.element_size()])
    total = int(bits.sum(dtype=torch.int64)) + 7919 * tensor.shape[-1]
    digits = [total // _BASE**place % _BASE for place in range(_NUM_DIGITS)]
    return [float(power) for digit in digits for power in (digit, digit**2)]
