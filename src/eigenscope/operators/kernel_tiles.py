"""Writing one triangle of tangent kernels into a run, tile by tile."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

import torch

from eigenscope._types import JsonValue, KernelMethod, KernelOutputs
from eigenscope.budget import resolve
from eigenscope.kernels import KernelEngine, KernelSettings
from eigenscope.kernels.matrices import add_ranges, require_finite_kernel
from eigenscope.kernels.scratch import Scratch
from eigenscope.kernels.triangles import mirror_lower
from eigenscope.operators.gram_tiles import FACTOR_DTYPE
from eigenscope.problem import Problem
from eigenscope.progress import progress
from eigenscope.store import Run, TiledArray

_TILE_ROWS = 2048


def write_kernels(
    problem: Problem,
    run: Run,
    name: str,
    groups: Mapping[str, str],
    *,
    outputs: KernelOutputs,
    method: KernelMethod,
    memory: str | int | None,
) -> dict[str, TiledArray]:
    """Write the lower triangle of tiles of one or several kernels of a data set.

    Tile and block sizes and the form of every parameter's part are recorded in the
    run's settings at the first call, so that a resumed run adds in the same order.

    Args:
        problem: The network and its data.
        run: A run that is open for writing.
        name: Under which the settings are recorded.
        groups: Parameter to the array that its part is added to.
        outputs: "full" or "trace".
        method: How.
        memory: Budget.

    Returns:
        The arrays by name; tiles above the diagonal stay absent.

    Raises:
        ValueError: If the budget does not hold what two samples need, or an entry is
            not finite.
        OSError: If the disk cannot take what is missing.
    """
    each = problem.num_outputs if outputs == "full" else 1
    names = list(dict.fromkeys(groups.values()))
    engine, settings = _engine(problem, run, name, len(names), outputs, method, memory)
    tile, size = settings.step * each, problem.num_samples * each
    arrays = {
        array: run.array(
            array,
            shape=(size, size),
            dtype=str(engine.dtype).removeprefix("torch."),
            tile_shape=(tile, tile),
            attributes=_attributes(problem, engine, outputs, array, groups),
        )
        for array in names
    }
    pending = {
        array: {
            index
            for index in run.ranks.from_first(tiled.missing)
            if index[0] >= index[1]
        }
        for array, tiled in arrays.items()
    }
    run.require_space(
        sum(len(missing) * arrays[a].tile_bytes for a, missing in pending.items())
    )
    wanted = sorted({(i, j) for missing in pending.values() for i, j in missing})
    ranks = engine.ranks
    steps = _write_tiles(
        engine, settings.step, groups, arrays, pending, set(ranks.deal_pairs(wanted))
    )
    ranks.in_step(steps, rounds=ranks.most_pairs(wanted))
    return arrays


def _engine(
    problem: Problem,
    run: Run,
    name: str,
    num_arrays: int,
    outputs: KernelOutputs,
    method: KernelMethod,
    memory: str | int | None,
) -> tuple[KernelEngine, KernelSettings]:
    """Return the engine, as it was if the run goes on, and what decides its sums."""
    key = f"{name}_engine"
    recorded = cast("dict[str, Any] | None", run.settings.get(key))
    repeated = KernelSettings(**recorded) if recorded else None
    engine, settings = tile_engine(
        problem,
        num_arrays,
        outputs=outputs,
        method=method,
        memory=memory,
        repeated=repeated,
    )
    run.record_settings({key: cast("JsonValue", asdict(settings))})
    return engine, settings


def tile_engine(
    problem: Problem,
    num_arrays: int,
    *,
    outputs: KernelOutputs,
    method: KernelMethod,
    memory: str | int | None,
    repeated: KernelSettings | None = None,
) -> tuple[KernelEngine, KernelSettings]:
    """Return the engine of tiles that take at most a quarter of the budget.

    Args:
        problem: The samples.
        num_arrays: Kernels that are written together.
        outputs: "full" or "trace".
        method: How.
        memory: Budget.
        repeated: Settings of an earlier run.

    Returns:
        The engine and its settings.

    Raises:
        ValueError: If the budget does not hold what two samples need.
    """
    each = problem.num_outputs if outputs == "full" else 1
    samples = min(problem.num_samples, max(1, _TILE_ROWS // each))
    budget = resolve(memory)
    itemsize = max(4, problem.dtype.itemsize)
    while samples > 1 and num_arrays * (samples * each) ** 2 * itemsize > budget // 4:
        samples = -(-samples // 2)
    engine = KernelEngine(
        problem,
        outputs=outputs,
        method=method,
        free_bytes=budget - num_arrays * (samples * each) ** 2 * itemsize,
        settings=repeated,
    )
    return engine, engine.settings(samples)


def _attributes(
    problem: Problem,
    engine: KernelEngine,
    outputs: KernelOutputs,
    array: str,
    groups: Mapping[str, str],
) -> dict[str, JsonValue]:
    output = problem.output
    return {
        "outputs": outputs,
        "output": "callable" if callable(output) else output,
        "parameters": [param for param, own in groups.items() if own == array],
        FACTOR_DTYPE: str(engine.dtype).removeprefix("torch."),
        **problem.fingerprint(),
    }


def _write_tiles(
    engine: KernelEngine,
    step: int,
    groups: Mapping[str, str],
    arrays: Mapping[str, TiledArray],
    pending: Mapping[str, set[tuple[int, ...]]],
    mine: set[tuple[int, int]],
) -> Iterator[None]:
    """Write some pairs' tiles, those of one whenever the iterator is advanced."""
    if not mine:
        return
    each = engine.problem.num_outputs if engine.outputs == "full" else 1
    grid = next(iter(arrays.values())).grid[0]
    total = grid * (grid + 1) // 2
    scratch = Scratch()
    like = torch.empty(0, dtype=engine.dtype, device=engine.problem.device)
    pairs = engine.pairs(step, wanted=mine)
    done = total - len(mine) * engine.ranks.size
    for i, j, left, right in progress(pairs, label="NTK", total=total, done=done):
        rows = (left.stop - left.start) * each
        columns = min(step, engine.problem.num_samples - j * step) * each
        tiles = {
            name: scratch.take(f"tile {name}", (rows, columns), like).zero_()
            for name in arrays
        }
        origin = (i * step, j * step)
        add_ranges(tiles, groups, left, right, origin, engine.outputs, scratch)
        for name, tile in tiles.items():
            if i == j:
                mirror_lower(tile)
            require_finite_kernel(tile, each, i * step)
            if (i, j) in pending[name]:
                arrays[name].write((i, j), tile.cpu().numpy())
        yield
