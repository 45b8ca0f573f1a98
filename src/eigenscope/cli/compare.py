"""`eigenscope compare`: several runs in one table and one figure."""

import json

from eigenscope.cli.options import CompareOptions
from eigenscope.cli.tables import terminal_table
from eigenscope.report.comparison import (
    HEADER,
    KEYS,
    read_comparison,
    write_comparison,
)
from eigenscope.report.training_numbers import TRAININGS_HEADER
from eigenscope.report.trainings import (
    are_trainings,
    read_trainings,
    write_trainings,
)


def run_compare(options: CompareOptions) -> None:
    """Read the runs, draw, and print."""
    if options.runs and are_trainings(options.runs):
        _compare_trainings(options)
        return
    comparison = read_comparison(
        options.runs,
        output=options.output,
        layout=options.layout,
        memory=options.memory,
    )
    title = f"Jacobian spectra, {options.output}, layout “{options.layout}”"
    page = write_comparison(comparison, options.out, title=title)
    rows = comparison.rows()
    if options.json:
        entries = [dict(zip(KEYS, row, strict=True)) for row in rows]
        print(json.dumps({"page": str(page), "runs": entries}, indent=2))
        return
    print(terminal_table(HEADER, rows))
    print(f"figure: {options.out / 'comparison.png'}")
    print(f"table:  {options.out / 'comparison.csv'}\npage:   {page}")


def _compare_trainings(options: CompareOptions) -> None:
    trainings = read_trainings(options.runs, memory=options.memory)
    written = write_trainings(trainings, options.out)
    rows = [training.row() for training in trainings]
    if options.json:
        entries = [dict(zip(TRAININGS_HEADER, row, strict=True)) for row in rows]
        files = [str(path) for path in written]
        print(json.dumps({"runs": entries, "files": files}, indent=2))
        return
    print(terminal_table(TRAININGS_HEADER, rows))
    for path in written:
        print(path)
