"""A call that grows with its samples, and the step of a plan that it makes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import torch

from eigenscope.planning.factorizations import product_seconds
from eigenscope.planning.plan import Step
from eigenscope.planning.rehearsal import Measurement, Sized, grown, rehearse

_EFFICIENCY: Final = 0.7  # of the products within kernels, against large ones


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
        pair_flops: Multiplications and additions for each pair of samples, n² of them;
            everything else grows with n.
        dtype: Type of these products.
        kept_bytes: Bytes of results and of what is known to be kept for them, by the
            number of samples. What else a call holds until its end is measured; the
            rest is that of one chunk.
        chunk: Samples that go through the network together.
        budget: Bytes that may be held.
        passes: Passes over the data.
        backward: Backward passes for each sample.
        disk_bytes: What is written.
        again: Whether the seconds of later calls are wanted, not those of the first.
    """

    name: str
    method: str
    reason: str = ""
    num_samples: int
    device: torch.device
    call_on: Sized
    pair_flops: float = 0.0
    dtype: torch.dtype = torch.float32
    kept_bytes: Callable[[int], int]
    chunk: int
    budget: int
    passes: float = 1.0
    backward: float = 0.0
    disk_bytes: int = 0
    again: bool = False

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
        )

    def step(self, found: tuple[Measurement, ...]) -> Step:
        """Return what the work on all samples costs.

        Args:
            found: What `rehearsed` returned.

        Returns:
            The step.
        """
        pair_seconds = self.pair_flops * product_seconds(self.dtype) / _EFFICIENCY
        flops = self._at([m.flops for m in found], found, self.pair_flops)
        seconds = self._at([m.seconds for m in found], found, pair_seconds)
        peak = self._peak(found)
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
        )

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
        last = max(2, len(found) - 1)  # the smallest size is mostly checks
        linear = grown(
            [m.size for m in found][-last:],
            rest[-last:],
            powers=(0, 1),
            size=self.num_samples,
        )
        return linear + each_pair * self.num_samples**2

    def _peak(self, found: tuple[Measurement, ...]) -> int:
        """Return what is kept for all samples, and the largest beside it."""
        held = self._grown_bytes(found, [m.held for m in found], self.num_samples)
        beside = [max(0, m.bytes - m.held - self.kept_bytes(m.size)) for m in found]
        together = min(self.chunk, self.num_samples)
        if found[-1].size >= together:
            working = max(beside)  # more samples need no more
        else:
            working = self._grown_bytes(found, beside, together)
        return self.kept_bytes(self.num_samples) + min(held + working, self.budget)

    def _grown_bytes(
        self, found: tuple[Measurement, ...], values: list[int], size: int
    ) -> int:
        sizes = [m.size for m in found][-3:]
        amounts = [float(value) for value in values][-3:]
        return round(grown(sizes, amounts, powers=(0, 1), size=size))
