"""How many samples go through the network together."""

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from eigenscope.budget import resolve
from eigenscope.problem import ModelInputs, call_model

_CACHE_BYTES = 4 * 2**20
_MAX_CHUNK = 256


def choose_chunk_size(
    module: nn.Module, inputs: ModelInputs, *, num_probes: int, row_bytes: int
) -> int:
    """Return how many samples keep the largest activation in the CPU's cache.

    All activations and the rows of the chunk must fit a quarter of the memory budget;
    on an accelerator only that counts.

    Args:
        module: The network that runs.
        inputs: A few samples, of which one entry requires gradients.
        num_probes: How many.
        row_bytes: Bytes of one sample's Jacobians.

    Returns:
        The number of samples, at least 1.
    """
    largest, total = 1, max(1, row_bytes)

    def note(saved: Tensor) -> None:
        nonlocal largest, total
        if saved.ndim > 1 and len(saved) == num_probes:
            num_bytes = saved.numel() * saved.element_size() // num_probes
            largest, total = max(largest, num_bytes), total + num_bytes

    with saved_tensors_hooks(note, _never_unpacked):
        raw = call_model(module, inputs)
    limit = _MAX_CHUNK
    if raw.device.type == "cpu":
        limit = min(limit, max(8, _CACHE_BYTES // largest // 8 * 8))
    return max(1, min(limit, resolve(None) // 4 // total))


def _never_unpacked(saved: None) -> Tensor:
    del saved
    return torch.empty(0)
