"""Networks whose tensors lie in pieces on several processes: DTensors and FSDP2."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

_HOME: Final = "torch.distributed"


def is_in_pieces(tensor: object) -> bool:
    """Return whether a tensor is a DTensor, of which each process holds a piece."""
    kind = _loaded(f"{_HOME}.tensor", "DTensor")
    return kind is not None and isinstance(tensor, kind)


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor without its graph, gathered where it is in pieces.

    Args:
        tensor: Any tensor; if it is a DTensor, all processes of its mesh call this.

    Returns:
        A plain tensor.
    """
    found: Any = tensor.detach()
    return found.full_tensor() if is_in_pieces(found) else found


def is_fully_sharded(module: nn.Module) -> bool:
    """Return whether FSDP2's `fully_shard` was called with a module."""
    kind = _loaded(f"{_HOME}.fsdp", "FSDPModule")
    return kind is not None and isinstance(module, kind)


def is_flattened(module: nn.Module) -> bool:
    """Return whether a module is one of the first FSDP, whose parameters are flat."""
    kind = _loaded(f"{_HOME}.fsdp", "FullyShardedDataParallel")
    return kind is not None and isinstance(module, kind)


def class_before_sharding(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before `fully_shard` gave it another."""
    kinds = type(module).__mro__
    sharded: Any = _loaded(f"{_HOME}.fsdp", "FSDPModule")
    return kinds[kinds.index(sharded) + 1] if sharded in kinds else kinds[0]


def is_of_sharding(thing: object) -> bool:
    """Return whether a hook, or an object, comes from torch.distributed."""
    return _comes_from(thing, (_HOME, "torch._C._distributed"))


def is_of_tensor_parallelism(thing: object) -> bool:
    """Return whether a hook comes from what computes with DTensors."""
    return _comes_from(thing, (f"{_HOME}.tensor",))


@contextmanager
def kept_in_pieces(model: nn.Module) -> Generator[None]:
    """Let go of what FSDP2 has gathered for a pass, and leave it as it was.

    Args:
        model: The network; all processes of its meshes call this.

    Yields:
        Nothing; parameters are in pieces.
    """
    parts: list[Any] = [m for m in model.modules() if is_fully_sharded(m)]
    gathered = [part for part in reversed(parts) if _has_let_go(part)]
    try:
        yield
    finally:
        for part in reversed(parts):
            part.reshard()
        for part in reversed(gathered):
            part.unshard()


def _has_let_go(part: Any) -> bool:
    """Let go of what one module has gathered, and say whether it had anything."""
    before = [id(parameter) for parameter in part.parameters()]
    part.reshard()
    return before != [id(parameter) for parameter in part.parameters()]


def _comes_from(thing: object, homes: tuple[str, ...]) -> bool:
    if isinstance(thing, partial):
        return _comes_from(thing.func, homes)
    found = (getattr(thing, "__module__", None), type(thing).__module__)
    return any(str(home).startswith(homes) for home in found)


def _loaded(module: str, name: str) -> Any:
    """Return what a module holds if anything has imported it, else None."""
    return getattr(sys.modules.get(module), name, None)
