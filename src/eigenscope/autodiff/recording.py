"""Modes and memory in which autograd records, and what of it must be restored."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigenscope.problem import Batch


@contextmanager
def recording() -> Generator[None]:
    """Record gradients whatever mode the caller is in (`no_grad`, `inference_mode`)."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


@contextmanager
def twice_differentiable(
    model: nn.Module, *, forward_mode: bool = False
) -> Generator[None]:
    """Run attention and recurrent cells by kernels that can be differentiated twice.

    Recomputations of checkpointed blocks belong inside, too.

    Args:
        model: The network.
        forward_mode: Whether one of the two derivatives is taken in forward mode.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(m, nn.RNNBase) for m in model.modules()):
            if any(p.is_cuda for p in model.parameters()):
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            if forward_mode:  # which oneDNN's recurrent cells do not have
                stack.enter_context(_without_onednn())
        yield


@contextmanager
def differentiable_tables(model: nn.Module) -> Generator[None]:
    """Let embeddings give derivatives: dense, and by themselves.

    With `scale_grad_by_freq` autograd gives something else, which depends on what is in
    the batch: the derivative over the number of times that an index occurs there.
    """
    tables = [
        m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    ]
    found = [(table, table.sparse, table.scale_grad_by_freq) for table in tables]
    try:
        for table in tables:
            table.sparse = table.scale_grad_by_freq = False
        yield
    finally:
        for table, sparse, scaled in found:
            table.sparse, table.scale_grad_by_freq = sparse, scaled


@contextmanager
def _without_onednn() -> Generator[None]:
    """Run without oneDNN; its own context also sets what only Intel's GPUs know."""
    library: Any = torch.backends.mkldnn
    before = library.enabled
    library.enabled = False
    try:
        yield
    finally:
        library.enabled = before


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


def differentiable_copy(inputs: Tensor) -> Tensor:
    """Return a leaf that holds the inputs and requires gradients."""
    return inputs.detach().clone().requires_grad_()


def recordable(value: Tensor) -> Tensor:
    """Return the tensor, or a copy if inference mode made it useless to autograd."""
    if not value.is_inference():
        return value
    with torch.inference_mode(mode=False):
        return value.clone()


def recordable_batch(batch: Batch) -> Batch:
    """Return the batch with tensors that autograd can record."""
    inputs, targets = map(_recordable, (batch.inputs, batch.targets))
    return replace(batch, inputs=inputs, targets=targets)


def _recordable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _recordable(entry) for key, entry in value.items()}
    return recordable(value) if isinstance(value, Tensor) else value


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
    """Return memory for a large result, in huge pages where there are any.

    On Linux NumPy asks for them, and touching new memory, which can take longer than
    computing what is written there, can take half the time. Among many smaller
    tensors that come and go it can also take longer: measure.

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


class SavedBytes:
    """Counts what autograd saves while it records.

    Attributes:
        total: Bytes of distinct memory, without that of the tensors that are excluded.
        largest: Those of the largest single piece.
    """

    def __init__(self, excluded: Sequence[Tensor]) -> None:
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in excluded}
        self.total = self.largest = 0

    @contextmanager
    def counting(self) -> Generator[None]:
        """Count inside the context."""
        with torch.autograd.graph.saved_tensors_hooks(self._count, lambda t: t):
            yield

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
        return tensor
