"""Times, counts and tables of plans as people read them."""

from collections.abc import Sequence
from typing import Final

SHORTEST: Final = 0.1
"""Seconds below which a plan says no more than that."""
_SCALES: Final = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def format_seconds(seconds: float) -> str:
    """Return a time as people say it; of short ones only that they are.

    Args:
        seconds: At least 0.

    Returns:
        Tenths of a second to days.

    Example:
        >>> ", ".join(map(format_seconds, (0.0123, 4.56, 75, 7300, 200000)))
        '< 0.1 s, 4.6 s, 1 min 15 s, 2 h 1 min, 2 d 7 h'
    """
    if seconds < SHORTEST:
        return f"< {SHORTEST} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    place = next(i for i, (size, _) in enumerate(units) if whole >= size)
    (large, name), (small, next_name) = units[place : place + 2]
    rest = whole % large // small
    return f"{whole // large} {name}" + (f" {rest} {next_name}" if rest else "")


def format_count(count: float) -> str:
    """Return a large number with two digits and a letter.

    Args:
        count: At least 0.

    Returns:
        Such as "1.2 G"; a dash for none.

    Example:
        >>> format_count(1234567890), format_count(99999), format_count(0)
        ('1.2 G', '0.1 M', '–')
    """
    if not count:
        return "–"
    scale, letter = next((one for one in _SCALES if count >= one[0]), _SCALES[-1])
    scaled = max(0.1, count / scale)
    return f"{scaled:.0f} {letter}" if scaled >= 10 else f"{scaled:.1f} {letter}"


def format_passes(passes: float, forward: float, backward: float) -> str:
    """Return how often the whole data goes forward and backward.

    Args:
        passes: Passes over the data.
        forward: Forward passes of one sample.
        backward: Backward passes of one sample.

    Returns:
        Such as "1 + 10": one forward and ten backward passes of every sample.

    Example:
        >>> format_passes(1, 50, 500), format_passes(0, 0, 0)
        ('1 + 10', '–')
    """
    if not forward or not passes:
        return "–"
    return f"{passes:.4g} + {backward * passes / forward:.4g}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its first column to the left, others to the right.

    Args:
        rows: Cells, all rows of one length.

    Returns:
        One line for each row.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
