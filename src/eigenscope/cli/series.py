"""`eigenscope series`: the measures of a training, afterwards, from its checkpoints."""

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from torch import nn

from eigenscope.cli.hessian import loss_of
from eigenscope.cli.options import SeriesOptions
from eigenscope.cli.problems import problem_of
from eigenscope.cli.runs import carry_out
from eigenscope.cli.tables import terminal_table
from eigenscope.problem import Batch, Problem
from eigenscope.store import Run
from eigenscope.training import (
    CurvatureEigenvalues,
    CurvatureSpectra,
    CurvatureTrace,
    History,
    JacobianSpectrum,
    LayerDistances,
    Measure,
    Schedule,
    TailExponent,
    TargetAlignment,
    WeightSpectra,
    find_checkpoints,
    record_series,
)
from eigenscope.training.checkpoints import require_alone, require_loadable

_VERB = "series"


def run_series(options: SeriesOptions) -> None:
    """Measure the checkpoints that the options name, and print the numbers."""
    _require_no_weights(options)
    loss = loss_of(options.loss)
    schedule = Schedule.every(options.every)

    def prepare(run: Run | None) -> Problem:
        found = find_checkpoints(options.checkpoints, counter=options.counter)
        if options.foreign == "refuse":
            require_alone(found, options.checkpoints)
        elif remarks := found.remarks():
            print(f"eigenscope: in {options.checkpoints}: {remarks}", file=sys.stderr)
        problem = problem_of(options, loss=loss).problem
        done = set[int]() if run is None else set(History.load(run).numbers)
        due = {n: path for n, path in found.paths.items() if schedule.is_due(n)}
        require_loadable(
            problem.model, {n: path for n, path in due.items() if n not in done}
        )
        return problem

    def compute(run: Run, problem: Problem) -> Path:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "in .*: ", UserWarning)  # said above
            record_series(
                run,
                problem.model,
                options.checkpoints,
                measures_of(options, problem, loss),
                schedule=schedule,
                counter=options.counter,
                foreign=options.foreign,
                processes=options.processes,
            )
        run.complete()
        return run.path

    carry_out(options, verb=_VERB, prepare=prepare, compute=compute)
    _print(Run.open(options.out), as_json=options.json)


def _require_no_weights(options: SeriesOptions) -> None:
    if options.weights is not None:
        raise ValueError(
            "a series loads the weights of each checkpoint itself; got --weights "
            f"{options.weights}. Leave it out, or name its folder with --checkpoints."
        )


def measures_of(
    options: SeriesOptions, problem: Problem, loss: nn.Module
) -> dict[str, Measure]:
    """Return what the options ask for, by the names under which it is recorded.

    Args:
        options: Of the command line.
        problem: The network and its data.
        loss: The loss.

    Returns:
        The measures.
    """
    data = [_batch(batch) for batch in problem.batches]
    shared: dict[str, Any] = {"memory": options.memory}
    layers = None if options.layers == "none" else options.layers
    found: dict[str, Measure] = {}
    for name in options.measure:
        if name == "hessian":
            spectra = CurvatureSpectra(data, loss, layers=layers, **shared)
            found["hessian"] = spectra
            if layers is not None:
                found["layer_w1"] = LayerDistances(spectra)
        elif name == "top":
            found["hessian_top"] = CurvatureEigenvalues(data, loss, **shared)
        elif name == "trace":
            found["hessian_trace"] = CurvatureTrace(data, loss, **shared)
        elif name == "jacobian":
            jacobian = JacobianSpectrum(data, **shared)
            found |= {"jacobian": jacobian, "jacobian_alpha": TailExponent(jacobian)}
        elif name == "weights":
            weights = WeightSpectra(**shared)
            found |= {"weights": weights, "weights_alpha": TailExponent(weights)}
        else:
            found["ntk_alignment"] = TargetAlignment(data, **shared)
    return found


def _batch(batch: Batch) -> Any:
    """Return a batch as data sets give it."""
    if isinstance(batch.inputs, Mapping):
        return {**batch.inputs, "labels": batch.targets}
    return batch.inputs if batch.targets is None else (batch.inputs, batch.targets)


def _print(run: Run, *, as_json: bool) -> None:
    """Print scalars by number; of spectra the largest eigenvalue."""
    history = History.load(run)
    columns = dict(_columns(history))
    if as_json:
        numbers = {
            name: {str(n): value if isfinite(value) else None for n, value in c.items()}
            for name, c in columns.items()
        }
        print(json.dumps({"run": str(run.path), "numbers": numbers}, indent=2))
        return
    counter = str(run.settings.get("counter") or "number")
    rows = [
        [number, *[column.get(number) for column in columns.values()]]
        for number in history.numbers
    ]
    header = [counter, *columns]
    # Few checkpoints and many quantities: one line for each quantity.
    first, *others = zip(header, *rows, strict=True)
    print(terminal_table([str(cell) for cell in first], others))
    print(f"run:     {run.path}")


def _columns(history: History) -> Iterator[tuple[str, dict[int, float]]]:
    for name in history.names:
        try:
            numbers, values = history.series(name)
        except TypeError:
            spectra = history.spectra(name)
            yield f"{name} λ_max", {n: float(s.values[-1]) for n, s in spectra.items()}
        else:
            yield name, dict(zip(numbers.tolist(), values.tolist(), strict=True))
