"""How long the products of pairs of samples take in a tangent kernel."""

import time
from typing import Any

import torch

from eigenscope._types import KernelMethod, KernelOutputs
from eigenscope.kernels import KernelEngine, KernelSettings
from eigenscope.kernels.blocks import Range
from eigenscope.kernels.matrices import add_ranges
from eigenscope.kernels.scratch import Scratch
from eigenscope.problem import Problem


def measured_pair_seconds(
    problem: Problem,
    other: Problem | None,
    size: int,
    *,
    outputs: KernelOutputs,
    method: KernelMethod,
    settings: KernelSettings,
    free_bytes: int,
) -> float:
    """Return the seconds of each of n₁ · n₂ pairs, with gradients that are there.

    Gradients of the first samples are found and multiplied with each other, as the
    whole kernel does it.

    Args:
        problem: Samples of the rows.
        other: Those of the columns; None for the same.
        size: Samples that are taken, of both.
        outputs: "full" or "trace".
        method: How.
        settings: Of the whole kernel, whose forms are taken.
        free_bytes: Memory for gradients.

    Returns:
        Seconds; for one set of samples with only one triangle computed.
    """
    forms = settings.forms
    block = settings.block_size
    engine = KernelEngine(
        problem.first(size),
        None if other is None else other.first(min(size, other.num_samples)),
        outputs=outputs,
        method=method,
        free_bytes=free_bytes,
        settings=KernelSettings(step=size, block_size=block, forms=forms),
    )
    results = {"": torch.zeros(engine.shape, dtype=engine.dtype, device=problem.device)}
    groups = dict.fromkeys(engine.choices, "")
    _, _, left, right = next(engine.pairs(size))
    seconds = min(_timed(engine, results, groups, left, right) for _ in range(2))
    return seconds / ((left.stop - left.start) * (right.stop - right.start))


def _timed(
    engine: KernelEngine,
    results: dict[str, torch.Tensor],
    groups: dict[str, str],
    left: Range,
    right: Range,
) -> float:
    device: Any = engine.problem.device
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    started = time.perf_counter()
    add_ranges(results, groups, left, right, (0, 0), engine.outputs, Scratch())
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - started
