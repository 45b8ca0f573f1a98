"""`eigenscope plan VERB …`: what the same words without `plan` would cost."""

import json

from eigenscope.cli.hessian import curvature_plan_of, loss_of
from eigenscope.cli.jacobian import jacobian_plan_of
from eigenscope.cli.ntk import kernel_plan_of
from eigenscope.cli.options import HessianOptions, JacobianOptions, NTKOptions
from eigenscope.cli.problems import problem_of
from eigenscope.cli.tables import terminal_table
from eigenscope.experiments.costs import curvature_cost, jacobian_cost, kernel_cost
from eigenscope.planning import HEADER, Plan

_EFFORT = 8.0


def run_plan(options: JacobianOptions | NTKOptions | HessianOptions) -> None:
    """Print what a verb with these options will cost; nothing is written."""
    found = _plan(options)
    if options.json:
        print(json.dumps(found.to_json(), indent=2))
        return
    print(terminal_table(HEADER, found.rows()))
    print("\n".join(found.notes()))


def _plan(options: JacobianOptions | NTKOptions | HessianOptions) -> Plan:
    if isinstance(options, JacobianOptions):
        problem = problem_of(options).problem
        return jacobian_cost(problem, jacobian_plan_of(options), effort=_EFFORT)
    if isinstance(options, NTKOptions):
        problem = problem_of(options, output=options.output).problem
        return kernel_cost(problem, kernel_plan_of(options), effort=_EFFORT)
    loss = loss_of(options.loss)
    problem = problem_of(options, loss=loss, params=options.params).problem
    return curvature_cost(problem, curvature_plan_of(options), effort=_EFFORT)
