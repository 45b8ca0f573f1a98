"""`eigenscope jacobian`: from a model and a data set to a run with figures."""

import json
from pathlib import Path
from typing import cast

import torch

from eigenscope._types import JsonValue
from eigenscope.cli.arguments import arguments_of
from eigenscope.cli.options import JacobianOptions
from eigenscope.cli.problems import NamedProblem, problem_of
from eigenscope.cli.tables import terminal_table
from eigenscope.experiments import (
    JacobianPlan,
    load_jacobian_results,
    prepare_jacobian,
    run_jacobian_spectra,
)
from eigenscope.operators import InputJacobian
from eigenscope.report.jacobian import HEADER, spectrum_rows, write_jacobian_page
from eigenscope.store import Run
from eigenscope.store.folder import require_vacant
from eigenscope.store.manifest import Manifest

_VERB = "jacobian"


def run_jacobian(options: JacobianOptions) -> None:
    """Compute, draw and print the spectra that the options ask for.

    A new run's folder is made once nothing is left that could be wrong with the
    options, so that a corrected command can take the same folder.
    """
    plan, arguments = _plan_of(options), arguments_of(options)
    if options.resume:
        with Run.resume(options.out, verb=_VERB, arguments=arguments) as run:
            repeat_threads(run)
            named = problem_of(options)
            jacobian = prepare_jacobian(named.problem, plan, run=run)
            page = _compute(run, named, jacobian, plan)
    else:
        require_vacant(
            options.out, Manifest.new(verb=_VERB, arguments=arguments, settings={})
        )
        named = problem_of(options)
        jacobian = prepare_jacobian(named.problem, plan)
        with Run.create(options.out, verb=_VERB, arguments=arguments) as run:
            repeat_threads(run)
            page = _compute(run, named, jacobian, plan)
    print_run(Run.open(options.out), page, as_json=options.json)


def print_run(run: Run, page: Path, *, as_json: bool) -> None:
    """Print what a run of Jacobian spectra has found and where it is."""
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


def _compute(
    run: Run, named: NamedProblem, jacobian: InputJacobian, plan: JacobianPlan
) -> Path:
    run.record_result("class_names", cast("JsonValue", named.class_names))
    run_jacobian_spectra(run, named.problem, plan, jacobian=jacobian)
    return write_jacobian_page(run)


def repeat_threads(run: Run) -> None:
    """Use as many threads as when the run began: sums are then taken alike."""
    recorded = run.settings.get("num_threads")
    if recorded is None:
        run.record_settings({"num_threads": torch.get_num_threads()})
    else:
        torch.set_num_threads(cast("int", recorded))


def _plan_of(options: JacobianOptions) -> JacobianPlan:
    return JacobianPlan(
        outputs=options.output,
        layouts=options.layout,
        num_vectors=options.vectors,
        num_replicas=options.replicas,
        seed=options.seed,
        memory=options.memory,
    )
