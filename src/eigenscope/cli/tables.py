"""Numbers and tables as text on a terminal."""

import shutil
import sys
from collections.abc import Sequence


def formatted(value: object) -> str:
    """Return a number with four significant digits, or a dash for a missing one."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def terminal_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with one row for each of `rows`, or one column if too wide.

    Args:
        header: Names of the columns.
        rows: The cells.

    Returns:
        Lines joined by newlines; on a terminal as wide as that if they can be.
    """
    upright = table(header, rows)
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(upright.splitlines()[1]) <= width:
        return upright
    first, *others = zip(header, *rows, strict=True)
    return table([str(name) for name in first], others)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with aligned columns, text to the left and numbers to the right.

    Args:
        header: Names of the columns.
        rows: The cells.

    Returns:
        Lines joined by newlines.
    """
    cells = [list(header), *[[formatted(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [
        any(isinstance(row[i], (int, float, type(None))) for row in rows)
        for i in range(len(header))
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(lines)
