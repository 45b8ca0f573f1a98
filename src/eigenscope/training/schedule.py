"""When to measure: every so many epochs or steps, or at chosen ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from eigenscope._types import JsonValue


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which epochs or steps are measured; whoever calls the recorder counts them.

    Attributes:
        interval: Every multiple of it is measured; None for chosen numbers only.
        numbers: Chosen numbers, ascending.

    Example:
        >>> Schedule.every(3).is_due(6), Schedule.every(3).is_due(7)
        (True, False)
        >>> Schedule.log_spaced(1000, 4).numbers
        (0, 1, 10, 100, 1000)
    """

    interval: int | None = None
    numbers: tuple[int, ...] = ()

    @classmethod
    def every(cls, interval: int) -> "Schedule":
        """Return a schedule of 0 and every multiple of a number.

        Args:
            interval: At least 1.

        Returns:
            The schedule.

        Raises:
            ValueError: If `interval` is less than 1.
        """
        if interval < 1:
            raise ValueError(f"interval must be at least 1; got {interval}.")
        return cls(interval=interval)

    @classmethod
    def at(cls, numbers: Iterable[int]) -> "Schedule":
        """Return a schedule of chosen numbers.

        Args:
            numbers: At least 0 each, in any order.

        Returns:
            The schedule.

        Raises:
            ValueError: If there is none, or a negative one.
        """
        chosen = tuple(sorted({int(number) for number in numbers}))
        if not chosen or chosen[0] < 0:
            raise ValueError(
                "a schedule needs at least one number, and none below 0; got "
                f"{list(chosen) or 'none'}."
            )
        return cls(numbers=chosen)

    @classmethod
    def log_spaced(cls, last: int, count: int) -> "Schedule":
        """Return 0 and about `count` numbers from 1 to `last` in equal ratios.

        Args:
            last: The last number, at least 1.
            count: How many from 1 on, at least 2; equal ones after rounding are one.

        Returns:
            The schedule.

        Raises:
            ValueError: If an argument is too small.
        """
        if last < 1 or count < 2:
            raise ValueError(
                f"last must be at least 1 and count at least 2; got last={last} and "
                f"count={count}."
            )
        spaced = np.rint(np.geomspace(1, last, count)).astype(int)
        return cls.at([0, *spaced.tolist()])

    def is_due(self, number: int) -> bool:
        """Return whether an epoch or step is to be measured."""
        if self.interval is not None:
            return number % self.interval == 0
        return number in self.numbers

    def to_json(self) -> dict[str, JsonValue]:
        """Return the schedule as plain JSON values."""
        return {"interval": self.interval, "numbers": list(self.numbers)}
