"""`eigenscope report`: runs of any kind on one interactive page."""

import json

from eigenscope.cli.options import ReportOptions
from eigenscope.report import write_report


def run_report(options: ReportOptions) -> None:
    """Read the runs, write the page, and say where it is and what is missing."""
    contents = write_report(
        options.runs, options.out, title=options.title, memory=options.memory
    )
    size = options.out.stat().st_size
    if options.json:
        said = {
            "report": str(options.out),
            "bytes": size,
            "runs": {label: str(run.path) for label, run in contents.runs.items()},
            "notes": contents.notes,
        }
        print(json.dumps(said, indent=2))
        return
    for note in contents.notes:
        print(f"note:   {note}")
    print(f"report: {options.out} ({size / 1e6:.1f} MB, opens without network)")
