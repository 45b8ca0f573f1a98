"""Per-sample derivatives need samples that do not influence each other: checked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eigenscope.autodiff import differentiable_copy
from eigenscope.problem import Batch, ModelInputs, Problem, flatten_outputs


def at_least_two(batch: Batch) -> Batch:
    """Return the batch, its one sample taken twice if it has no more."""
    if batch.size > 1:
        return batch
    order = torch.zeros(2, dtype=torch.long)
    return Batch(
        inputs=pick(batch.inputs, order, 1),
        targets=pick(batch.targets, order, 1),
        start=batch.start,
        size=2,
    )


def pick(value: Any, order: Tensor, size: int) -> Any:
    """Return samples in the given order, of every tensor that has `size` of them."""
    if isinstance(value, dict):
        return {key: pick(entry, order, size) for key, entry in value.items()}
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == size:
        return value[order.to(value.device)]
    return value


def with_leaves(batch: Batch) -> tuple[Batch, list[Tensor]]:
    """Return the batch with floating-point inputs replaced by leaves, and these."""
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if not value.is_floating_point():
            return value
        leaves.append(differentiable_copy(value))
        return leaves[-1]

    given = batch.inputs
    inputs: ModelInputs = (
        leaf(given)
        if isinstance(given, Tensor)
        else {key: leaf(value) for key, value in given.items()}
    )
    changed = Batch(
        inputs=inputs, targets=batch.targets, start=batch.start, size=batch.size
    )
    return changed, leaves


def require_unmixed_samples(
    problem: Problem,
    probe: Batch,
    raw: Tensor,
    by_sample: Sequence[Sequence[Tensor | None]],
) -> None:
    """Raise if one sample's output depends on another sample of the batch.

    Two tests: what is given of other samples is replaced, and the derivatives of a
    sample's outputs by the floating-point inputs of other samples must be zero.

    Args:
        problem: The problem.
        probe: At least two samples of it.
        raw: Their raw outputs.
        by_sample: For each sample the derivatives of its outputs by all inputs.

    Raises:
        ValueError: If the model mixes samples.
    """
    with torch.no_grad():
        together = flatten_outputs(raw)
        noise = torch.finfo(together.dtype).eps ** 0.5 * together.abs().max()
        for sample, products in enumerate(by_sample):
            alone = pick(probe.inputs, torch.full((probe.size,), sample), probe.size)
            again = flatten_outputs(problem.raw(alone))
            change = (again[sample] - together[sample]).abs().max()
            if bool(change > noise) or _reaches_others(products, sample):
                raise ValueError(
                    "per-sample derivatives need every sample to be independent of "
                    f"the others; the output of sample {sample} depends on other "
                    "samples of its batch. Is axis 0 the sample axis, and is the "
                    "model in eval mode?"
                )


def _reaches_others(products: Sequence[Tensor | None], sample: int) -> bool:
    """Return whether a derivative by the inputs of another sample is not zero.

    What is not finite says nothing: an infinite derivative times zero is NaN.
    """
    for product in products:
        if product is not None:
            others = product.clone()
            others[sample] = 0
            if bool((others.isfinite() & (others != 0)).any()):
                return True
    return False
