"""The only caller of autograd: blocks of vector-Jacobian products."""

from collections.abc import Generator, Iterator
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
    (product,) = torch.autograd.grad(
        outputs,
        inputs,
        grad_outputs=seed,
        retain_graph=keep_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return product


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
