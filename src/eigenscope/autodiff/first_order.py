"""Blocks of vector-Jacobian products."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from eigenscope.autodiff.recording import differentiable_copy, recording


def vector_jacobian_product(
    outputs: Tensor, inputs: Tensor, seed: Tensor, *, keep_graph: bool
) -> Tensor:
    """Return uᵀ ∂outputs/∂inputs for the cotangent u.

    Args:
        outputs: Recorded outputs.
        inputs: What they are differentiated by; requires gradients.
        seed: The cotangent u, of the outputs' shape.
        keep_graph: Whether more products of the same outputs will follow.

    Returns:
        A tensor of the inputs' shape; zeros where nothing connects the two.
    """
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    (product,) = torch.autograd.grad(
        outputs,
        inputs,
        grad_outputs=seed,
        retain_graph=keep_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return product


def is_connected(outputs: Tensor, inputs: Tensor) -> bool:
    """Return whether the recorded graph leads from the inputs to the outputs."""
    if not outputs.requires_grad:
        return False
    (product,) = torch.autograd.grad(
        outputs,
        inputs,
        grad_outputs=torch.zeros_like(outputs),
        retain_graph=True,
        allow_unused=True,
    )
    return product is not None


def jacobian_rows(
    outputs: Tensor, inputs: Tensor, *, keep_graph: bool
) -> Iterator[Tensor]:
    """Yield ∂outputs[:, c]/∂inputs for c = 0 … k - 1, all samples at a time.

    Right for samples that do not influence each other: the product with the unit
    seed of output c then holds every sample's own row.

    Args:
        outputs: Recorded outputs (sample, output).
        inputs: What they are differentiated by, samples on axis 0.
        keep_graph: Whether more products of the same outputs will follow.

    Yields:
        A tensor of the inputs' shape per output.
    """
    seed = torch.zeros_like(outputs)
    last = outputs.shape[1] - 1
    for column in range(outputs.shape[1]):
        seed[:, column] = 1
        yield vector_jacobian_product(
            outputs, inputs, seed, keep_graph=keep_graph or column < last
        )
        seed[:, column] = 0


def cotangents(
    outputs: Tensor,
    targets: Sequence[GradientEdge | Tensor],
    seed: Tensor,
    *,
    keep_graph: bool,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return uᵀ ∂outputs/∂target for each target; nothing else is computed.

    Args:
        outputs: Recorded outputs.
        targets: Places in their graph: outputs of layers as they were before any
            change in place, or leaves.
        seed: The cotangent u, of the outputs' shape.
        keep_graph: Whether more products of the same outputs will follow.
        create_graph: Whether the products are to be differentiated themselves.

    Returns:
        A tensor per target, None where nothing connects the two.
    """
    return torch.autograd.grad(
        [outputs],
        cast("Any", tuple(targets)),  # the stubs know tensors or edges, not both
        grad_outputs=[seed],
        retain_graph=keep_graph or create_graph,
        create_graph=create_graph,
        allow_unused=True,
    )


def pull_back(
    tensor: Tensor,
    leaves: Sequence[Tensor],
    block: Tensor,
    *,
    create_graph: bool = False,
) -> list[Tensor]:
    """Return Uᵀ ∂tensor/∂leaf for a whole block U of cotangents at a time.

    Args:
        tensor: A recorded tensor.
        leaves: What it was computed from.
        block: Cotangents (row, *tensor).
        create_graph: Whether the products are to be differentiated themselves.

    Returns:
        A tensor (row, *leaf) for each leaf.

    Raises:
        OutOfMemoryError: If the device has too little for them.
    """

    def product(rows: Tensor, *, batched: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            tensor,
            list(leaves),
            grad_outputs=rows,
            retain_graph=True,
            create_graph=create_graph,
            is_grads_batched=batched,
            materialize_grads=True,
            allow_unused=True,
        )

    try:
        return list(product(block, batched=True))
    except torch.OutOfMemoryError:  # a RuntimeError, too
        raise
    except RuntimeError:  # a function without a batching rule
        rows = [product(row, batched=False) for row in block]
        return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def per_sample_outputs(
    function: Callable[..., Tensor],
    parameters: dict[str, Tensor],
    entries: Sequence[Any],
) -> Tensor:
    """Return function(parameters of sample i, entries of sample i) for all samples.

    Args:
        function: Takes a dictionary of parameters and one sample's entries.
        parameters: One set per sample, (sample, *parameter).
        entries: Tensors with samples on axis 0.

    Returns:
        The outputs, samples on axis 0.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return torch.func.vmap(function)(parameters, *entries)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def gradient_of(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Return the gradient of a scalar function at a point.

    Args:
        function: A tensor to a scalar.
        point: Where.

    Returns:
        A tensor of the point's shape; zeros where nothing depends on it.
    """
    with recording():
        leaf = differentiable_copy(point)
        value = function(leaf)
        seed = torch.ones_like(value)
        return vector_jacobian_product(value, leaf, seed, keep_graph=False)
