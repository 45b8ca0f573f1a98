"""`eigenscope jacobian`: from a model and a data set to a run with figures."""

import json
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from eigenscope._types import JsonValue
from eigenscope.cli.options import JacobianOptions
from eigenscope.cli.tables import table
from eigenscope.experiments import (
    JacobianPlan,
    load_jacobian_results,
    run_jacobian_spectra,
)
from eigenscope.problem import Problem
from eigenscope.report import write_jacobian_page
from eigenscope.store import Run
from eigenscope.zoo import (
    ImageData,
    build_model,
    data_from_factory,
    is_factory,
    load_data,
    load_weights,
)

_NOT_ARGUMENTS = ("out", "resume", "memory", "json", "batch_size")


def run_jacobian(options: JacobianOptions) -> None:
    """Compute, draw and print the spectra that the options ask for."""
    if options.resume:
        options = _with_recorded(options)
    run = start_run(options)
    with run:
        _repeat_threads(run)
        data = _data(options)
        problem = _problem(options, data)
        run.record_result("class_names", _class_names(data))
        run_jacobian_spectra(run, problem, plan_of(options))
        page = write_jacobian_page(run)
    print_run(Run.open(options.out), page, as_json=options.json)


def start_run(options: JacobianOptions) -> Run:
    """Create the run's folder, or take it up again.

    Args:
        options: The options, of which those that decide the result are recorded.

    Returns:
        The run, open for writing.
    """
    arguments = {
        name: value
        for name, value in asdict(options).items()
        if name not in _NOT_ARGUMENTS
    }
    plain = cast("dict[str, JsonValue]", json.loads(json.dumps(arguments, default=str)))
    plain["outputs"], plain["layouts"] = plain.pop("output"), plain.pop("layout")
    if options.resume:
        return Run.resume(options.out, verb="jacobian", arguments=plain)
    return Run.create(options.out, verb="jacobian", arguments=plain)


def plan_of(options: JacobianOptions) -> JacobianPlan:
    """Return what the options ask to be computed."""
    return JacobianPlan(
        outputs=options.output,
        layouts=options.layout,
        num_vectors=options.vectors,
        num_replicas=options.replicas,
        seed=options.seed,
        memory=options.memory,
    )


def print_run(run: Run, page: Path, *, as_json: bool) -> None:
    """Print what a run of Jacobian spectra has found and where it is."""
    if as_json:
        summary = {"run": str(run.path), "page": str(page), **run.results}
        print(json.dumps(summary, indent=2))
        return
    results = load_jacobian_results(run)
    rows: list[list[object]] = []
    for result in results.spectra:
        found, scan = result.spectrum, result.fits.get("scan")
        peak = result.fits.get("peak")
        rows.append(
            [
                result.output,
                result.layout,
                found.dimension,
                float(found.values[-1]),
                found.trace(),
                found.stable_rank(),
                scan.alpha if scan else None,
                scan.xmin if scan else None,
                scan.ks_distance if scan else None,
                scan.num_tail if scan else None,
                peak.alpha if peak else None,
            ]
        )
    header = ["output", "layout", "D", "λ_max", "trace", "stable rank"]
    header += ["α", "xmin", "KS", "tail", "α at peak"]
    print(table(header, rows))
    accuracy = run.results.get("accuracy")
    if isinstance(accuracy, float):
        print(f"accuracy on these samples: {accuracy:.2%}")
    for result in results.spectra:
        for rule, note in result.notes.items():
            print(f"no {rule} fit for {result.name}: {note}")
    print(f"run:     {run.path}\nfigures: {run.path / 'figures'}\npage:    {page}")


def _with_recorded(options: JacobianOptions) -> JacobianOptions:
    """Return the options, those left at their defaults taken from the recorded run."""
    recorded = dict(Run.open(options.out).arguments)
    recorded["output"] = recorded.pop("outputs", None)
    recorded["layout"] = recorded.pop("layouts", None)
    changes: dict[str, Any] = {}
    for field in fields(options):
        given, default = getattr(options, field.name), field.default
        if field.name in _NOT_ARGUMENTS or default is MISSING or given != default:
            continue
        value = recorded.get(field.name)
        if isinstance(value, list):
            value = tuple(value)
        if field.name in {"weights", "data_root"} and value is not None:
            value = Path(str(value))
        changes[field.name] = value
    return replace(options, **changes)


def _repeat_threads(run: Run) -> None:
    """Use as many threads as when the run began: sums are then taken alike."""
    recorded = run.settings.get("num_threads")
    if recorded is None:
        run.record_settings({"num_threads": torch.get_num_threads()})
    else:
        torch.set_num_threads(cast("int", recorded))


def _data(options: JacobianOptions) -> object:
    chosen: dict[str, Any] = {
        "root": options.data_root,
        "split": options.split,
        "num_samples": options.num_samples,
        "per_class": options.per_class,
    }
    if is_factory(options.data):
        return data_from_factory(options.data, **chosen)
    return load_data(options.data, **chosen)


def _problem(options: JacobianOptions, data: object) -> Problem:
    pairs = (data.inputs, data.targets) if isinstance(data, ImageData) else data
    model = _model(options, data)
    return Problem(model, pairs, batch_size=options.batch_size)


def _model(options: JacobianOptions, data: object) -> nn.Module:
    known = isinstance(data, ImageData)
    shape = data.sample_shape if known else _sample_shape(data)
    model = build_model(
        options.model,
        sample_shape=shape,
        num_classes=data.num_classes if known else None,
        seed=options.seed,
    )
    if options.weights is not None:
        load_weights(model, options.weights)
    dtype = getattr(torch, options.dtype)
    return model.to(device=options.device, dtype=dtype).eval()


def _sample_shape(data: object) -> tuple[int, ...]:
    """Return the shape of one sample of the user's own data.

    Raises:
        TypeError: If the first batch is no tensor.
    """
    probe = Problem(nn.Identity(), data).batches.first(1)
    if not isinstance(probe.inputs, torch.Tensor):
        raise TypeError(
            "models by name need batches of tensors; this data has mappings. Pass "
            "--model package.module:factory."
        )
    return tuple(probe.inputs.shape[1:])


def _class_names(data: object) -> list[JsonValue] | None:
    return list(data.class_names) if isinstance(data, ImageData) else None
