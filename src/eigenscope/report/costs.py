"""What reading, comparing and drawing stored runs will cost, from runs like them."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from eigenscope.budget import format_bytes, resolve
from eigenscope.experiments.matching import pair_distances, stored_pairs
from eigenscope.experiments.stored_results import require_results_fit, result_bytes
from eigenscope.planning import Plan, Step, plan_of_job
from eigenscope.planning.job import Job
from eigenscope.plots import save_figure, spectrum_figure
from eigenscope.report.runs import open_runs
from eigenscope.spectra import Spectrum
from eigenscope.store import Run

_FIGURE_VALUES: Final = 1000
_SHARED_FIGURES, _FIGURES_EACH = 2, 3

Work = Callable[[Sequence[Path], Path], object]


def stored_cost(
    operation: str,
    paths: Sequence[Path],
    work: Work,
    *,
    memory: str | int | None,
    effort: float,
) -> Plan:
    """Return what work on stored runs will cost: it is done on one run of each verb.

    Args:
        operation: What it is.
        paths: Folders of runs.
        work: From folders of runs and a folder for files, which is thrown away.
        memory: Budget.
        effort: Seconds for all rehearsals.

    Returns:
        One step for the runs of each verb.

    Raises:
        FileNotFoundError: If a folder is no run.
        ValueError: If there is no run or one twice, or their results do not fit.
    """
    groups: dict[str, list[Run]] = {}
    runs = open_runs(paths, purpose=operation)
    require_results_fit(list(runs.values()), memory, purpose=operation)
    for run in runs.values():
        groups.setdefault(run.manifest.verb, []).append(run)
    parts = [
        plan_of_job(operation, _reading(verb, runs, work), effort=effort / len(groups))
        for verb, runs in groups.items()
    ]
    return Plan.joined(f"eigenscope {operation}", parts, memory=memory)


def match_cost(
    paths: Sequence[Path], *, animates: bool, memory: str | int | None, effort: float
) -> Plan:
    """Return what matching layers' spectra with the full ones will cost.

    Args:
        paths: Folders of trainings, or of studies.
        animates: Whether films are drawn.
        memory: Budget.
        effort: Seconds for all rehearsals.

    Returns:
        A step for the distances, and one for the figures.

    Raises:
        FileNotFoundError: If a folder is no run.
        ValueError: If a run has no spectra of layers, or its results do not fit.
    """
    pairs = stored_pairs(paths)
    runs = [Run.open(path) for path in dict.fromkeys(pair.run for pair in pairs)]
    require_results_fit(runs, memory, purpose="match", one_by_one=True)
    num_runs, size = len(runs), sum(map(result_bytes, runs))

    def call_on(count: int) -> Callable[[], object]:
        chosen = np.linspace(0, len(pairs) - 1, count).round().astype(int)
        return lambda: [pair_distances(pairs[place]) for place in chosen]

    job = _stored_job(
        name="distances",
        method=f"{len(pairs)} pairs of spectra",
        reason=f"{format_bytes(size)} of {num_runs} runs are read",
        num_samples=len(pairs),
        call_on=call_on,
    )
    recordings = len({(pair.run, pair.number) for pair in pairs})
    figures = _SHARED_FIGURES + _FIGURES_EACH * num_runs
    parts: list[Plan | Step] = [plan_of_job("match", job, effort=effort)]
    parts.append(figures_step(figures, title="figures"))
    if animates:
        parts.append(figures_step(recordings, title="pictures of films"))
    return Plan.joined("eigenscope match", parts, memory=memory)


def figures_step(count: int, *, title: str = "figures and page") -> Step:
    """Return the step of drawing figures, one of which is drawn now.

    Args:
        count: Figures.
        title: Name of the step.

    Returns:
        The step.
    """
    values = np.exp(np.random.default_rng(0).standard_normal(_FIGURE_VALUES))
    found = Spectrum.from_eigenvalues(np.sort(values))

    def call_on(size: int) -> Callable[[], object]:
        del size
        return partial(_draw, found)

    job = _stored_job(
        name=title,
        method=f"{count} figures" if count != 1 else "1 figure",
        num_samples=1,
        call_on=call_on,
    )
    return plan_of_job(title, job, effort=1.0).steps[0].times(count)


def _reading(verb: str, runs: Sequence[Run], work: Work) -> Job:
    ordered = sorted(runs, key=result_bytes)
    size = sum(map(result_bytes, runs))
    spectra = sum(len(list(run.path.glob("results/**/*.npz"))) for run in runs)

    def call_on(count: int) -> Callable[[], object]:
        return partial(_into_scratch, work, [run.path for run in ordered[:count]])

    return _stored_job(
        name=f"runs of {verb}",
        method=f"{len(runs)} runs" if len(runs) > 1 else "1 run",
        reason=f"{format_bytes(size)} with {spectra} spectra are read",
        num_samples=len(runs),
        call_on=call_on,
        chunk=len(runs),
    )


def _stored_job(*, chunk: int = 1, **how: Any) -> Job:
    """Return work on what is stored, which no network and no pass over data takes."""
    return Job(
        device=torch.device("cpu"),
        chunk=chunk,
        budget=resolve(None),
        passes=0.0,
        least=1,
        has_arrays=True,
        **how,
    )


def _into_scratch(work: Work, paths: Sequence[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work(paths, Path(folder) / "rehearsal")


def _draw(found: Spectrum) -> None:
    with tempfile.TemporaryDirectory() as folder:
        figure = spectrum_figure(found, {}, title="rehearsal")
        save_figure(figure, Path(folder) / "figure.png")
