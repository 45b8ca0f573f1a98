"""The recorder's measures over the checkpoints of a training that is over."""

import copy
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from eigenscope._types import JsonValue, require_choice
from eigenscope.problem import whole_network
from eigenscope.progress import progress
from eigenscope.store import Run
from eigenscope.training.checkpoints import (
    Checkpoints,
    find_checkpoints,
    require_alone,
    require_loadable,
)
from eigenscope.training.continuation import Continuing
from eigenscope.training.history import History
from eigenscope.training.measurement import Measure, Mode, measured
from eigenscope.training.recorder import Recorder
from eigenscope.training.schedule import Schedule
from eigenscope.training.threads import repeat_threads
from eigenscope.zoo.weights import load_weights

Foreign = Literal["skip", "refuse"]
Job = tuple[nn.Module, dict[str, Measure], Mode]


def record_series(
    run: Run,
    model: nn.Module,
    folder: str | os.PathLike[str],
    measures: Mapping[str, Measure],
    *,
    schedule: Schedule | None = None,
    counter: str | None = None,
    foreign: Foreign = "skip",
    processes: int = 1,
    mode: Mode = "eval",
) -> History:
    """Measure a network at every checkpoint in a folder, in order, into a run.

    What is recorded is what `es.Recorder` would have recorded in the training, to
    rounding; in several processes, which cannot begin with each other's eigenvectors,
    to the tolerance of iterative solvers. What is recorded already is left as
    it is, so that a series that was killed goes on.

    Args:
        run: A run that is open for writing.
        model: A network of the checkpoints' architecture; a copy of it is loaded.
        folder: The checkpoints; see `es.find_checkpoints`.
        measures: As for `es.Recorder`; with several processes they are pickled.
        schedule: Which of the numbers to measure; all by default.
        counter: As for `es.find_checkpoints`.
        foreign: "skip" warns of what is no checkpoint and of gaps, "refuse" raises.
        processes: Checkpoints that are measured at once, each in a process of its own;
            torch's threads are divided among them.
        mode: As for `es.Recorder`.

    Returns:
        Everything that has been recorded.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there is no checkpoint, some do not fit the network or are
            corrupt (all are told before anything is measured), something is foreign
            and refused, an option is wrong, or the run was begun with other measures.
        TypeError: If a measure cannot be pickled for other processes.

    Cost:
        What the measures cost for every checkpoint; each process holds a copy of the
        network and of the measures' data.

    Example:
        >>> import tempfile
        >>> from eigenscope.training import WeightSpectra
        >>> from eigenscope.zoo import save_weights
        >>> folder, net = Path(tempfile.mkdtemp()), nn.Linear(2, 2)
        >>> for step in (9, 10):
        ...     save_weights(net, folder / "saved" / f"step_{step}.safetensors")
        >>> with Run.create(folder / "run", verb="series", arguments={}) as run:
        ...     record_series(
        ...         run, net, folder / "saved", {"weights": WeightSpectra()}
        ...     ).numbers
        (9, 10)
    """
    require_choice("foreign", foreign, Foreign)
    if processes < 1:
        raise ValueError(f"processes must be at least 1; got {processes}.")
    model = whole_network(model)
    found = find_checkpoints(folder, counter=counter)
    _tell(found, Path(folder), foreign)
    recorder = Recorder(run, measures, schedule=schedule, mode=mode)
    missing = {n: path for n, path in found.paths.items() if recorder.is_missing(n)}
    require_loadable(model, missing)
    run.record_settings({"counter": found.counter})
    run.record_result("gaps", [list[JsonValue](pair) for pair in found.gaps])
    before = repeat_threads(run)
    try:
        if processes == 1 or len(missing) < 2:
            network = copy.deepcopy(model)
            for number, path in _shown(missing):
                load_weights(network, path)
                recorder.record(network, number)
        else:
            job: Job = (model, dict(measures), mode)
            _in_processes(recorder, job, missing, min(processes, len(missing)))
    finally:
        torch.set_num_threads(before)
    return recorder.history()


def _shown(missing: Mapping[int, Path]) -> Iterator[tuple[int, Path]]:
    return iter(progress(missing.items(), label="checkpoints", total=len(missing)))


def _tell(found: Checkpoints, folder: Path, foreign: Foreign) -> None:
    """Warn of foreign files and gaps, or refuse them.

    Raises:
        ValueError: If there are any and they are refused.
    """
    if foreign == "refuse":
        require_alone(found, folder)
    elif said := found.remarks():
        warnings.warn(f"in {folder}: {said}", stacklevel=3)


def _in_processes(
    recorder: Recorder, job: Job, missing: Mapping[int, Path], processes: int
) -> None:
    """Measure in spawned processes; this one saves each recording as it comes.

    Raises:
        TypeError: If the job cannot be pickled.
    """
    try:
        pickled = pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            "model, data and measures must be picklable to go to other processes "
            f"({error}). Define functions and classes at the top of a module (no "
            "lambda), or pass processes=1."
        ) from error
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(_measured_at, pickled, str(path), threads): number
            for number, path in missing.items()
        }
        try:
            done = as_completed(futures)
            for future in progress(done, label="checkpoints", total=len(futures)):
                recorder.save(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _measured_at(pickled: bytes, path: str, threads: int) -> dict[str, object]:
    """Return everything measured at a checkpoint, on which no other one bears."""
    torch.set_num_threads(threads)
    job: Job = pickle.loads(pickled)  # by the process that spawned this one
    model, measures, mode = job
    load_weights(model, path)
    for measure in measures.values():
        if isinstance(measure, Continuing):
            measure.take_up({})
    found: dict[str, object] = {}
    for name, measure in measures.items():
        found |= measured(model, name, measure, mode)
    return found
