"""What the processes that share one piece of work do together: an interface."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import isqrt
from typing import TYPE_CHECKING, Literal, TypeVar, final

from typing_extensions import override

if TYPE_CHECKING:  # a run is read, and help printed, without torch
    from torch import Tensor

RanksChoice = Literal["all", "own"]
Value = TypeVar("Value")


class Ranks(ABC):
    """Processes 0 … size - 1 that make the same calls in the same order.

    An error on one of them is raised on all. What every rank holds after an exchange
    is the same to the last bit, so that all of them decide alike.

    Attributes:
        rank: Number of this process.
        size: How many there are.
    """

    rank: int
    size: int

    @property
    @final
    def is_first(self) -> bool:
        """Whether this is the process that writes records, draws and prints."""
        return self.rank == 0

    @final
    def share(self, count: int) -> range:
        """Return which of `count` consecutive things are this process's own.

        Args:
            count: How many there are, in all.

        Returns:
            ⌊count / size⌋ or one more of them; none where there are too few.
        """
        first = self.rank * count // self.size
        return range(first, (self.rank + 1) * count // self.size)

    @final
    def deal(self, items: Sequence[Value]) -> list[Value]:
        """Return which of some things, known alike to all ranks, are our own.

        Args:
            items: All of them.

        Returns:
            Consecutive ones.
        """
        own = self.share(len(items))
        return list(items[own.start : own.stop])

    @final
    def deal_pairs(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return our own of some pairs (row, column), known alike to all ranks.

        Ranks are laid out as a grid, so that each needs few rows and few columns.

        Args:
            pairs: All of them.

        Returns:
            Those in our own rows and columns, in order.
        """
        return [pair for pair in pairs if self._owner(pair) == self.rank]

    @final
    def most_pairs(self, pairs: Sequence[tuple[int, int]]) -> int:
        """Return how many of some pairs the busiest rank has.

        Args:
            pairs: All of them.

        Returns:
            Their number.
        """
        counts = Counter(map(self._owner, pairs))
        return max(counts.values(), default=0)

    def _owner(self, pair: tuple[int, int]) -> int:
        across = next(n for n in range(isqrt(self.size), 0, -1) if self.size % n == 0)
        return pair[0] % (self.size // across) * across + pair[1] % across

    @abstractmethod
    def sum_over_ranks(
        self, total: "Tensor", *, same: "Tensor | None" = None
    ) -> AbstractContextManager[None]:
        """Add up what a block leaves in `total` on every rank, in one exchange.

        Args:
            total: Written by the block; afterwards the sum, alike on all ranks.
            same: What all ranks were given alike, which is compared on the way.

        Returns:
            The context manager. If the block raises on one rank, all raise: that
            rank its own error, the others a RuntimeError with its message. The block
            makes no exchange of its own.
        """

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """Raise on all ranks what a block raises on one; wait until all are done.

        Returns:
            The context manager. The block makes no exchange of its own.
        """

    @abstractmethod
    def gather(self, value: Value) -> list[Value]:
        """Return every rank's value, in order.

        Args:
            value: A small one, of plain types or with tensors on the CPU.

        Returns:
            The values.
        """

    @abstractmethod
    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return what rank 0 makes; no other rank calls `make`.

        Args:
            make: Gives a small value, of plain types or with tensors on the CPU.

        Returns:
            The value. What `make` raises is raised on all ranks.
        """

    @abstractmethod
    def in_step(self, steps: Iterator[object], *, rounds: int) -> None:
        """Take one step on every rank at a time, until all are done.

        Between two steps an error or the end of another rank is noticed.

        Args:
            steps: Works when it is advanced, once for each of our own things.
            rounds: The most steps that any rank has.
        """


@final
class Alone(Ranks):
    """One process that shares nothing."""

    rank = 0
    size = 1

    @override
    def sum_over_ranks(
        self, total: "Tensor", *, same: "Tensor | None" = None
    ) -> AbstractContextManager[None]:
        return nullcontext()

    @override
    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    @override
    def gather(self, value: Value) -> list[Value]:
        return [value]

    @override
    def from_first(self, make: Callable[[], Value]) -> Value:
        return make()

    @override
    def in_step(self, steps: Iterator[object], *, rounds: int) -> None:
        for _ in steps:
            pass


ALONE = Alone()
