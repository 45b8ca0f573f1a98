"""The only caller of autograd: blocks of vector-Jacobian products."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def recording() -> Generator[None]:
    """Record gradients whatever mode the caller is in (`no_grad`, `inference_mode`)."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


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


def differentiable_copy(inputs: Tensor) -> Tensor:
    """Return a leaf that holds the inputs and requires gradients."""
    return inputs.detach().clone().requires_grad_()


def recordable(value: Tensor) -> Tensor:
    """Return the tensor, or a copy if inference mode made it useless to autograd."""
    return value.clone() if value.is_inference() else value


def writable_empty(
    shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return memory that may be written while gradients are recorded.

    Memory that is made in inference mode may not.

    Args:
        shape: Entries along each axis.
        dtype: Type of the entries.
        device: Where it is.

    Returns:
        An uninitialized tensor.
    """
    with torch.inference_mode(mode=False):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
