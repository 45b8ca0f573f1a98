"""What a call will cost, as tables that can be read, added up and compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

from eigenscope._types import JsonValue
from eigenscope.budget import format_bytes, resolve
from eigenscope.planning.words import (
    aligned,
    format_count,
    format_passes,
    format_seconds,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A way that was not chosen.

    Attributes:
        method: Its name, as the option of the call spells it.
        flops: Multiplications and additions.
        peak_bytes: The most memory at one time.
        seconds: Estimated time.
        reason: Why it was not chosen.
    """

    method: str
    flops: float
    peak_bytes: int
    seconds: float
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One part of a call that has a cost of its own.

    Attributes:
        name: What is done.
        method: How.
        reason: Why so.
        passes: Passes over the whole data.
        forward: Forward passes of one sample.
        backward: Backward passes of one sample.
        flops: Multiplications and additions.
        device_bytes: The most memory on the model's device at one time, results
            included, beside the model and the data.
        host_bytes: The same in main memory; equal on a CPU, where both are one.
        disk_bytes: What is written.
        seconds: Estimated time.
        at_most: Time if everything that may be needed is; `seconds` where it is known.
        is_shared: Whether ranks divide the work among them.
        most_samples: The most samples whose memory is within the budget, where all of
            them are not.
    """

    name: str
    method: str
    reason: str = ""
    passes: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    flops: float = 0.0
    device_bytes: int = 0
    host_bytes: int = 0
    disk_bytes: int = 0
    seconds: float = 0.0
    at_most: float | None = None
    is_shared: bool = False
    most_samples: int | None = None

    def times(self, count: float) -> "Step":
        """Return the step done several times, one after the other."""
        counted = ("passes", "forward", "backward", "flops", "seconds")
        changed: dict[str, Any] = {n: getattr(self, n) * count for n in counted}
        if self.at_most is not None:
            changed["at_most"] = self.at_most * count
        return replace(self, disk_bytes=round(self.disk_bytes * count), **changed)

    def among(self, ranks: int) -> "Step":
        """Return what one of some ranks does of the step."""
        if not self.is_shared or ranks == 1:
            return self
        one = self.times(1 / ranks)
        return replace(one, passes=self.passes, disk_bytes=self.disk_bytes)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a call will do and cost; made by `es.plan`, or `eigenscope plan`.

    Memory is the peak over the steps, everything else their sum. Seconds come from a
    rehearsal on the first samples on this machine, so they hold for this machine.

    Attributes:
        operation: The call.
        steps: Its parts, in order.
        alternatives: Ways that were not chosen.
        budget: Bytes that the call may take.
        rehearsed_samples: Samples of the largest rehearsal.
        rehearsal_seconds: What the plan itself took.

    Example:
        >>> work = Step(name="rows", method="backward passes", seconds=2.0, flops=1e9)
        >>> solve = Step(name="eigenvalues", method="evr", seconds=1.0, host_bytes=800)
        >>> made = Plan(operation="demo", steps=(work, solve), budget=1000)
        >>> made.seconds, made.host_bytes, made.fits
        (3.0, 800, True)
    """

    operation: str
    steps: tuple[Step, ...]
    alternatives: tuple[Alternative, ...] = ()
    budget: int
    rehearsed_samples: int = 0
    rehearsal_seconds: float = 0.0
    remarks: tuple[str, ...] = field(default=())

    @classmethod
    def joined(
        cls,
        operation: str,
        parts: Sequence["Plan | Step"],
        *,
        memory: str | int | None = None,
    ) -> "Plan":
        """Return the plan of several calls, one after the other.

        Args:
            operation: What they are together.
            parts: Plans and steps.
            memory: Budget of all, such as "4GiB"; the least of the parts' if None.

        Returns:
            Their steps in order.
        """
        plans = [part for part in parts if isinstance(part, Plan)]
        steps: list[Step] = []
        for part in parts:
            steps += part.steps if isinstance(part, Plan) else [part]
        others = (other for own in plans for other in own.alternatives)
        remarks = (remark for own in plans for remark in own.remarks)
        least = min((own.budget for own in plans), default=resolve(None))
        return cls(
            operation=operation,
            steps=tuple(steps),
            alternatives=tuple(dict.fromkeys(others)),
            budget=resolve(memory) if memory is not None else least,
            rehearsed_samples=max((own.rehearsed_samples for own in plans), default=0),
            rehearsal_seconds=sum(own.rehearsal_seconds for own in plans),
            remarks=tuple(dict.fromkeys(remarks)),
        )

    def times(self, count: float) -> "Plan":
        """Return the plan of the same call made several times, one after the other."""
        return replace(self, steps=tuple(step.times(count) for step in self.steps))

    def among(self, ranks: int) -> "Plan":
        """Return what one of some ranks does, each on a machine like this one.

        What ranks say to each other is not counted.
        """
        return replace(self, steps=tuple(step.among(ranks) for step in self.steps))

    def merged(self, name: str) -> "Plan":
        """Return the plan with one step in place of all."""
        one = Step(
            name=name,
            method=self.method,
            reason=self.reason,
            passes=self.passes,
            forward=self.forward,
            backward=self.backward,
            flops=self.flops,
            device_bytes=self.device_bytes,
            host_bytes=self.host_bytes,
            disk_bytes=self.disk_bytes,
            seconds=self.seconds,
            at_most=self.at_most,
            is_shared=all(step.is_shared for step in self.steps),
            most_samples=self.most_samples,
        )
        return replace(self, steps=(one,))

    def named(self, prefix: str) -> "Plan":
        """Return the same plan with the steps' names behind a prefix."""
        steps = (replace(step, name=f"{prefix}: {step.name}") for step in self.steps)
        return replace(self, steps=tuple(steps))

    @property
    def method(self) -> str:
        """How each step is done."""
        return ", ".join(dict.fromkeys(step.method for step in self.steps))

    @property
    def reason(self) -> str:
        """Why the methods were chosen."""
        said = dict.fromkeys(step.reason for step in self.steps if step.reason)
        return "; ".join(said)

    @property
    def passes(self) -> float:
        """Passes over the whole data."""
        return sum(step.passes for step in self.steps)

    @property
    def forward(self) -> float:
        """Forward passes of one sample."""
        return sum(step.forward for step in self.steps)

    @property
    def backward(self) -> float:
        """Backward passes of one sample."""
        return sum(step.backward for step in self.steps)

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return sum(step.flops for step in self.steps)

    @property
    def device_bytes(self) -> int:
        """The most memory on the model's device at one time."""
        return max((step.device_bytes for step in self.steps), default=0)

    @property
    def host_bytes(self) -> int:
        """The most main memory at one time."""
        return max((step.host_bytes for step in self.steps), default=0)

    @property
    def disk_bytes(self) -> int:
        """What is written to disk."""
        return sum(step.disk_bytes for step in self.steps)

    @property
    def seconds(self) -> float:
        """Estimated time."""
        return sum(step.seconds for step in self.steps)

    @property
    def at_most(self) -> float:
        """Time if estimates take all the products that they may."""
        return sum(
            step.seconds if step.at_most is None else step.at_most
            for step in self.steps
        )

    @property
    def fits(self) -> bool:
        """Whether the memory is within the budget."""
        return max(self.device_bytes, self.host_bytes) <= self.budget

    @property
    def most_samples(self) -> int | None:
        """The most samples that fit, where the step that limits them knows."""
        known = [s.most_samples for s in self.steps if s.most_samples is not None]
        return min(known, default=None)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the plan as plain JSON values, sums included."""
        summed = ("passes", "forward", "backward", "flops", "seconds", "at_most")
        peaks = ("device_bytes", "host_bytes", "disk_bytes", "fits", "method")
        return asdict(self) | {name: getattr(self, name) for name in (*summed, *peaks)}

    def header(self) -> list[str]:
        """Return the names of the columns of `rows`."""
        memory = ["device", "host"] if self._has_two_memories() else ["memory"]
        return ["step", "passes", "flops", *memory, "disk", "time"]

    def rows(self) -> list[list[str]]:
        """Return the cells of a table: one row for each step, and one of sums."""
        rows = [self._cells(step) for step in self.steps]
        if len(rows) > 1:
            rows.append(self._cells(self.merged("together").steps[0]))
        return rows

    def notes(self) -> list[str]:
        """Return what the table doesn't say: methods, other ways, and what fits."""
        said: dict[str, list[str]] = {}
        for step in self.steps:
            why = f": {step.reason}" if step.reason else ""
            said.setdefault(f"{step.method}{why}", []).append(step.name)
        lines = [f"{_listed(names)}: {how}" for how, names in said.items()]
        lines += [
            f"not {other.method}: {other.reason} ({format_seconds(other.seconds)}, "
            f"{format_bytes(other.peak_bytes)})"
            for other in self.alternatives
        ]
        if self.at_most > 1.01 * self.seconds:
            lines.append(f"at most {format_seconds(self.at_most)} if estimates need it")
        return [*lines, *self.remarks, *self._verdict()]

    def __str__(self) -> str:
        """Return a table of the steps, and what else was possible."""
        table = aligned([self.header(), *self.rows()])
        return "\n".join([f"plan of {self.operation}", *table, *self.notes()])

    def _has_two_memories(self) -> bool:
        return any(step.device_bytes not in {0, step.host_bytes} for step in self.steps)

    def _cells(self, step: Step) -> list[str]:
        memory = [format_bytes(step.host_bytes)]
        if self._has_two_memories():
            memory.insert(0, format_bytes(step.device_bytes))
        return [
            step.name,
            format_passes(step.passes, step.forward, step.backward),
            format_count(step.flops),
            *memory,
            format_bytes(step.disk_bytes) if step.disk_bytes else "–",
            format_seconds(step.seconds),
        ]

    def _verdict(self) -> list[str]:
        """Say whether the memory fits, and if not, what would."""
        needed = max(self.device_bytes, self.host_bytes)
        peak, budget = format_bytes(needed), format_bytes(self.budget)
        if self.fits:
            return [f"fits: {peak} of the memory budget of {budget}"]
        lines = [f"does not fit: {peak} exceed the memory budget of {budget}"]
        if self.most_samples is not None:
            count = self.most_samples
            lines.append(f"  take at most {count} samples (--num-samples {count})")
        more = format_bytes(round(1.05 * needed))
        lines.append(f"  or give more (--memory {more.replace(' ', '')}, memory=)")
        return lines


def _listed(names: Sequence[str]) -> str:
    """Return some names, the first two of many."""
    if len(names) <= 3:
        return " / ".join(names)
    return f"{names[0]} / {names[1]} and {len(names) - 2} more"
