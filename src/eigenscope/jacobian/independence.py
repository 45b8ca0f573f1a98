"""Per-sample derivatives need samples that do not influence each other: checked."""

from typing import Any, cast

import torch
from torch import Tensor

from eigenscope.autodiff import (
    differentiable_copy,
    is_connected,
    recordable,
    recording,
    vector_jacobian_product,
)
from eigenscope.problem import (
    Batch,
    ModelInputs,
    Problem,
    equal_but_for_rounding,
    left_as_found,
    transform_outputs,
)

_MORE_SAMPLES = 64


def differentiable_entry(inputs: ModelInputs) -> str | None:
    """Return the mapping entry that is differentiated, None for a plain tensor.

    Args:
        inputs: One batch of inputs.

    Returns:
        The name of the only floating-point entry of a mapping.

    Raises:
        TypeError: If there is no floating-point input, or more than one.
    """
    if isinstance(inputs, Tensor):
        if not inputs.is_floating_point():
            raise TypeError(
                "an input Jacobian needs floating-point inputs; got "
                f"{inputs.dtype}. Convert them, or differentiate by the embedding of "
                "integer tokens instead."
            )
        return None
    floating = [
        key
        for key, value in inputs.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    if len(floating) != 1:
        raise TypeError(
            "an input Jacobian needs exactly one floating-point entry in a mapping "
            f"batch; got {floating or 'none'} among {sorted(inputs)}. Wrap the model "
            "so that the others are fixed."
        )
    return floating[0]


def leaf_of(inputs: ModelInputs, entry: str | None) -> Tensor:
    """Return the tensor of a batch that is differentiated."""
    return cast("Tensor", inputs if entry is None else inputs[cast("Any", entry)])


def with_leaf(inputs: ModelInputs, entry: str | None, leaf: Tensor) -> ModelInputs:
    """Return the batch's inputs with the differentiated tensor put in its place."""
    if entry is None:
        return leaf
    others = cast("dict[str, Any]", inputs).items()
    return {
        key: recordable(value) if isinstance(value, Tensor) else value
        for key, value in others
    } | {entry: leaf}


def require_independent_samples(
    problem: Problem, probe: Batch, entry: str | None
) -> None:
    """Raise if one sample's output depends on another sample's input, or on none.

    Args:
        problem: The problem.
        probe: A few samples of it.
        entry: Entry of a mapping batch that is differentiated.

    Raises:
        ValueError: If the model mixes samples or ignores its input.
    """
    inputs = _at_least_two(probe.inputs, probe.size)
    with recording():
        leaf = differentiable_copy(leaf_of(inputs, entry))
        outputs = _outputs(problem, with_leaf(inputs, entry, leaf))
        if not is_connected(outputs, leaf):
            raise ValueError(
                "the output must depend on the input; no gradient reaches the input. "
                "Look for .detach(), torch.no_grad() or integer arithmetic in forward."
            )
        depends = False
        for sample in (0, len(leaf) - 1):
            seed = torch.zeros_like(outputs)
            seed[sample] = torch.linspace(1, 2, outputs.shape[1]).to(seed)
            product = vector_jacobian_product(outputs, leaf, seed, keep_graph=True)
            others = [i for i in range(len(leaf)) if i != sample]
            mixed = product[others].reshape(len(others), -1).abs().amax(1) > 0
            depends |= bool(product[sample].abs().max() > 0)
            if bool(mixed.any()):
                other = others[int(mixed.nonzero()[0, 0])]
                raise ValueError(
                    "per-sample derivatives need every sample to be independent of "
                    f"the others; the output of sample {sample} depends on the input "
                    f"of sample {other}. Is axis 0 the sample axis, and is the model "
                    "in eval mode?"
                )
    _require_alone(problem, inputs, entry, outputs.detach())
    if not depends:
        _require_change(problem, inputs, entry, outputs)


def require_same_in_parts(problem: Problem, batch: Batch, raw: Tensor) -> None:
    """Raise if two small parts of a batch give other outputs than within it.

    Args:
        problem: The problem.
        batch: A whole chunk, as large as those that are differentiated.
        raw: Its raw outputs.

    Raises:
        ValueError: If a sample's output changes with the size of its batch.

    Cost:
        A forward pass of an eighth of the batch; two of the batch where that differs.
    """
    if batch.size < 3:
        return
    size = max(2, batch.size // 16 | 1)  # odd: no multiple of the size of a group
    starts = [min(n * batch.size // 3, batch.size - size) for n in (1, 2)]
    with torch.no_grad(), left_as_found(problem.model):
        parts = [problem.raw(batch.part(s, s + size).inputs) for s in starts]
    for start, part in zip(starts, parts, strict=True):
        whole = raw[start : start + size]
        if not equal_but_for_rounding(
            problem.model, whole, part, problem.raw, batch.inputs
        ):
            first = batch.start + start
            raise ValueError(
                "per-sample derivatives need every sample to be independent of the "
                f"others; outputs of samples {first} to {first + size - 1} change "
                f"when these run without the others of the batch of {batch.size}. "
                "Look for operations over axis 0, and for random numbers, in forward."
            )


def _require_alone(
    problem: Problem, inputs: ModelInputs, entry: str | None, outputs: Tensor
) -> None:
    """Find mixing that carries no gradient, as through detached statistics.

    Raises:
        ValueError: If the first sample's output changes with the others' inputs.
    """
    with torch.no_grad():
        moved = leaf_of(inputs, entry).clone()
        moved[1:] = 1 - 3 * moved[1:]
        other = _outputs(problem, with_leaf(inputs, entry, moved))
    tolerance = torch.finfo(outputs.dtype).eps ** 0.5 * float(outputs[0].abs().max())
    if bool((other[0] - outputs[0]).abs().max() > tolerance):
        raise ValueError(
            "per-sample derivatives need every sample to be independent of the others; "
            "the output of sample 0 changes with the inputs of the samples beside it. "
            "Look for statistics over axis 0 in forward."
        )


def _outputs(problem: Problem, inputs: ModelInputs) -> Tensor:
    """Return what is differentiated; softmax can neither mix samples nor disconnect."""
    output = problem.output if callable(problem.output) else "logits"
    return transform_outputs(problem.raw(inputs), output)


def _require_change(
    problem: Problem, inputs: ModelInputs, entry: str | None, outputs: Tensor
) -> None:
    """Tell saturated samples, whose derivative is zero, from a constant network.

    Raises:
        ValueError: If quite different inputs give the same output.
    """
    if _has_derivative(problem, problem.batches.first(_MORE_SAMPLES), entry):
        return
    with torch.no_grad():
        moved = 1 - 3 * leaf_of(inputs, entry)
        other = _outputs(problem, with_leaf(inputs, entry, moved))
    if torch.equal(outputs, other):
        raise ValueError(
            "the output must depend on the input; its derivative is zero and "
            "other inputs give the same output. Check that the network is not "
            "constant (detached input, dead units, zero weights)."
        )


def _has_derivative(problem: Problem, batch: Batch, entry: str | None) -> bool:
    with recording():
        leaf = differentiable_copy(leaf_of(batch.inputs, entry))
        outputs = _outputs(problem, with_leaf(batch.inputs, entry, leaf))
        seed = torch.linspace(1, 2, outputs.shape[1]).to(outputs).expand_as(outputs)
        product = vector_jacobian_product(outputs, leaf, seed, keep_graph=False)
    return bool(product.abs().max() > 0)


def _at_least_two(inputs: ModelInputs, size: int) -> ModelInputs:
    if size > 1:
        return inputs
    if isinstance(inputs, Tensor):
        return torch.cat([inputs, inputs])
    return {
        key: torch.cat([value, value])
        if isinstance(value, Tensor) and value.ndim > 0
        else value
        for key, value in inputs.items()
    }
