"""Sampling a spectrum probe by probe until its error is as small as asked."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Final, final

import numpy as np
from jaxtyping import Float

from eigenscope._types import JsonValue
from eigenscope.estimators.checkpoint import Checkpoint
from eigenscope.estimators.dense import code
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.outer import Outer
from eigenscope.estimators.products import Products
from eigenscope.progress import progress
from eigenscope.spectra import Quadrature, Spectrum, rounding_floor
from eigenscope.spectra.transport import transport_distance

_SHARE: Final = 0.5  # of the error asked for, that the resolution may take
_TOGETHER: Final = 8
_STEP: Final = 8  # steps between two looks at the resolution

Nodes = Float[np.ndarray, "probe node"]
CoarseNodes = Float[np.ndarray, "probe coarse"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Measures of some probes, from all steps and from half of them."""

    nodes: Nodes
    weights: Nodes
    coarse_nodes: CoarseNodes
    coarse_weights: CoarseNodes


_PARTS: Final = tuple(field.name for field in fields(Sample))


class Sampler(ABC):
    """A way from probes to their measures, one group of them at a time."""

    @abstractmethod
    def begin(self, indices: range) -> None:
        """Draw the probes with these numbers; others are forgotten."""

    @abstractmethod
    def advance(self, num_steps: int) -> bool:
        """Take steps until there are `num_steps`; False if no more are of use."""

    @abstractmethod
    def sample(self) -> Sample | None:
        """Return the measures as they are now; None before the first step."""

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Steps that the present group has taken."""

    @property
    @abstractmethod
    def coarse_ratio(self) -> float:
        """Error of all steps over the distance between them and half of them."""

    @property
    @abstractmethod
    def kernel_width(self) -> float:
        """Standard deviation by which every node is widened."""

    @property
    @abstractmethod
    def most_together(self) -> int:
        """Probes whose memory fits."""


@final
class Sampling:
    """Groups of probes, added until the W1 error is within a tolerance.

    The first group settles how many steps a probe takes: until the distance between
    the measures of all steps and of half of them is at most half the error asked for.

    Args:
        sampler: What turns probes into measures.
        products: Products with A.
        outer: Eigenpairs that are known already.
        tolerance: W1 error asked for, relative to mean |λ|.
        max_probes: The most probes.
        max_steps: The most steps of a probe.
        checkpoint: Where finished groups go.
        provenance: How the spectrum is made.
    """

    def __init__(
        self,
        sampler: Sampler,
        products: Products,
        outer: Outer,
        *,
        tolerance: float,
        max_probes: int,
        max_steps: int,
        checkpoint: Checkpoint | None,
        provenance: dict[str, JsonValue],
    ) -> None:
        self._sampler, self._products, self._outer = sampler, products, outer
        self._tolerance = tolerance
        self._max_probes, self._max_steps = max_probes, max_steps
        self._checkpoint, self._provenance = checkpoint, provenance
        self._groups: list[Sample] = []
        self._num_steps = 0
        self._kernel_width = 0.0
        self._started = time.perf_counter()

    def run(self) -> Spectrum:
        """Add groups until the error is small enough or the probes are spent.

        Returns:
            The spectrum.

        Raises:
            Interrupted: On Ctrl-C, with the spectrum from what is finished.
        """
        try:
            self._take_up()
            found = self._spectrum()
            while found is None or self._goes_on(found):
                self._add_group()
                found = self._spectrum()
            return found
        except KeyboardInterrupt:
            raise Interrupted(self._as_it_is()) from None

    @property
    def _num_probes(self) -> int:
        return sum(len(group.nodes) for group in self._groups)

    def _goes_on(self, found: Spectrum) -> bool:
        """Whether more probes would help, and may be taken."""
        if found.converged or self._num_probes >= self._max_probes:
            return False
        if self._tolerance == 0:
            return True
        noise = quadrature_of(found).noise(found.dimension)
        return noise > _SHARE * self._resolution(found)

    def _add_group(self) -> None:
        first = self._num_probes
        count = min(_TOGETHER, self._max_probes - first, self._sampler.most_together)
        self._sampler.begin(range(first, first + count))
        if self._groups:
            total = self._num_steps
            label = f"probes {first + 1} to {first + count}"
            for step in progress(range(1, total + 1), label=label, total=total):
                if not self._sampler.advance(step):
                    break
        else:
            self._settle_steps()
            self._num_steps = self._sampler.num_steps
        sample = self._sampler.sample()
        if sample is None:
            raise AssertionError
        self._groups.append(_padded(sample, self._groups))
        self._kernel_width = self._sampler.kernel_width
        if self._checkpoint is not None:
            self._checkpoint.save(self._state())

    def _settle_steps(self) -> None:
        """Take steps until the resolution of the first group is good enough."""
        total = self._max_steps
        for step in progress(range(1, total + 1), label="first probes", total=total):
            if not self._sampler.advance(step):
                return
            if step % _STEP == 0 and step >= 2 * _STEP:
                found = self._spectrum([self._sampler.sample()])
                allowed = self._tolerance * mean_modulus(found)
                if self._resolution(found) <= _SHARE * allowed:
                    return

    def _resolution(self, found: Spectrum | None) -> float:
        """W1 distance between all steps and half of them, and the outer pairs' own."""
        if found is None:
            return np.inf
        quadrature = quadrature_of(found)
        fine = quadrature.measure(found.dimension)
        coarse = quadrature.measure(found.dimension, coarse=True)
        distance = transport_distance(*fine, *coarse)
        return self._sampler.coarse_ratio * distance + quadrature.outer_error

    def _spectrum(self, groups: list[Sample | None] | None = None) -> Spectrum | None:
        """The spectrum from some groups, by default the finished ones."""
        parts = [group for group in groups or self._groups if group is not None]
        dimension = self._products.dim
        if len(self._outer.values) == dimension:
            parts = [_nothing()]
        if not parts:
            return None
        quadrature = Quadrature(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in _PARTS
            },
            outer=self._outer.values,
            outer_error=self._outer.error,
            kernel_width=self._kernel_width or self._sampler.kernel_width,
        )
        values, weights = quadrature.measure(dimension)
        draft = Spectrum(
            values=values,
            weights=weights,
            dimension=dimension,
            exact=False,
            noise_floor=rounding_floor(
                float(np.abs(values).max()),
                dimension=dimension,
                epsilon=self._products.epsilon,
            ),
            quadrature=quadrature,
        )
        noise, resolution = quadrature.noise(dimension), self._resolution(draft)
        # A single probe says nothing about its own spread: no error to state but all.
        error = noise + resolution + draft.noise_floor
        bounded = error if np.isfinite(error) else float(np.ptp(values))
        made: dict[str, JsonValue] = self._provenance | self._products.remarks()
        made |= {
            "num_probes": quadrature.num_probes,
            "num_steps": self._num_steps or self._sampler.num_steps,
            "num_outer": len(self._outer.values),
            "noise": noise if np.isfinite(noise) else None,
            "resolution": resolution,
            "num_matvecs": self._products.count,
            "seconds": time.perf_counter() - self._started,
        }
        return replace(
            draft,
            error=bounded,
            converged=error <= self._tolerance * mean_modulus(draft),
            provenance=made | code(),
        )

    def _as_it_is(self) -> Spectrum | None:
        """What the finished groups say, or the first one as far as it came."""
        groups = list[Sample | None](self._groups) or [self._sampler.sample()]
        found = self._spectrum(groups)
        if found is None:
            return None
        return replace(found, converged=False)

    def _state(self) -> dict[str, np.ndarray]:
        """All finished groups and the number of products."""
        state = {
            name: np.concatenate([getattr(group, name) for group in self._groups])
            for name in _PARTS
        }
        counts = (self._products.count, self._num_steps)
        width = np.array(self._kernel_width)
        return state | {"counts": np.array(counts), "kernel_width": width}

    def _take_up(self) -> None:
        """Read what an earlier process finished."""
        saved = self._checkpoint.load() if self._checkpoint else None
        if saved is not None:
            state = saved[0]
            parts = {name: state[name] for name in _PARTS}
            self._groups = [Sample(**parts)]
            self._products.count, self._num_steps = map(int, state["counts"])
            self._kernel_width = float(state["kernel_width"])


def mean_modulus(found: Spectrum | None) -> float:
    """Σ w |λ|, the scale that errors are measured by.

    Args:
        found: A spectrum, or None, which has no scale.

    Returns:
        The mean of |λ|.
    """
    return 0.0 if found is None else float(found.weights @ np.abs(found.values))


def quadrature_of(found: Spectrum) -> Quadrature:
    """What the probes of an estimated spectrum say.

    Args:
        found: An estimated spectrum.

    Returns:
        Its quadrature.

    Raises:
        ValueError: If the spectrum is exact.
    """
    if found.quadrature is None:
        raise ValueError(
            "the spectrum must be an estimate, which has probes; it is exact. Use its "
            "values and weights."
        )
    return found.quadrature


def _nothing() -> Sample:
    """One probe in a space of dimension zero: its measure has no share."""
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    return Sample(nodes=zero, weights=one, coarse_nodes=zero, coarse_weights=one)


def _padded(sample: Sample, groups: list[Sample]) -> Sample:
    """The sample with as many nodes as the first group has: the others weigh 0."""
    if not groups:
        return sample

    def fitted(name: str) -> Nodes:
        found, wanted = getattr(sample, name), getattr(groups[0], name).shape[1]
        missing = ((0, 0), (0, max(0, wanted - found.shape[1])))
        return np.pad(found, missing)

    return Sample(**{name: fitted(name) for name in _PARTS})
