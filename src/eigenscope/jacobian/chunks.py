"""How many samples go through the network together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from eigenscope.autodiff import recording
from eigenscope.jacobian.mixing import with_leaves
from eigenscope.problem import Batch, Problem, left_as_found

_CACHE_BYTES = 4 * 2**20
_MAX_CHUNK = 256
COTANGENT_BYTES = 64 * 2**20
_MAX_PARAMETER_CHUNK = 128


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """What a forward pass keeps for the backward passes of one sample.

    Attributes:
        largest: Bytes of the largest tensor with samples on axis 0.
        total: Bytes of all tensors together, parameters and buffers left out.
    """

    largest: int
    total: int


def measure_activations(
    module: nn.Module, run: Callable[[], Tensor], *, num_probes: int
) -> Activations:
    """Return what is kept of one sample, by a pass of a few.

    Args:
        module: The network that runs.
        run: Runs it on the samples, recording.
        num_probes: How many they are.

    Returns:
        The bytes; none where torch keeps no account, inside transforms of torch.func.

    Raises:
        RuntimeError: What the network raises.
    """
    own = (*module.parameters(), *module.buffers())
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, Tensor] = {}  # alive, so that no address is given twice
    largest = 0

    def note(saved: Tensor) -> Tensor:
        nonlocal largest
        if saved.ndim > 1 and len(saved) == num_probes:
            largest = max(largest, saved.numel() * saved.element_size())
        address = saved.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = saved
        return saved

    try:
        with saved_tensors_hooks(note, _as_saved):
            run()
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        kept.clear()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return Activations(largest=largest // num_probes, total=total // num_probes)


def choose_chunk_size(found: Activations, *, is_on_cpu: bool) -> int:
    """Return how many samples keep the largest activation in the CPU's cache.

    Args:
        found: What is kept of one sample.
        is_on_cpu: Whether there is such a cache.

    Returns:
        The number of samples, at least 8.
    """
    if not is_on_cpu:
        return _MAX_CHUNK
    return min(_MAX_CHUNK, max(8, _CACHE_BYTES // max(1, found.largest) // 8 * 8))


def choose_parameter_chunk(
    problem: Problem, probe: Batch, *, cotangent_bytes: int, room: int | None
) -> tuple[int, int | None]:
    """Return how many samples go through the network for gradients by parameters.

    Args:
        problem: The network, which is being recorded.
        probe: A few samples.
        cotangent_bytes: Those of one sample and output.
        room: Bytes for a chunk; None for as many samples as are fast.

    Returns:
        The samples, and the bytes of the cotangents that may be in memory together.
    """
    fitting = COTANGENT_BYTES // max(1, cotangent_bytes) // 8 * 8
    fast = max(8, min(_MAX_PARAMETER_CHUNK, fitting))
    if room is None:
        return fast, None
    kept = _bytes_of_all(problem, probe)
    # A third each for activations, what comes of them in a backward pass, and rows.
    fitting = room // 3 // max(1, 2 * kept, cotangent_bytes)
    return max(1, min(fast, fitting)), room // 3


def choose_forward_chunk(problem: Problem, *, most: int, room: int) -> int:
    """Return how many samples go through the network where nothing is recorded.

    Args:
        problem: The network and its data.
        most: As many as are fast.
        room: Bytes for all activations of a chunk, of which few are there together.

    Returns:
        The samples, at least 1.
    """
    probe = problem.batches.first(1)
    with recording(), left_as_found(problem.model):
        kept = _bytes_of_all(problem, probe)
    # What a layer gives is not always kept.
    return max(1, min(most, room // max(1, 2 * kept)))


def _bytes_of_all(problem: Problem, probe: Batch) -> int:
    """Return what is kept of one sample if everything is, also of frozen layers."""
    leafed, _ = with_leaves(probe)
    found = measure_activations(
        problem.model, lambda: problem.raw(leafed.inputs), num_probes=probe.size
    )
    return found.total


def _as_saved(saved: Tensor) -> Tensor:
    return saved
