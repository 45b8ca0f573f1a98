"""`eigenscope demo`: from nothing to figures, on data that comes with the package."""

import json

from eigenscope.cli.options import DemoOptions
from eigenscope.cli.tables import terminal_table
from eigenscope.experiments.demo import DemoPlan
from eigenscope.experiments.demo import run_demo as compute
from eigenscope.report.comparison import HEADER, read_comparison
from eigenscope.report.demo import write_demo_page


def run_demo(options: DemoOptions) -> None:
    """Train, compute, draw and print where everything is."""
    plan = DemoPlan(epochs=options.epochs, seed=options.seed, memory=options.memory)
    runs = compute(options.out, plan)
    page, image = write_demo_page(runs, options.out)
    paths = [run.path for run in runs.values()]
    comparison = read_comparison(paths, output="logits", layout="samples")
    if options.json:
        found = {name: dict(run.results) for name, run in runs.items()}
        print(json.dumps({"page": str(page), "figure": str(image), "runs": found}))
        return
    print(terminal_table(HEADER, comparison.rows()))
    print(f"figure: {image}\npage:   {page}")
    for path in paths:
        print(f"run:    {path}")
