"""The only caller of autograd: blocks of first and second-order products."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn.attention import SDPBackend, sdpa_kernel


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


def large_empty(
    shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return memory for a large result, in pages that are quick to touch first.

    On Linux NumPy asks for huge pages, and touching new memory, which can take longer
    than computing what is written there, takes half the time.

    Args:
        shape: Entries along each axis.
        dtype: Type of the entries.
        device: Where it is.

    Returns:
        An uninitialized tensor that may be written while gradients are recorded.
    """
    if device.type != "cpu" or dtype not in {torch.float32, torch.float64}:
        return writable_empty(shape, dtype=dtype, device=device)
    numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
    with torch.inference_mode(mode=False):
        return torch.from_numpy(np.empty(tuple(shape), dtype=numpy_dtype))


@contextmanager
def twice_differentiable(model: nn.Module) -> Generator[None]:
    """Run attention and recurrent cells by kernels that can be differentiated twice.

    Recomputations of checkpointed blocks belong inside, too.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


@contextmanager
def exactly_requiring_grad(
    parameters: Sequence[nn.Parameter], others: Sequence[nn.Parameter]
) -> Generator[None]:
    """Let some parameters record gradients and others not; restore both afterwards."""
    found = [(p, p.requires_grad) for p in (*parameters, *others)]
    try:
        for parameter in parameters:
            parameter.requires_grad = True
        for parameter in others:
            parameter.requires_grad = False
        yield
    finally:
        for parameter, required in found:
            parameter.requires_grad = required


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


def graph_products(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], vectors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return Σ_o v_oᵀ ∂output_o/∂leaf through a graph that is kept.

    Args:
        outputs: Recorded tensors; those that nothing was recorded of are constant.
        leaves: What they are differentiated by.
        vectors: A cotangent for each output.

    Returns:
        A tensor per leaf, zeros where nothing connects the two.
    """
    pairs = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(
        [output for output, _ in pairs],
        list(leaves),
        grad_outputs=[vector for _, vector in pairs],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
