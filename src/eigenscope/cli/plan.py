"""`eigenscope plan VERB …`: what the same words without `plan` would cost."""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eigenscope.analysis.tail_values import require_tail_fits
from eigenscope.budget import format_bytes
from eigenscope.cli.fit import read_values
from eigenscope.cli.hessian import curvature_plan_of, loss_of
from eigenscope.cli.info import table_of_run
from eigenscope.cli.jacobian import jacobian_plan_of
from eigenscope.cli.ntk import kernel_plan_of
from eigenscope.cli.options import (
    CompareOptions,
    DemoOptions,
    FitOptions,
    HessianOptions,
    InfoOptions,
    JacobianOptions,
    MatchOptions,
    NTKOptions,
    PlanOptions,
    ReportOptions,
    SeriesOptions,
    TrainOptions,
    WeightsOptions,
)
from eigenscope.cli.problems import problem_of
from eigenscope.cli.series import measures_of
from eigenscope.cli.train import study_of
from eigenscope.cli.weights import network_of
from eigenscope.estimators import weight_spectra
from eigenscope.experiments.costs import (
    curvature_cost,
    jacobian_cost,
    kernel_cost,
    tail_steps,
)
from eigenscope.experiments.demo import DemoPlan
from eigenscope.experiments.preparation import prepare_experiment
from eigenscope.experiments.training_costs import demo_cost, training_cost
from eigenscope.planning import Plan, plan
from eigenscope.planning.words import aligned
from eigenscope.report import write_report
from eigenscope.report.comparison import read_comparison, write_comparison
from eigenscope.report.costs import figures_step, match_cost, stored_cost
from eigenscope.report.matching import require_no_run
from eigenscope.report.trainings import (
    are_trainings,
    read_trainings,
    write_trainings,
)
from eigenscope.spectra import Spectrum
from eigenscope.store import Run
from eigenscope.training import Schedule, record_series

_EFFORT = 8.0
_FIGURES_OF_TRAINING, _FIGURES_OF_DEMO = 8, 10
_NARROWEST, _SHORTEST_NAME = 40, 16


def run_plan(options: PlanOptions) -> None:
    """Print what a verb with these options will cost; nothing is written."""
    verb: Any = options.verb
    if options.ranks < 1:
        raise ValueError(f"--ranks must be at least 1; got {options.ranks}.")
    found = _PLANS[type(verb)](verb).among(options.ranks)
    remarks = _of_disk(found, getattr(verb, "out", None))
    if options.ranks > 1:
        remarks.append(f"each of {options.ranks} ranks, without what they exchange")
    found = replace(found, remarks=(*found.remarks, *remarks))
    if verb.json:
        print(json.dumps(found.to_json(), indent=2))
        return
    width = _width()
    print("\n".join([*_table(found, width), *_wrapped(found.notes(), width)]))


def _width() -> int | None:
    """Return the columns of the terminal, None for a pipe."""
    if not sys.stdout.isatty():
        return None
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def _table(found: Plan, width: int | None) -> list[str]:
    """Return the lines of the table; names of steps are cut to fit the width."""
    if not found.steps:
        return []
    rows = found.rows()
    lines = aligned([found.header(), *rows])
    over = 0 if width is None else max(map(len, lines)) - width
    if over > 0:
        most = max(_SHORTEST_NAME, max(len(row[0]) for row in rows) - over)
        for row in rows:
            row[0] = row[0] if len(row[0]) <= most else f"{row[0][: most - 1]}…"
        lines = aligned([found.header(), *rows])
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]


def _wrapped(lines: Sequence[str], width: int | None) -> list[str]:
    """Return lines that are as wide as the terminal, whole ones in a pipe."""
    if width is None:
        return list(lines)
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, width, subsequent_indent="    ") or [""]
    ]


def _of_disk(found: Plan, out: Path | None) -> list[str]:
    """Return what to say where the disk is too small for what is written."""
    if out is None or not found.disk_bytes:
        return []
    place = next(
        path for path in (out.absolute(), *out.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(place).free
    if found.disk_bytes <= free:
        return []
    needed = format_bytes(found.disk_bytes)
    return [f"does not fit on disk: {needed}, {format_bytes(free)} are free in {place}"]


def _jacobian(options: JacobianOptions) -> Plan:
    problem = problem_of(options).problem
    found = jacobian_cost(problem, jacobian_plan_of(options), effort=_EFFORT)
    count = 2 * len(options.output) * len(options.layout)
    count += len(options.output) * len(options.layout) if options.vectors else 0
    return _with_figures(found, count)


def _ntk(options: NTKOptions) -> Plan:
    problem = problem_of(options, output=options.output).problem
    found = kernel_cost(problem, kernel_plan_of(options), effort=_EFFORT)
    return _with_figures(found, 1 + 2 * len(options.kernel))


def _hessian(options: HessianOptions) -> Plan:
    loss = loss_of(options.loss)
    problem = problem_of(options, loss=loss, params=options.params).problem
    found = curvature_cost(
        problem,
        curvature_plan_of(options),
        effort=_EFFORT,
        does_verify=options.verify,
    )
    count = sum("eigenvalues" in s.name or "probes" in s.name for s in found.steps)
    return _with_figures(found, count + options.classes)


def _series(options: SeriesOptions) -> Plan:
    loss = loss_of(options.loss)
    problem = problem_of(options, loss=loss).problem
    found = plan(
        record_series,
        None,
        problem.model,
        options.checkpoints,
        measures_of(options, problem, loss),
        schedule=Schedule.every(options.every),
        counter=options.counter,
        processes=options.processes,
        effort=_EFFORT,
    )
    return replace(found, operation="eigenscope series")


def _train(options: TrainOptions) -> Plan:
    if options.list:
        return Plan.joined("eigenscope train --list", [])
    prepared = {
        name: prepare_experiment(experiment, device=options.device)
        for name, experiment in study_of(options).experiments.items()
    }
    found = training_cost(prepared, memory=options.memory, effort=_EFFORT)
    return _with_figures(found, _FIGURES_OF_TRAINING * len(prepared))


def _demo(options: DemoOptions) -> Plan:
    wanted = DemoPlan(epochs=options.epochs, seed=options.seed, memory=options.memory)
    return _with_figures(demo_cost(wanted, effort=_EFFORT), _FIGURES_OF_DEMO)


def _fit(options: FitOptions) -> Plan:
    values = read_values(options.file, memory=options.memory)
    size = len(values.values if isinstance(values, Spectrum) else values)
    require_tail_fits(size, options.memory)
    steps = tail_steps(size, options.replicas, count=1, rules=("scan",))
    found = Plan.joined("eigenscope fit", steps, memory=options.memory)
    return found if options.figure is None else _with_figures(found, 1)


def _weights(options: WeightsOptions) -> Plan:
    model = network_of(options)
    found = plan(
        weight_spectra,
        model,
        params=options.params,
        kernels=options.kernels,
        memory=options.memory,
    )
    return _with_figures(replace(found, operation="eigenscope weights"), 1)


def _compare(options: CompareOptions) -> Plan:
    if are_trainings(options.runs):
        trainings = read_trainings(options.runs, memory=options.memory)
        folders = [one.run.path for one in trainings]
    else:
        found = read_comparison(
            options.runs,
            output=options.output,
            layout=options.layout,
            memory=options.memory,
        )
        folders = [run.path for run in found.runs]
    require_no_run(options.out)
    work = partial(_compared, options)
    return stored_cost("compare", folders, work, memory=options.memory, effort=_EFFORT)


def _compared(options: CompareOptions, paths: Sequence[Path], out: Path) -> None:
    if are_trainings(paths):
        write_trainings(read_trainings(paths), out)
        return
    chosen = {"output": options.output, "layout": options.layout}
    write_comparison(read_comparison(paths, **chosen), out, title="rehearsal")


def _report(options: ReportOptions) -> Plan:
    def work(paths: Sequence[Path], out: Path) -> None:
        write_report(paths, out.with_suffix(".html"), title=options.title)

    return stored_cost(
        "report", options.runs, work, memory=options.memory, effort=_EFFORT
    )


def _match(options: MatchOptions) -> Plan:
    return match_cost(
        options.runs,
        animates=options.animate,
        memory=options.memory,
        effort=_EFFORT,
    )


def _info(options: InfoOptions) -> Plan:
    if options.run is None:
        return Plan.joined("eigenscope info", [], memory=options.memory)

    def work(paths: Sequence[Path], out: Path) -> None:
        del out
        table_of_run(Run.open(paths[0]))

    return stored_cost(
        "info", [options.run], work, memory=options.memory, effort=_EFFORT
    )


def _with_figures(found: Plan, count: int) -> Plan:
    return Plan.joined(found.operation, [found, figures_step(count)])


_PLANS: dict[type[object], Callable[[Any], Plan]] = {
    JacobianOptions: _jacobian,
    NTKOptions: _ntk,
    HessianOptions: _hessian,
    SeriesOptions: _series,
    TrainOptions: _train,
    DemoOptions: _demo,
    FitOptions: _fit,
    WeightsOptions: _weights,
    CompareOptions: _compare,
    ReportOptions: _report,
    MatchOptions: _match,
    InfoOptions: _info,
}
