"""Tables as CSV files that spreadsheets take for data."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eigenscope.store import write_atomically

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # how spreadsheets' formulas begin


def write_csv(
    path: Path, header: Sequence[object], rows: Sequence[Sequence[object]]
) -> Path:
    """Write a table; a text that a spreadsheet would compute gets a leading '.

    Args:
        path: The file; replaced if it is there.
        header: Names of the columns.
        rows: Their cells: numbers, None, or text such as names of runs and layers.

    Returns:
        The file.
    """
    text = io.StringIO()
    csv.writer(text).writerows([header, *map(_inert, rows)])
    write_atomically(path, text.getvalue())
    return path


def _inert(row: Sequence[object]) -> list[object]:
    return [
        f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
        for cell in row
    ]
