"""The checkpoints of a series that are to be measured, and loading them."""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eigenscope.planning.plan import Step
from eigenscope.problem import whole_network
from eigenscope.store import Run
from eigenscope.training import History, Schedule, find_checkpoints
from eigenscope.training.checkpoints import require_loadable
from eigenscope.zoo import load_weights

Options = dict[str, Any]


def checkpoints_of(options: Options) -> dict[int, Path]:
    """Return the checkpoints that are due and not recorded.

    Args:
        options: Arguments of `es.record_series` by name; a run of None is a new one.

    Returns:
        Number to file.
    """
    found = find_checkpoints(options["folder"], counter=options.get("counter"))
    schedule = options.get("schedule") or Schedule.every(1)
    run: Run | None = options["run"]
    done = set(History.load(run).numbers) if run is not None else set[int]()
    return {
        number: path
        for number, path in found.paths.items()
        if schedule.is_due(number) and number not in done
    }


def steps_of_loading(options: Options, checkpoints: dict[int, Path]) -> Sequence[Step]:
    """Return the step of loading the weights, one of which is loaded now.

    Args:
        options: Arguments of `es.record_series` by name.
        checkpoints: Those to be measured.

    Returns:
        One step, none without checkpoints.

    Raises:
        ValueError: If a checkpoint cannot be loaded.
    """
    if not checkpoints:
        return ()
    network = copy.deepcopy(whole_network(options["model"]))
    require_loadable(network, checkpoints)
    first = next(iter(checkpoints.values()))
    load_weights(network, first)  # libraries load
    started = time.perf_counter()
    load_weights(network, first)
    each = time.perf_counter() - started
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    count = len(checkpoints)
    return (
        Step(
            name=f"weights of {count} checkpoints",
            method="read",
            reason=f"{first.name} took {each:.2g} s",
            host_bytes=2 * size,
            seconds=count * each,
        ),
    )
