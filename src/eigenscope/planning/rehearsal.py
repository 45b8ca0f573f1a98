"""Running a call on the first samples: seconds, flops, bytes, and how they grow."""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import lsq_linear

from eigenscope.planning.counting import Bystanders, Counting

EFFORT: Final = 4.0
"""Seconds that a rehearsal takes, roughly."""
_SHORT, _LONG = 0.5, 4.0
_MOST_RUNS: Final = 5
_GROWTH: Final = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a call on some samples took.

    Attributes:
        size: The samples.
        seconds: Of the fastest run.
        flops: Multiplications and additions.
        bytes: The most that tensors made by the call took at one time.
        held: What they still took when the call was over and its result dropped.
        start: The most that they took where no sample counts, as `parted` tells; then
            `bytes` are those of the rest.
        course: Bytes after every operation.
    """

    size: int
    seconds: float
    flops: float
    bytes: int
    held: int
    start: int = 0
    course: Sequence[int] = field(default=(), repr=False)


Sized = Callable[[int], Callable[[], object]]
"""From a number of samples to the call on the first so many."""


def rehearse(
    call_on: Sized,
    *,
    num_samples: int,
    chunk: int,
    device: torch.device,
    effort: float = EFFORT,
    again: bool = False,
    least: int = 2,
    has_arrays: bool = False,
) -> tuple[Measurement, ...]:
    """Run a call on 2, 16, 128, … samples while that takes no longer than asked.

    Args:
        call_on: The call for a number of samples; what it makes beforehand is not
            counted.
        num_samples: All samples.
        chunk: Samples that are worked on together: more of them need more memory only
            for what is kept, so these are tried, too, if that takes four times the
            effort at most.
        device: Where the call computes.
        effort: Seconds for all runs, of which there are at least two.
        again: As for `measure`.
        least: Samples of the first run.
        has_arrays: As for `measure`.

    Returns:
        Measurements by growing size.
    """
    started = time.perf_counter()
    size = min(least, num_samples)
    call_on(size)()  # libraries load and threads start
    found: list[Measurement] = []
    options: dict[str, Any] = {"again": again, "has_arrays": has_arrays}
    with Bystanders() as before:
        options["bystanders"] = before
        while True:
            found.append(measure(call_on, size=size, device=device, **options))
            elapsed = time.perf_counter() - started
            next_run = 3.5 * _GROWTH * found[-1].seconds  # three runs, one counts all
            is_enough = len(found) > 1 and elapsed + next_run > effort
            if is_enough or size == num_samples:
                break
            size = min(_GROWTH * size, num_samples)
        whole = min(chunk, num_samples)
        if size < whole and found[-1].seconds * 3 * whole / size < 4 * effort:
            found.append(measure(call_on, size=whole, device=device, **options))
    return parted(found)


def parted(found: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Tell what is held once, whatever the number of samples, from the rest.

    To the byte the same is held only where no sample counts: in proofs on the first two
    samples, say, which are over before anything is kept.

    Args:
        found: Measurements of calls on different numbers of samples.

    Returns:
        The same, with `start`, and the peak of the rest as `bytes`.

    Example:
        >>> known = {"seconds": 0.0, "flops": 0.0, "bytes": 9, "held": 0}
        >>> found = [
        ...     Measurement(size=1, course=[9, 1, 3], **known),
        ...     Measurement(size=2, course=[2, 9, 1, 6], **known),
        ... ]
        >>> [(m.start, m.bytes) for m in parted(found)]
        [(9, 3), (9, 6)]
    """
    if len(found) < 2 or not all(m.course for m in found):
        return tuple(found)
    same = set[int].intersection(*(set(m.course) for m in found))
    start = max(same, default=0)
    return tuple(
        replace(
            m,
            start=start,
            bytes=max((own for own in m.course if own not in same), default=start),
        )
        for m in found
    )


def measure(
    call_on: Sized,
    *,
    size: int,
    device: torch.device,
    again: bool = False,
    has_arrays: bool = False,
    bystanders: Bystanders | None = None,
) -> Measurement:
    """Take the seconds of a call, and its flops and bytes in another run.

    Args:
        call_on: The call for a number of samples.
        size: The samples that it works on.
        device: Where it computes.
        again: Whether the seconds and flops of later calls of the same are wanted,
            which find what the first one left.
        has_arrays: Whether memory is that of NumPy arrays, not of tensors.
        bystanders: As for `Counting`.

    Returns:
        The measurement.
    """
    seconds = 0.0 if again else _fastest(call_on, size, device)
    call = call_on(size)  # nothing is left of the first
    with Counting(device, bystanders) as counted:
        result = call()
    del result
    peak, held, flops = counted.peak, counted.now, counted.flops
    course = () if has_arrays else counted.course
    if has_arrays:
        peak = _array_bytes(call_on(size))
    if again:
        seconds = _fastest(lambda _: call, size, device)
        with Counting(device, bystanders) as later:
            result = call()
        del result
        flops = later.flops
    return Measurement(
        size=size,
        seconds=seconds,
        flops=float(flops),
        bytes=peak,
        held=held,
        course=course,
    )


def grown(
    sizes: Sequence[float],
    values: Sequence[float],
    *,
    powers: Sequence[int],
    size: float,
    least: Sequence[float] | None = None,
) -> float:
    """Value at a size of the polynomial Σ c_p size^p, c_p ≥ 0, through measured values.

    Relative errors are minimized, so that small sizes count as much as large ones.

    Args:
        sizes: Where values are known.
        values: At least 0.
        powers: The p.
        size: Where the value is wanted.
        least: Lower bounds of the c_p; 0 if None.

    Returns:
        The value.

    Example:
        >>> round(grown([1, 2, 4], [3.0, 5.0, 9.0], powers=(0, 1), size=100), 6)
        201.0
    """
    known = np.asarray(values, dtype=np.float64)
    if not known.any():
        return 0.0
    weights = 1 / np.maximum(known, known.max() * 1e-9)
    basis = _powers(sizes, powers)
    scale = basis.max(axis=0)  # columns of one size
    bounds = np.zeros(len(powers)) if least is None else np.asarray(least) * scale
    fit: Any = lsq_linear(
        basis / scale * weights[:, None], known * weights, (bounds, np.inf)
    )
    return float(_powers([size], powers)[0] / scale @ fit.x)


def _powers(
    sizes: Sequence[float], powers: Sequence[int]
) -> Float[np.ndarray, "size power"]:
    return np.asarray([[float(size) ** p for p in powers] for size in sizes])


def _fastest(call_on: Sized, size: int, device: torch.device) -> float:
    """Return the seconds of the fastest of some calls, of two unless it is long.

    The first one of a size often waits for memory that later ones find.
    """
    seconds = [_timed(call_on(size), device)]
    while len(seconds) < _MOST_RUNS:
        is_enough = sum(seconds) > (_LONG if len(seconds) == 1 else _SHORT)
        if is_enough:
            break
        seconds.append(_timed(call_on(size), device))
    return min(seconds)


def _array_bytes(call: Callable[[], object]) -> int:
    """Return the most memory that Python and NumPy took for a call."""
    if tracemalloc.is_tracing():  # somebody else's, whose peak stays
        before, earlier = tracemalloc.get_traced_memory()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        return peak - before if peak > earlier else 0
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _timed(call: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    started = time.perf_counter()
    kept = call()
    _wait_for(device)
    seconds = time.perf_counter() - started
    del kept
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
