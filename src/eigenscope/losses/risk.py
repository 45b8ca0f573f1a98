"""The risk of a problem: one number that no cut into batches changes."""

import copy
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.autodiff import (
    recordable,
    recordable_batch,
    second_derivative,
    twice_differentiable,
)
from eigenscope.losses.base import RiskLoss
from eigenscope.losses.interpret import callable_loss, known_loss, mean_loss
from eigenscope.losses.parts import torch_parts
from eigenscope.problem import (
    Batch,
    Halving,
    ModelState,
    Problem,
    left_as_found,
    require_no_batch_statistics,
)
from eigenscope.problem.alike import require_same_numbers

_NUM_COMPARED = 8


@final
class Risk:
    """L(θ) = Σ numerators / Σ denominators over the whole data set.

    What the reduction of the loss means for all samples together: for a mean the
    denominators are samples, unignored tokens or class weights; for a sum there is
    none. Never a mean of the batches' means.

    Args:
        problem: The network, its data with targets, and the loss.

    Raises:
        ValueError: If there is no loss or no target, the loss is no scalar, not the
            same for parts of a batch or not twice differentiable, a target is out of
            range, something is not finite (the message names the batch), all terms
            are ignored, or samples influence each other.

    Cost:
        One forward pass over the data and a second derivative of the loss alone.

    Attributes:
        problem: The problem.
        loss: Numerators and denominators.
        denominator: What sums of numerators are divided by; 1 for a sum.
        value: L(θ).
        examples: One sample and its raw outputs for every shape of these.
    """

    def __init__(self, problem: Problem) -> None:
        require_no_batch_statistics(problem.model, what="a risk over a data set needs")
        self.problem = problem
        self._halving = Halving("the loss over the data")
        self.loss = _interpreted(problem.whole(), self._halving)
        self.examples: list[tuple[Batch, Tensor]] = []
        with problem.ranks.together():
            total, count = self._own_sums()
        total, count = self._put_together(total, count)
        if self.loss.is_mean and count <= 0:
            raise ValueError(
                "the risk needs at least one term that counts; the denominator of "
                f"{self.loss.name} over all {problem.num_samples} samples is "
                f"{count:g}. Are all targets ignored, or their class weights zero?"
            )
        self.denominator = count if self.loss.is_mean else 1.0
        self.value = total / self.denominator
        self._state = ModelState(problem.model)

    def _own_sums(self) -> tuple[float, float]:
        """Return numerator and denominator of this rank's samples."""
        sums: list[tuple[float, float]] = []
        for index, batch in enumerate(map(recordable_batch, self.problem.batches)):
            self._halving.run(partial(self._add_sums, sums, index), batch)
        return sum(own for own, _ in sums), sum(own for _, own in sums)

    def _add_sums(
        self, sums: list[tuple[float, float]], index: int, batch: Batch
    ) -> None:
        """Check some samples of a batch, and add what they give."""
        raw = _raw(self.problem, batch)
        with torch.no_grad():
            own = _checked_sums(self.loss, batch, raw, index)
        if not sums:
            _require_unmixed(self.problem, batch, raw)
            _require_twice_differentiable(self.loss, batch, raw)
        sums.append(own)
        if tuple(raw.shape[1:]) not in {tuple(r.shape[1:]) for _, r in self.examples}:
            self.examples.append((batch.part(0, 1).owned(), raw[:1].clone()))

    def _put_together(self, total: float, count: float) -> tuple[float, float]:
        """Exchange what the ranks have found; return the whole sums."""
        ranks = self.problem.ranks
        if ranks.size == 1:
            return total, count
        starts = ranks.gather([batch.start for batch, _ in self.examples])
        self.examples = _examples(self.problem, [s for own in starts for s in own])
        with ranks.together():
            own = self._compared()
        require_same_numbers(ranks, "losses", own, self.problem.dtype)
        sums = ranks.gather((total, count))
        return sum(own for own, _ in sums), sum(own for _, own in sums)

    def _compared(self) -> list[float]:
        """Return numerator and denominator of the first samples, for other ranks."""
        batch = recordable_batch(self.problem.whole().batches.first(_NUM_COMPARED))
        raw, targets = _raw(self.problem, batch), batch.targets
        with torch.no_grad():
            count = self.loss.denominator(raw, targets) if self.loss.is_mean else 0.0
            return [float(self.loss.numerator(raw, targets)), float(count)]

    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        """Return some samples' part of L(θ), which autograd can differentiate."""
        return self.loss.numerator(raw, targets) / self.denominator

    def with_changed(self, begin: Callable[[], Callable[[Batch], Batch]]) -> "Risk":
        """Return the same risk with something added to the targets of its problem.

        Args:
            begin: As for `Batches.changed`.

        Returns:
            A risk whose own numbers stay.
        """
        other, change = copy.copy(self), begin()
        other.problem = copy.copy(self.problem)
        other.problem.batches = self.problem.batches.changed(begin)
        other.examples = [(change(batch), raw) for batch, raw in self.examples]
        return other

    def with_batch_size(self, batch_size: int) -> "Risk":
        """Return the same risk, whose samples are cut into chunks of another size.

        Args:
            batch_size: Samples of a chunk.

        Returns:
            A risk that shares data and denominator.
        """
        other = copy.copy(self)
        other.problem = copy.copy(self.problem)
        other.problem.batches = self.problem.batches.with_batch_size(batch_size)
        return other

    def require_same_model(self) -> None:
        """Raise if the model is not what it was when the risk was made.

        Raises:
            DataChangedError: If its weights, buffers or mode differ.
        """
        self._state.require_same("risk")


def _examples(problem: Problem, samples: list[int]) -> list[tuple[Batch, Tensor]]:
    """Return some samples and their raw outputs, one for every shape of these."""
    found: dict[tuple[int, ...], tuple[Batch, Tensor]] = {}
    for sample in samples:
        (batch,) = map(
            recordable_batch, problem.batches.within(range(sample, sample + 1))
        )
        raw = _raw(problem, batch)
        found.setdefault(tuple(raw.shape[1:]), (batch.owned(), raw.clone()))
    return list(found.values())


def _interpreted(problem: Problem, halving: Halving) -> RiskLoss:
    loss = problem.loss
    if loss is None:
        raise ValueError(
            "curvature needs a loss; the problem has none. Pass "
            "es.Problem(model, data, loss=...), for example nn.CrossEntropyLoss()."
        )
    parts = torch_parts(loss)
    if parts is not None and parts.reduction == "none":
        raise ValueError(
            f"a loss must be a scalar; {parts.name} has reduction='none'. Use 'mean' "
            "or 'sum'."
        )
    known = known_loss(loss)
    if known is not None:
        return known
    settled: list[RiskLoss] = []
    for batch in map(recordable_batch, problem.batches):
        if not settled and (batch.size > 1 or problem.num_samples == 1):
            halving.run(partial(_settle, problem, loss, settled), batch)
        if settled:
            return settled[0]
    batch = recordable_batch(problem.batches.first(2))
    raw = _raw(problem, batch)
    return callable_loss(loss, raw, batch.targets) or mean_loss(loss)


def _settle(
    problem: Problem, loss: Callable[..., Any], settled: list[RiskLoss], batch: Batch
) -> None:
    """Learn from some samples of a batch what a callable's number means."""
    if settled or (batch.size == 1 < problem.num_samples):
        return
    found = callable_loss(loss, _raw(problem, batch), batch.targets)
    if found is not None:
        settled.append(found)


def _raw(problem: Problem, batch: Batch) -> Tensor:
    model = problem.model
    with torch.no_grad(), left_as_found(model), twice_differentiable(model):
        return recordable(problem.raw(batch.inputs))


def _checked_sums(
    loss: RiskLoss, batch: Batch, raw: Tensor, index: int
) -> tuple[float, float]:
    """Return numerator and denominator of a batch."""
    where = f"batch {index} (samples {batch.start} to {batch.start + batch.size - 1})"
    if batch.targets is None:
        raise ValueError(
            f"curvature needs a target for every sample; {where} has none. Pass "
            "(inputs, targets), or name the entry of a mapping with labels=."
        )
    if not bool(raw.isfinite().all()):
        bad = (~raw.isfinite()).reshape(len(raw), -1).any(1)
        raise ValueError(
            "the model's output must be finite; that of sample "
            f"{batch.start + int(bad.nonzero()[0, 0])} in {where} holds NaN or "
            "infinity, as after a diverged training. Load an earlier checkpoint."
        )
    loss.require_valid(raw, batch.targets, batch.start)
    numerator = float(loss.numerator(raw, batch.targets))
    if not isfinite(numerator):
        raise ValueError(
            f"the loss must be finite; {loss.name} of {where} is {numerator}. Look at "
            "the targets and at the scale of the outputs."
        )
    loss.require_additive(raw, batch.targets, batch.start)
    count = loss.denominator(raw, batch.targets) if loss.is_mean else 0.0
    return numerator, count


def _require_unmixed(problem: Problem, batch: Batch, raw: Tensor) -> None:
    """Raise unless the first samples answer the same without the others."""
    if batch.size < 2:
        return
    part = batch.part(0, batch.size // 2)
    alone = _raw(problem, part)
    noise = torch.finfo(raw.dtype).eps ** 0.5 * raw.abs().max()
    together = raw[: part.size]
    if alone.shape != together.shape or bool(((alone - together).abs() > noise).any()):
        raise ValueError(
            "a risk over a data set needs every sample to be independent of the "
            f"others; the outputs of the first {part.size} samples change when the "
            f"other {batch.size - part.size} of their batch are left out. Is axis 0 "
            "the sample axis, and is the model in eval mode?"
        )


def _require_twice_differentiable(loss: RiskLoss, batch: Batch, raw: Tensor) -> None:
    advice = "Write it with differentiable functions of the raw outputs."
    try:
        multiply = second_derivative(
            lambda z: loss.numerator(z, batch.targets), raw, checked=True
        )
        multiply(torch.ones_like(raw))
    except RuntimeError as error:
        raise ValueError(
            f"curvature needs a loss that is twice differentiable by the raw outputs; "
            f"{loss.name} is not ({error}). {advice}"
        ) from error
