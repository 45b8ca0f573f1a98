"""`eigenscope ntk`: from a model and a data set to a run of kernels with figures."""

import json
from pathlib import Path
from typing import cast

from eigenscope._types import JsonValue
from eigenscope.cli.options import NTKOptions
from eigenscope.cli.problems import NamedProblem, problem_of
from eigenscope.cli.runs import carry_out
from eigenscope.cli.tables import terminal_table
from eigenscope.distributed import own_rank
from eigenscope.experiments import (
    KernelPlan,
    load_kernel_results,
    prepare_kernels,
    run_kernels,
)
from eigenscope.report.kernels import KERNEL_HEADER, kernel_rows, write_kernel_page
from eigenscope.store import Run

_VERB = "ntk"


def run_ntk(options: NTKOptions) -> None:
    """Compute, draw and print the kernels that the options ask for."""
    plan = kernel_plan_of(options)

    def prepare(run: Run | None) -> NamedProblem:
        named = problem_of(options, output=options.output)
        prepare_kernels(named.problem, plan, run=run)
        return named

    def compute(run: Run, named: NamedProblem) -> Path:
        run.record_result("class_names", cast("JsonValue", named.class_names))
        run_kernels(run, named.problem, plan)
        return run.ranks.from_first(lambda: write_kernel_page(run))

    _, page = carry_out(options, verb=_VERB, prepare=prepare, compute=compute)
    print_kernels(Run.open(options.out), page, as_json=options.json)


def print_kernels(run: Run, page: Path, *, as_json: bool) -> None:
    """Print what a run of kernels has found and where it is."""
    if own_rank():
        return
    if as_json:
        summary = {"run": str(run.path), "page": str(page), **run.results}
        print(json.dumps(summary, indent=2))
        return
    results = load_kernel_results(run)
    print(terminal_table(KERNEL_HEADER, kernel_rows(results)))
    if results.shares:
        rows = [(n, f"{100 * share:.3g} %") for n, share in results.shares.items()]
        print(terminal_table(("parameter", "share of the trace"), rows))
    aligned = run.results.get("tangent_conjugate_alignment")
    if isinstance(aligned, float):
        print(f"alignment of tangent and conjugate kernel: {aligned:.4f}")
    for result in results.kernels:
        for rule, note in result.notes.items():
            print(f"no {rule} fit for {result.kind}: {note}")
    print(f"run:     {run.path}\nfigures: {run.path / 'figures'}\npage:    {page}")


def kernel_plan_of(options: NTKOptions) -> KernelPlan:
    """Return what the options ask to be computed."""
    return KernelPlan(
        kernels=options.kernel,
        components=None if options.components == "none" else options.components,
        layer=options.layer,
        method=options.method,
        num_replicas=options.replicas,
        seed=options.seed,
        memory=options.memory,
    )
