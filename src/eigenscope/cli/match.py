"""`eigenscope match`: layers' spectra against the full one, through training."""

import json
import re

from eigenscope.cli.options import MatchOptions
from eigenscope.cli.tables import terminal_table
from eigenscope.experiments.matching import match_runs, run_folders
from eigenscope.report.matching import (
    MATCH_HEADER,
    match_rows,
    require_no_run,
    write_match,
)


def run_match(options: MatchOptions) -> None:
    """Compute the distances, draw, and print."""
    require_no_run(options.out)
    folders = run_folders(options.runs)
    matches = match_runs(options.runs, memory=options.memory)
    written = write_match(
        matches,
        folders,
        options.out,
        scaling=options.scale,
        animate=options.animate,
    )
    rows = match_rows(matches, options.scale)
    if options.json:
        keys = [re.sub(r"\W+", "_", n.replace("/", "over")) for n in MATCH_HEADER]
        found = [dict(zip(keys, row, strict=True)) for row in rows]
        files = [str(path) for path in written]
        print(json.dumps({"runs": found, "files": files}, indent=2))
        return
    print(terminal_table(MATCH_HEADER, rows))
    for path in written:
        print(path)
