"""`eigenscope train`: experiments by name or from a TOML file."""

import json
from pathlib import Path
from typing import Any

from eigenscope.cli.options import TrainOptions
from eigenscope.cli.tables import terminal_table
from eigenscope.experiments.catalog import (
    Study,
    arguments_of_experiment,
    experiment_names,
    read_description,
    read_study,
    recorded_experiment,
)
from eigenscope.experiments.configuration import Experiment
from eigenscope.experiments.preparation import prepare_experiment
from eigenscope.experiments.training_runs import run_training
from eigenscope.report.training import TRAINING_HEADER, draw_training, training_row
from eigenscope.store import Run
from eigenscope.store.folder import require_vacant
from eigenscope.store.manifest import FILE_NAME, Manifest
from eigenscope.training.threads import repeat_threads

_VERB = "train"


def run_train(options: TrainOptions) -> None:
    """List experiments, or train and print where everything is."""
    if options.list:
        _print_list(as_json=options.json)
        return
    study = study_of(options)
    out = options.out or Path("runs") / study.name
    folders = {name: out / name for name in study.experiments}
    for name, experiment in study.experiments.items():
        _require_folder(folders[name], experiment, options)
    diverged = {
        name: where
        for name, experiment in study.experiments.items()
        if (where := _carry_out(folders[name], experiment, options)) is not None
    }
    _print(study, folders, as_json=options.json)
    if diverged:
        raise ValueError(_explained(diverged, folders))


def study_of(options: TrainOptions) -> Study:
    """Return what is to be trained: of the command line, or of the folder.

    Args:
        options: Of the command line.

    Returns:
        The experiments.

    Raises:
        ValueError: If the command line names no experiment.
    """
    if options.config is None:
        if not options.resume or options.out is None or options.set:
            raise ValueError(
                "train needs an experiment by name or a .toml file (see `eigenscope "
                "train --list`), or --resume with --out and no --set."
            )
        return _recorded(options.out)
    changes = list(options.set)
    if options.data_root is not None:
        root = str(options.data_root.expanduser().absolute())
        changes.append(f"data.root={json.dumps(root, ensure_ascii=False)}")
    return read_study(options.config, changes=changes)


def _recorded(out: Path) -> Study:
    """Return the experiments whose runs are in a folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths = [out] if (out / FILE_NAME).exists() else sorted(out.glob("*/"))
    paths = [path for path in paths if (path / FILE_NAME).exists()]
    if not paths:
        raise FileNotFoundError(
            f"resuming needs a run in {out}, or runs in its folders; there is none. "
            "Name an experiment to start one."
        )
    experiments = {
        "" if path == out else path.name: recorded_experiment(Run.open(path).arguments)
        for path in paths
    }
    return Study(name=out.name, description="", experiments=experiments)


def _require_folder(path: Path, experiment: Experiment, options: TrainOptions) -> None:
    """Raise before anything is trained if a folder is not free."""
    arguments = arguments_of_experiment(experiment)
    if not options.resume:
        require_vacant(path, Manifest.new(verb=_VERB, arguments=arguments, settings={}))


def _carry_out(
    path: Path, experiment: Experiment, options: TrainOptions
) -> dict[str, Any] | None:
    """Begin a run or go on with it; return where it diverged, if it did."""
    arguments = arguments_of_experiment(experiment)
    goes_on = options.resume and (path / FILE_NAME).exists()
    begin = Run.resume if goes_on else Run.create
    if goes_on and Run.open(path).is_complete:
        Run.open(path)
    prepared = (
        None if goes_on else prepare_experiment(experiment, device=options.device)
    )
    with begin(path, verb=_VERB, arguments=arguments) as run:
        repeat_threads(run)
        if not run.is_complete:
            prepared = prepared or prepare_experiment(experiment, device=options.device)
            outcome = run_training(run, prepared, memory=options.memory)
            draw_training(run)
            return outcome.diverged
    return None


def _print(study: Study, folders: dict[str, Path], *, as_json: bool) -> None:
    runs = [Run.open(folders[name]) for name in study.experiments]
    if as_json:
        found = {str(run.path): dict(run.results) for run in runs}
        print(json.dumps({"experiment": study.name, "runs": found}, indent=2))
        return
    print(terminal_table(TRAINING_HEADER, [training_row(run) for run in runs]))
    for run in runs:
        print(f"run:     {run.path}")
    print(f"figures: {runs[0].path / 'figures'}")


def _explained(diverged: dict[str, dict[str, Any]], folders: dict[str, Path]) -> str:
    """Say where trainings stopped and what is kept of them."""
    lines = [_ending(folders[name], where) for name, where in diverged.items()]
    return (
        f"{'; '.join(lines)}. What was recorded before is kept there. Lower "
        "training.learning_rate, in another folder."
    )


def _ending(folder: Path, where: dict[str, Any]) -> str:
    rate = f"(learning rate {where['learning_rate']})"
    if "reason" in where:
        return (
            f"{folder} can no longer be measured after epoch {where['epoch']} {rate}: "
            f"{where['reason'].rstrip('.')}"
        )
    return (
        f"the loss of {folder} stopped to be finite in epoch {where['epoch']}, "
        f"step {where['step']} {rate}"
    )


def _print_list(*, as_json: bool) -> None:
    found = {name: read_description(name) for name in experiment_names()}
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(terminal_table(("experiment", "what it is"), list(found.items())))
