"""`eigenscope jacobian`: from a model and a data set to a run with figures."""

import json
from pathlib import Path
from typing import cast

from eigenscope._types import JsonValue
from eigenscope.cli.options import JacobianOptions
from eigenscope.cli.problems import NamedProblem, problem_of
from eigenscope.cli.runs import carry_out
from eigenscope.cli.tables import terminal_table
from eigenscope.distributed import own_rank
from eigenscope.experiments import (
    JacobianPlan,
    load_jacobian_results,
    prepare_jacobian,
    run_jacobian_spectra,
)
from eigenscope.operators import InputJacobian
from eigenscope.report.jacobian import HEADER, spectrum_rows, write_jacobian_page
from eigenscope.store import Run

_VERB = "jacobian"


def run_jacobian(options: JacobianOptions) -> None:
    """Compute, draw and print the spectra that the options ask for."""
    plan = jacobian_plan_of(options)

    def prepare(run: Run | None) -> tuple[NamedProblem, InputJacobian]:
        named = problem_of(options)
        return named, prepare_jacobian(named.problem, plan, run=run)

    def compute(run: Run, prepared: tuple[NamedProblem, InputJacobian]) -> Path:
        named, jacobian = prepared
        run.record_result("class_names", cast("JsonValue", named.class_names))
        run_jacobian_spectra(run, named.problem, plan, jacobian=jacobian)
        return run.ranks.from_first(lambda: write_jacobian_page(run))

    _, page = carry_out(options, verb=_VERB, prepare=prepare, compute=compute)
    print_run(Run.open(options.out), page, as_json=options.json)


def print_run(run: Run, page: Path, *, as_json: bool) -> None:
    """Print what a run of Jacobian spectra has found and where it is."""
    if own_rank():
        return
    if as_json:
        summary = {"run": str(run.path), "page": str(page), **run.results}
        print(json.dumps(summary, indent=2))
        return
    results = load_jacobian_results(run)
    print(terminal_table(HEADER, spectrum_rows(results)))
    accuracy = run.results.get("accuracy")
    if isinstance(accuracy, float):
        print(f"accuracy on these samples: {accuracy:.2%}")
    for result in results.spectra:
        for rule, note in result.notes.items():
            print(f"no {rule} fit for {result.name}: {note}")
    print(f"run:     {run.path}\nfigures: {run.path / 'figures'}\npage:    {page}")


def jacobian_plan_of(options: JacobianOptions) -> JacobianPlan:
    """Return what the options ask to be computed."""
    return JacobianPlan(
        outputs=options.output,
        layouts=options.layout,
        side=options.side,
        num_vectors=options.vectors,
        num_replicas=options.replicas,
        seed=options.seed,
        memory=options.memory,
    )
