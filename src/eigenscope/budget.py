"""Memory budgets in bytes, and the number of rows that fit one."""

import re
from pathlib import Path
from typing import Final, final

import psutil

from eigenscope.distributed import agreed_bytes

AVAILABLE_FRACTION: Final = 0.5

_SYSTEM_ROOT: Final = Path("/")
_UNITS: Final = {"b": 1} | {
    prefix.lower() + suffix: base**power
    for power, prefix in enumerate(("k", "M", "G", "T", "P"), start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


@final
class Share(int):
    """One of equal parts of a budget, in bytes; what is advised is of the whole.

    Attributes:
        parts: How many there are.
    """

    parts: int

    @classmethod
    def of(cls, memory: str | int | None, parts: int) -> "Share":
        """Return each one's part of a budget that several use at one time.

        Args:
            memory: The budget, as `resolve` takes it.
            parts: How many use it.

        Returns:
            The part.

        Raises:
            ValueError: As `resolve`.
        """
        made = cls(max(1, resolve(memory) // parts))
        made.parts = parts
        return made


def parse_bytes(size: str | int) -> int:
    """Number of bytes that a size such as "4GiB", "500 MB" or 123 means.

    kB, MB, GB, TB, PB are powers of 1000; KiB, MiB, GiB, TiB, PiB powers of 1024.
    Upper and lower case are the same; no unit means bytes; fractions round down.

    Args:
        size: The size, as text or in bytes.

    Returns:
        The bytes, at least 1.

    Raises:
        ValueError: If the text is no size, its unit is unknown, or it is below 1 byte.

    Example:
        >>> parse_bytes("1.5GiB"), parse_bytes("500 MB"), parse_bytes(123)
        (1610612736, 500000000, 123)
    """
    match = _SIZE.fullmatch(str(size))
    unit = _UNITS.get(match[2].lower() or "b") if match else None
    if match is None or unit is None:
        raise ValueError(
            "a memory size must be a number of bytes or a number with a unit "
            f"(B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB); got {size!r}; "
            "write for example 4GiB."
        )
    whole, _, fraction = match[1].partition(".")
    count = int(whole + fraction) * unit // 10 ** len(fraction)
    if count < 1:
        raise ValueError(f"a memory size must be at least 1 byte; got {size!r}.")
    return count


def format_bytes(num_bytes: int) -> str:
    """Text for a number of bytes in the largest binary unit that it reaches.

    Args:
        num_bytes: The bytes, at least 0.

    Returns:
        One decimal and a unit that `parse_bytes` reads, whole bytes below 1 KiB.

    Example:
        >>> format_bytes(1610612736), format_bytes(1000)
        ('1.5 GiB', '1000 B')
    """
    if num_bytes < 1024:
        return f"{num_bytes} B"
    size, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        # What would print as 1024.0 of a unit is 1.0 of the next.
        if round(size, 1) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}"


def available_memory() -> int:
    """Bytes that new allocations can take without swapping or a container's limit.

    The lower of what the machine has left and what every enclosing control group
    (version 1 or 2) has left; file caches that the kernel would drop count as free.

    Returns:
        The bytes, at least 0.

    Cost:
        A few small system files.

    Example:
        >>> available_memory() > 0
        True
    """
    return min([psutil.virtual_memory().available, *_group_headrooms(_SYSTEM_ROOT)])


def resolve(memory: str | int | None) -> int:
    """Bytes of a memory budget: as given, or half of what is available.

    Of each process, where ranks share the work: half of a host's memory is divided
    among them once, and is the same on all.

    Args:
        memory: A size as `parse_bytes` reads it; `AVAILABLE_FRACTION` of
            `available_memory()` if None.

    Returns:
        The budget in bytes.

    Raises:
        ValueError: If it is not a size, or nothing is available.

    Example:
        >>> resolve("2MiB")
        2097152
    """
    if memory is not None:
        return parse_bytes(memory)
    budget = agreed_bytes(int(available_memory() * AVAILABLE_FRACTION))
    if budget < 1:
        raise ValueError(
            "a default memory budget needs available memory, and there is none left; "
            "free some, or state the budget, for example memory='1GiB'."
        )
    return budget


def require_fits(
    needed: int, memory: str | int | None, *, what: str, way_out: str
) -> int:
    """Raise, before any work, unless a number of bytes fits a memory budget.

    Args:
        needed: The bytes.
        memory: The budget, as `resolve` takes it.
        what: What needs them, the subject of the message.
        way_out: What helps beside a larger budget.

    Returns:
        The budget in bytes.

    Raises:
        ValueError: If it does not fit.
    """
    budget = resolve(memory)
    if needed > budget:
        parts = memory.parts if isinstance(memory, Share) else 1
        most = f"the memory budget of {format_bytes(budget)}"
        if parts > 1:
            most = (
                f"{format_bytes(budget)}, its share (1 of {parts}) of the memory budget"
            )
        whole = parts * needed
        raise ValueError(
            f"{what} must fit {most}; {format_bytes(needed)} are needed. Give more "
            f"with memory={whole} (--memory {whole}) or above, {way_out}."
        )
    return budget


def require_free(
    needed: int, memory: str | int | None, *, what: str, way_out: str
) -> None:
    """Raise, before any work, unless bytes fit a stated budget, else what is free.

    Where nothing is stated, half of what is free is no reason to refuse what the user
    has asked for by name; what is more than free cannot be had.

    Args:
        needed: The bytes.
        memory: The budget; None for all that is available, of each process.
        what: What needs them, the subject of the message.
        way_out: What helps beside more memory.

    Raises:
        ValueError: If it does not fit.
    """
    if memory is not None:
        require_fits(needed, memory, what=what, way_out=way_out)
        return
    free = int(resolve(None) / AVAILABLE_FRACTION)
    if needed > free:
        raise ValueError(
            f"{what} must fit what is free, {format_bytes(free)}; "
            f"{format_bytes(needed)} are needed. Free more, {way_out}."
        )


def rows_within(
    budget: int, bytes_per_row: int, *, minimum: int = 1, multiple_of: int = 1
) -> int:
    """Largest r ≥ minimum with r · bytes_per_row ≤ budget and multiple_of | r.

    Args:
        budget: The bytes to spend.
        bytes_per_row: What one row takes, all working copies included, at least 1.
        minimum: The fewest rows that are of use.
        multiple_of: The rows come in groups of this many.

    Returns:
        The number of rows.

    Raises:
        ValueError: If not even the fewest rows fit.

    Example:
        >>> rows_within(1000, 30, multiple_of=8)
        32
    """
    rows = budget // bytes_per_row // multiple_of * multiple_of
    fewest = -(-minimum // multiple_of) * multiple_of
    if rows < fewest:
        needed = fewest * bytes_per_row
        raise ValueError(
            f"the memory budget must hold at least {_counted(fewest, 'row')} of "
            f"{format_bytes(bytes_per_row)}, {format_bytes(needed)} ({needed} bytes) "
            f"together; got {format_bytes(budget)} ({budget} bytes); give more with "
            f"memory={needed} (--memory {needed}) or above, "
            "or make the rows smaller (fewer samples, outputs or inputs)."
        )
    return rows


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _group_headrooms(root: Path) -> list[int]:
    # Bytes left in each control group around this process that has a limit.
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux, or hidden
        return []
    headrooms: list[int | None] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
            files = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            files = (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        inner = mount / group.lstrip("/")
        for folder in (inner, *inner.parents):
            headrooms.append(_headroom(folder, *files))
            if folder == mount:
                break
    return [headroom for headroom in headrooms if headroom is not None]


def _headroom(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    # Limit − usage + file cache that the kernel would drop; None if unlimited.
    try:
        allowed = int((folder / limit).read_text())
        used = int((folder / usage).read_text())
        statistics = (folder / "memory.stat").read_text().split()
    except (OSError, ValueError):  # no such group, or the limit is the word "max"
        return None
    droppable = dict(zip(statistics[::2], statistics[1::2], strict=True)).get(cache)
    return max(0, allowed - used + int(droppable or 0))
