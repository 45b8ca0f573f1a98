"""Products through recorded graphs of derivatives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from eigenscope.autodiff.first_order import gradient_of
from eigenscope.autodiff.recording import differentiable_copy, recording


def second_derivative(
    function: Callable[[Tensor], Tensor], point: Tensor, *, checked: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return the products u → (∂²f/∂x²) u of a scalar function at a point.

    Args:
        function: A tensor to a scalar.
        point: Where.
        checked: Whether to raise where autograd records less than there is.

    Returns:
        A function of tensors of the point's shape.

    Raises:
        RuntimeError: If the function is not differentiable, or `checked` and autograd
            sees no dependence on the argument, or none of a gradient that changes.
    """
    with recording():
        leaf = differentiable_copy(point)
        value = function(leaf)
        if checked and not value.requires_grad:
            raise RuntimeError("autograd sees no dependence on the outputs")
        gradient = torch.zeros_like(leaf)
        if value.requires_grad:
            (gradient,) = gradient_graph(value, [leaf])
    if checked and not gradient.requires_grad:
        epsilon = torch.finfo(point.dtype).eps
        change = gradient_of(function, point * (1 + epsilon**0.25)) - gradient
        if bool(change.abs().amax() > epsilon**0.5 * gradient.abs().amax()):
            raise RuntimeError("autograd takes its gradient, which changes, as given")

    def multiply(vector: Tensor) -> Tensor:
        (product,) = graph_products([gradient], [leaf], [vector])
        return product

    return multiply


def gradient_graph(
    value: Tensor, leaves: Sequence[Tensor], seed: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return uᵀ ∂value/∂leaf with the graph that computed it, zeros where unused.

    Args:
        value: A recorded tensor.
        leaves: What it is differentiated by.
        seed: The cotangent u; a scalar needs none.

    Returns:
        A tensor per leaf.
    """
    return torch.autograd.grad(
        [value],
        list(leaves),
        grad_outputs=None if seed is None else [seed],
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )


def edge_of(tensor: Tensor) -> GradientEdge | None:
    """Return a recorded tensor's place in its graph, which keeps no value of it.

    Args:
        tensor: A recorded tensor.

    Returns:
        The place; None if nothing was recorded of it.
    """
    return get_gradient_edge(tensor) if tensor.requires_grad else None


def graph_products(
    outputs: Sequence[Tensor | GradientEdge | None],
    leaves: Sequence[Tensor],
    vectors: Sequence[Tensor],
    *,
    together: int | None = None,
) -> tuple[Tensor, ...]:
    """Return Σ_o v_oᵀ ∂output_o/∂leaf through a graph that is kept.

    Args:
        outputs: Recorded tensors or their places; what nothing was recorded of is
            constant.
        leaves: What they are differentiated by.
        vectors: A cotangent for each output.
        together: Number of vectors on the first axis of each cotangent, which go
            through the graph in one batched pass; None for a single vector.

    Returns:
        A tensor per leaf, zeros where nothing connects the two.

    Raises:
        RuntimeError: If several vectors meet a function without a batching rule.
    """
    edges = [edge_of(o) if isinstance(o, Tensor) else o for o in outputs]
    pairs = [(e, v) for e, v in zip(edges, vectors, strict=True) if e is not None]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if pairs:
        found = torch.autograd.grad(
            [edge for edge, _ in pairs],
            list(leaves),
            grad_outputs=[vector for _, vector in pairs],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=together is not None,
        )
    rows = () if together is None else (together,)
    return tuple(
        leaf.new_zeros((*rows, *leaf.shape)) if product is None else product
        for leaf, product in zip(leaves, found, strict=True)
    )
