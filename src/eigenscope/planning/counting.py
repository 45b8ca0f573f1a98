"""Counting flops, and the bytes of the tensors that are alive, while something runs."""

import gc
from array import array
from collections.abc import Sequence
from typing import Any, cast, final

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from typing_extensions import override


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *others: Any, **ignored: Any
) -> int:
    """Return flops of the gradients that are wanted; torch's count forgets groups."""
    del ignored
    is_transposed, wanted = others[4], others[7]
    positions = x.numel() if is_transposed else grad.numel()
    each = 2 * positions * weight.shape[1:].numel()
    return each * sum(wanted[:2])


_ATEN = torch.ops.aten
_COUNTS = flop_registry | {
    _ATEN.addmm_: flop_registry[_ATEN.addmm],
    _ATEN.baddbmm_: flop_registry[_ATEN.baddbmm],
    _ATEN.convolution_backward: _convolution_backward,
}


@final
class Bystanders:
    """Storages of the tensors that are alive before something is counted.

    Within the context only objects that are newer than it are looked at again, and
    collected: Python holds the others to be permanent.

    Attributes:
        storages: Those that were found so far.
    """

    def __init__(self) -> None:
        self.storages: set[StorageWeakRef] = set()
        self._has_frozen = False

    def __enter__(self) -> "Bystanders":
        self.look()
        if not gc.get_freeze_count():  # nobody else's objects would thaw
            gc.freeze()
            self._has_frozen = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._has_frozen:
            gc.unfreeze()

    def look(self) -> None:
        """Add the storages of all tensors that are alive now."""
        alive = [x for x in gc.get_objects() if _is_plain(x)]
        self.storages |= {StorageWeakRef(x.untyped_storage()) for x in alive}


@final
class Counting(TorchDispatchMode):
    """Counts operations within the context, and the bytes of tensors that they meet.

    Tensors that were alive before count nothing. On a CUDA device the allocator's own
    statistics are used, which see workspaces of libraries, too. Flops are those of
    matrix products, convolutions and attention, a multiplication and an addition each.

    Args:
        device: Whose memory is counted.
        bystanders: What is known to have been alive before; None to look for all.

    Attributes:
        peak: The most bytes at one time so far.
        flops: Multiplications and additions so far.
        course: Bytes after each operation so far; of a CPU only.
    """

    def __init__(
        self, device: torch.device, bystanders: Bystanders | None = None
    ) -> None:
        super().__init__()
        self.peak = 0
        self.flops = 0
        self.course = array("q")
        self._device = device
        self._before = 0
        self._now = 0
        self._bystanders = bystanders or Bystanders()
        self._alive: dict[StorageWeakRef, int] = {}

    @override
    def __enter__(self) -> "Counting":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._bystanders.look()
        return super().__enter__()

    @override
    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device) - self._before

    @property
    def now(self) -> int:
        """Bytes of the tensors that are still alive, and not in cycles only."""
        gc.collect()
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device) - self._before
        self._forget_the_dead()
        return self._now

    @override
    def __torch_dispatch__(
        self,
        func: OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func.overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        if self._device.type != "cuda":
            for leaf in tree_iter((args, kwargs, result)):
                if _is_plain(leaf):
                    self._meet(leaf)
            self._forget_the_dead()
            self.peak = max(self.peak, self._now)
            self.course.append(self._now)
        return result

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)  # one and the same of one storage
        older = self._bystanders.storages
        if reference not in older and reference not in self._alive:
            self._alive[reference] = storage.nbytes()
            self._now += storage.nbytes()

    def _forget_the_dead(self) -> None:
        for reference in [own for own in self._alive if own.expired()]:
            self._now -= self._alive.pop(reference)


def _is_plain(value: object) -> bool:
    # Looking at every object alive must not import what modules load lazily.
    if not issubclass(type(value), Tensor):
        return False
    tensor = cast("Tensor", value)
    try:
        tensor.untyped_storage()
        return tensor.layout == torch.strided and not tensor.is_meta
    except (RuntimeError, NotImplementedError, ValueError):
        return False  # no memory of its own: uninitialized, wrapped by torch.func, fake
