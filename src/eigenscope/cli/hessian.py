"""`eigenscope hessian`: from a model, data and a loss to spectra of the curvature."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from eigenscope.cli.options import Curvature, HessianOptions
from eigenscope.cli.problems import problem_of
from eigenscope.cli.runs import carry_out
from eigenscope.cli.tables import terminal_table
from eigenscope.distributed import own_rank
from eigenscope.estimators import verify
from eigenscope.experiments import (
    CurvaturePlan,
    load_class_structure,
    load_curvature_results,
    prepare_curvature,
    run_curvature,
)
from eigenscope.operators import SymmetricOperator
from eigenscope.problem import Problem
from eigenscope.report.classes import (
    OUTLIERS_HEADER,
    PARTS_HEADER,
    outliers_rows,
    parts_rows,
)
from eigenscope.report.curvature import (
    CURVATURE_HEADER,
    VERDICTS,
    curvature_rows,
    verdicts_of,
    write_curvature_page,
)
from eigenscope.store import Run
from eigenscope.zoo import import_factory, is_factory

_VERB = "hessian"
Operators = dict[Curvature, SymmetricOperator]
_LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss,
    "squared-error": nn.MSELoss,
    "logistic": nn.BCEWithLogitsLoss,
}


def run_hessian(options: HessianOptions) -> None:
    """Compute, draw and print the spectra that the options ask for."""
    plan, loss = curvature_plan_of(options), loss_of(options.loss)

    def prepare(run: Run | None) -> tuple[Problem, Operators]:
        problem = problem_of(options, loss=loss, params=options.params).problem
        return problem, prepare_curvature(problem, plan, run=run)

    def compute(run: Run, prepared: tuple[Problem, Operators]) -> Path:
        problem, operators = prepared
        if options.verify and VERDICTS not in run.results:
            verdicts = {name: verify(found) for name, found in operators.items()}
            run.record_result(VERDICTS, {n: v.to_json() for n, v in verdicts.items()})
        run_curvature(run, problem, plan, operators)
        return run.ranks.from_first(lambda: write_curvature_page(run))

    _, page = carry_out(options, verb=_VERB, prepare=prepare, compute=compute)
    _print(Run.open(options.out), page, as_json=options.json)


def _print(run: Run, page: Path, *, as_json: bool) -> None:
    if own_rank():
        return
    if as_json:
        summary = {"run": str(run.path), "page": str(page), **run.results}
        print(json.dumps(summary, indent=2))
        return
    results = load_curvature_results(run)
    print(terminal_table(CURVATURE_HEADER, curvature_rows(results)))
    for result in results:
        if result.eigenpairs is not None:
            pairs = result.eigenpairs
            values = ", ".join(f"{value:.4g}" for value in pairs.values.tolist())
            missing = len(pairs) - int(pairs.converged.sum())
            doubt = f" ({missing} not converged)" if missing else ""
            print(f"{result.operator}, largest |λ|: {values}{doubt}")
    structure = load_class_structure(run)
    if structure is not None:
        print(terminal_table(PARTS_HEADER, parts_rows(structure)))
        print(terminal_table(OUTLIERS_HEADER, outliers_rows(structure)))
    for name, verdict in verdicts_of(run).items():
        print(f"{name}: {verdict}")
    print(f"run:     {run.path}\nfigures: {run.path / 'figures'}\npage:    {page}")


def loss_of(name: str) -> Any:
    """Return the loss of a name, or what the user's factory gives.

    Args:
        name: As `--loss` takes it.

    Returns:
        The loss.

    Raises:
        ValueError: If there is no such loss.
    """
    if is_factory(name):
        return import_factory("loss", name)()
    if name not in _LOSSES:
        raise ValueError(
            f"--loss must be one of {', '.join(_LOSSES)} or package.module:factory; "
            f"got {name!r}."
        )
    return _LOSSES[name]()


def curvature_plan_of(options: HessianOptions) -> CurvaturePlan:
    """Return what the options ask to be computed."""
    return CurvaturePlan(
        operators=options.operator,
        layers=None if options.layers == "none" else options.layers,
        method=options.method,
        tolerance=options.tolerance,
        num_pairs=options.top,
        classes=options.classes,
        seed=options.seed,
        memory=options.memory,
    )
