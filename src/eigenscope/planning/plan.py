"""What a call will cost, as tables that can be read, added up and compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import final

from eigenscope._types import JsonValue
from eigenscope.budget import format_bytes


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
    def joined(cls, operation: str, parts: Sequence["Plan | Step"]) -> "Plan":
        """Return the plan of several calls, one after the other.

        Args:
            operation: What they are together.
            parts: Plans and steps, at least one of them a plan.

        Returns:
            Their steps in order.
        """
        plans = [part for part in parts if isinstance(part, Plan)]
        steps: list[Step] = []
        for part in parts:
            steps += part.steps if isinstance(part, Plan) else [part]
        return cls(
            operation=operation,
            steps=tuple(steps),
            alternatives=tuple(other for own in plans for other in own.alternatives),
            budget=min(own.budget for own in plans),
            rehearsed_samples=max(own.rehearsed_samples for own in plans),
            rehearsal_seconds=sum(own.rehearsal_seconds for own in plans),
            remarks=tuple(remark for own in plans for remark in own.remarks),
        )

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
        return max(step.device_bytes for step in self.steps)

    @property
    def host_bytes(self) -> int:
        """The most main memory at one time."""
        return max(step.host_bytes for step in self.steps)

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

    def to_json(self) -> dict[str, JsonValue]:
        """Return the plan as plain JSON values, sums included."""
        summed = ("passes", "forward", "backward", "flops", "seconds", "at_most")
        peaks = ("device_bytes", "host_bytes", "disk_bytes", "fits", "method")
        return asdict(self) | {name: getattr(self, name) for name in (*summed, *peaks)}

    def rows(self) -> list[list[str]]:
        """Return the cells of a table: one row for each step, and one of sums."""
        return [
            *([*_cells(step), step.method] for step in self.steps),
            [*_cells(self, name="together"), "fits" if self.fits else "too large"],
        ]

    def notes(self) -> list[str]:
        """Return what the table doesn't say: reasons, other ways, and what fits."""
        lines = [f"{step.name}: {step.reason}" for step in self.steps if step.reason]
        lines += [
            f"not {other.method}: {other.reason} ({format_seconds(other.seconds)}, "
            f"{format_bytes(other.peak_bytes)})"
            for other in self.alternatives
        ]
        if self.at_most > 1.01 * self.seconds:
            lines.append(f"at most {format_seconds(self.at_most)} if estimates need it")
        lines += self.remarks
        verdict = "is within" if self.fits else "exceeds"
        peak = format_bytes(max(self.device_bytes, self.host_bytes))
        lines.append(f"{peak} {verdict} the budget of {format_bytes(self.budget)}")
        return lines

    def __str__(self) -> str:
        """Return a table of the steps, and what else was possible."""
        table = _aligned([list(HEADER), *self.rows()])
        return "\n".join([f"plan of {self.operation}", *table, *self.notes()])


HEADER = ("step", "passes", "flops", "device", "host", "disk", "time", "method")


def format_seconds(seconds: float) -> str:
    """Return a time as people say it.

    Args:
        seconds: At least 0.

    Returns:
        Milliseconds to days.

    Example:
        >>> ", ".join(map(format_seconds, (0.0123, 4.56, 75, 7300, 200000)))
        '12 ms, 4.6 s, 1 min 15 s, 2 h 1 min, 2 d 7 h'
    """
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    place = next(i for i, (size, _) in enumerate(units) if whole >= size)
    (large, name), (small, next_name) = units[place : place + 2]
    rest = whole % large // small
    return f"{whole // large} {name}" + (f" {rest} {next_name}" if rest else "")


def _cells(costs: Step | Plan, name: str = "") -> list[str]:
    return [
        name or costs.name,  # pyright: ignore[reportAttributeAccessIssue]
        f"{costs.passes:.3g}",
        f"{costs.flops:.2g}",
        format_bytes(costs.device_bytes),
        format_bytes(costs.host_bytes),
        format_bytes(costs.disk_bytes),
        format_seconds(costs.seconds),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if 0 < place < len(row) - 1 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
