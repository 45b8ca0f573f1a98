"""A call that grows with its samples, and the step of a plan that it makes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import torch

from eigenscope.planning.factorizations import product_seconds
from eigenscope.planning.plan import Step
from eigenscope.planning.rehearsal import Measurement, Sized, grown, rehearse

_MOST_PAIRED: Final = 1024
_FEWEST_PAIRED: Final = 32


def nothing(size: int) -> int:
    """Return the bytes of what is kept where nothing is known to be."""
    return 0 * size


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work on n samples that can be rehearsed on fewer.

    Attributes:
        name: What is done.
        method: How.
        reason: Why so.
        num_samples: n.
        device: Where it computes.
        call_on: The work on the first m samples.
        powers: How seconds and flops grow beside pairs: Σ c_p n^p.
        pair_flops: Multiplications and additions for each pair of samples, n² of them.
        dtype: Type of these products.
        pair_seconds: From samples to the seconds that a pair of so many takes, as it is
            measured; None where products of large matrices are all that pairs need.
        kept_bytes: Bytes of results and of what is known to be kept for them, by the
            number of samples. What else a call holds until its end is measured; the
            rest is that of one chunk.
        chunk: Samples that go through the network together.
        budget: Bytes that may be held.
        passes: Passes over the data.
        backward: Backward passes for each sample.
        disk_bytes: What is written.
        again: Whether the seconds of later calls are wanted, not those of the first.
        least: Samples of the smallest rehearsal.
        has_arrays: Whether memory is that of NumPy arrays, not of tensors.
        result_last: Whether `kept_bytes` are taken when the work of chunks is over.
        is_bounded: Whether everything together keeps to the budget.
        is_shared: Whether ranks divide the work.
    """

    name: str
    method: str
    reason: str = ""
    num_samples: int
    device: torch.device
    call_on: Sized
    powers: tuple[int, ...] = (0, 1)
    pair_flops: float = 0.0
    dtype: torch.dtype = torch.float32
    pair_seconds: Callable[[int], float] | None = None
    chunk: int
    budget: int
    kept_bytes: Callable[[int], int] = nothing
    passes: float = 1.0
    backward: float = 0.0
    disk_bytes: int = 0
    again: bool = False
    least: int = 2
    has_arrays: bool = False
    result_last: bool = False
    is_bounded: bool = False
    is_shared: bool = False

    def rehearsed(self, effort: float) -> tuple[Measurement, ...]:
        """Run the work on a few samples.

        Args:
            effort: Seconds for it.

        Returns:
            Measurements by growing size.
        """
        return rehearse(
            self.call_on,
            num_samples=self.num_samples,
            chunk=self.chunk,
            device=self.device,
            effort=effort,
            again=self.again,
            least=self.least,
            has_arrays=self.has_arrays,
        )

    def step(self, found: tuple[Measurement, ...]) -> Step:
        """Return what the work on all samples costs.

        Args:
            found: What `rehearsed` returned.

        Returns:
            The step.
        """
        pair_seconds = self._pair_seconds(found)
        flops = self._at([m.flops for m in found], found, self.pair_flops)
        seconds = self._at([m.seconds for m in found], found, pair_seconds)
        peak = self._peak(found, self.num_samples)
        return Step(
            name=self.name,
            method=self.method,
            reason=self.reason,
            passes=self.passes,
            forward=self.passes * self.num_samples,
            backward=self.backward * self.num_samples,
            flops=flops,
            device_bytes=peak,
            host_bytes=peak if self.device.type == "cpu" else 0,
            disk_bytes=self.disk_bytes,
            seconds=seconds,
            is_shared=self.is_shared,
            most_samples=self._most_samples(found) if peak > self.budget else None,
        )

    def _pair_seconds(self, found: tuple[Measurement, ...]) -> float:
        """Return the seconds of a pair: those of large products, or measured.

        Gradients of as many samples are paired as took half of the rehearsal.
        """
        by_flops = self.pair_flops * product_seconds(self.dtype)
        largest = found[-1].size
        if self.pair_seconds is None or largest == self.num_samples:
            return by_flops
        spent = sum(m.seconds for m in found)
        affordable = round(largest * spent / max(1e-9, found[-1].seconds))
        size = max(_FEWEST_PAIRED, largest, min(affordable, _MOST_PAIRED))
        return max(by_flops, self.pair_seconds(min(size, self.num_samples)))

    def _at(
        self, values: list[float], found: tuple[Measurement, ...], each_pair: float
    ) -> float:
        """Return a value for all samples: what pairs take, and the rest's growth."""
        if found[-1].size == self.num_samples:
            return values[-1]
        rest = [
            max(0.0, value - each_pair * m.size**2)
            for value, m in zip(values, found, strict=True)
        ]
        last = max(len(self.powers), len(found) - 1)  # the smallest is mostly checks
        other = grown(
            [m.size for m in found][-last:],
            rest[-last:],
            powers=self.powers,
            size=self.num_samples,
        )
        return other + each_pair * self.num_samples**2

    def _peak(self, found: tuple[Measurement, ...], size: int) -> int:
        """Return the most of what is done once, and of the work on some samples."""
        return max(found[-1].start, self._working_peak(found, size))

    def _working_peak(self, found: tuple[Measurement, ...], size: int) -> int:
        """Return what is kept of some samples, and the largest beside it."""
        if found[-1].size == size:
            return found[-1].bytes
        held = self._grown_bytes(found, [m.held for m in found], size)
        kept = self.kept_bytes(size)
        beside = [max(0, m.bytes - m.held - self.kept_bytes(m.size)) for m in found]
        if self.result_last:  # the peaks are those of chunks
            beside = [max(0, m.bytes - m.held) for m in found]
        chunk = min(self.chunk, size)
        if found[-1].size >= chunk:
            working = max(beside)  # more samples need no more
        else:
            working = self._grown_bytes(found, beside, chunk)
        if self.result_last:
            return max(kept, min(held + working, self.budget))
        together = kept + min(held + working, self.budget)
        return min(together, self.budget) if self.is_bounded else together

    def _most_samples(self, found: tuple[Measurement, ...]) -> int | None:
        """Return the most samples whose memory is within the budget, if any are."""
        low, high = 0, self.num_samples  # fits, does not fit
        while high - low > 1:
            middle = (low + high) // 2
            is_within = self._peak(found, middle) <= self.budget
            low, high = (middle, high) if is_within else (low, middle)
        return low or None

    def _grown_bytes(
        self, found: tuple[Measurement, ...], values: list[int], size: int
    ) -> int:
        sizes = [m.size for m in found][-3:]
        amounts = [float(value) for value in values][-3:]
        return round(grown(sizes, amounts, powers=(0, 1), size=size))
