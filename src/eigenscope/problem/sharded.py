"""Networks whose parameters are in pieces on several processes, made whole."""

import copy
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from eigenscope.budget import format_bytes, resolve
from eigenscope.distributed.pieces import (
    class_before_sharding,
    is_flattened,
    is_fully_sharded,
    is_in_pieces,
    is_of_sharding,
    is_of_tensor_parallelism,
    kept_in_pieces,
    whole_tensor,
)
from eigenscope.problem.as_found import left_as_found
from eigenscope.problem.batch import ModelInputs
from eigenscope.problem.model import call_model, nearly_equal

_OPTIONS_OF_HOOKS: Final = (
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
_INSTEAD: Final = (
    "Load the full state dict into the plain model: get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True)); samples are then shared by the "
    "ranks."
)


def is_sharded(model: nn.Module) -> bool:
    """Return whether a network's parameters are in pieces, by FSDP2 or as DTensors."""
    return any(map(is_fully_sharded, model.modules())) or any(
        map(is_in_pieces, _tensors(model))
    )


def whole_network(model: nn.Module) -> nn.Module:
    """The network itself, or if its parameters are in pieces, a copy that is whole.

    The copy has full parameters and buffers on every rank, and neither the classes nor
    the hooks that FSDP2 and tensor parallelism have given it. The network stays as it
    was found.

    Args:
        model: The network; all processes that hold a piece of it make this call.

    Returns:
        A plain module with the same names.

    Raises:
        ValueError: If it cannot be made whole, or that does not fit half of what is
            free.
    """
    flat = [name for name, m in model.named_modules() if is_flattened(m)]
    if flat:
        raise ValueError(
            "parameters must keep their names and shapes, as fully_shard (FSDP2) and "
            f"DTensors do; module {flat[0]!r} is a FullyShardedDataParallel, whose are "
            f"flat. {_INSTEAD}"
        )
    if not is_sharded(model):
        return model
    with kept_in_pieces(model):
        _require_room(model)
        try:
            return _copied(model)
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(
                "a network in pieces must be copyable, to be gathered whole on every "
                f"rank; copying raised {type(error).__name__}: {error}. {_INSTEAD}"
            ) from error


@contextmanager
def own_tensors_explained(*, is_copy: bool) -> Generator[None]:
    """Say what to do where a whole copy's own code counts on pieces.

    Args:
        is_copy: Whether the network that is called inside is a whole copy.

    Yields:
        Nothing.

    Raises:
        ValueError: In place of a copy's RuntimeError.
        RuntimeError: That of a network that is no copy.
    """
    try:
        yield
    except RuntimeError as error:
        if is_copy:
            raise ValueError(
                "a network in pieces is called as a whole copy with plain tensors, "
                f"which raised {type(error).__name__}: {error}. Its own code must not "
                "make DTensors (parallelize_module and distribute_module may), nor "
                "count on its part alone, as on heads divided by the number of ranks. "
                f"{_INSTEAD}"
            ) from error
        raise


def require_same_outputs(
    sharded: nn.Module, whole: nn.Module, inputs: ModelInputs
) -> None:
    """Raise unless a tensor-parallel network and its whole copy answer alike.

    Its modules may have been told that they hold a part. Those of FSDP2 have not, and
    are not asked.

    Args:
        sharded: The network in pieces.
        whole: What `whole_network` made of it.
        inputs: Of a few samples.

    Raises:
        ValueError: If the answers differ.
    """
    if not _is_tensor_parallel(sharded):
        return
    with torch.no_grad(), kept_in_pieces(sharded), left_as_found(sharded):
        found = whole_tensor(call_model(sharded, inputs))
        expected = call_model(whole, inputs)
    if found.shape != expected.shape or not nearly_equal(found, expected):
        raise ValueError(
            "a network in pieces must give the outputs of its whole copy; for a few "
            f"samples it gives shape {tuple(found.shape)}, the copy "
            f"{tuple(expected.shape)}, or other numbers. Let its last layer give whole "
            "outputs (output_layouts=Replicate()), and no module count on its part "
            f"alone. {_INSTEAD}"
        )


def require_no_pieces(model: nn.Module, *, what: str, instead: str) -> None:
    """Raise if a loss's own graph has no higher derivatives by the parameters.

    Args:
        model: The network.
        what: What needs them.
        instead: What serves a network in pieces.

    Raises:
        ValueError: If its parameters are in pieces.
    """
    if is_sharded(model):
        raise ValueError(
            f"{what} needs higher derivatives of the loss as it is; FSDP2 gathers "
            "parameters outside of autograd, and derivatives of second order through "
            "DTensors that become plain tensors lose terms without an error. "
            f"{instead}"
        )


def _copied(model: nn.Module) -> nn.Module:
    """Copy a network with its tensors whole, without what sharding has added."""
    dropped = object()
    memo: dict[int, Any] = {}
    for tensor in _tensors(model):
        if is_in_pieces(tensor) and id(tensor) not in memo:
            found = whole_tensor(tensor).clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = (
                nn.Parameter(found, requires_grad=tensor.requires_grad)
                if is_parameter
                else found
            )
    for module in model.modules():
        if is_fully_sharded(module):
            kind = class_before_sharding(module)
            memo[id(module)] = kind.__new__(kind)
        memo |= {id(entry): dropped for entry in _added(module)}
        shared = (v for v in vars(module).values() if is_of_sharding(v))
        memo |= {id(v): v for v in shared if not isinstance(v, Tensor | nn.Module)}
    for module in model.modules():
        if is_fully_sharded(module):
            state: Any = module.__getstate__()
            memo[id(module)].__setstate__(copy.deepcopy(state, memo))
    whole = copy.deepcopy(model, memo)
    for module in whole.modules():
        _forget(module, dropped)
    return whole


def _added(module: nn.Module) -> Iterator[object]:
    """Yield the hooks and states that sharding keeps in a module's registries."""
    for registry in vars(module).values():
        if isinstance(registry, dict):
            for entry in cast("dict[Any, object]", registry).values():
                if not isinstance(entry, Tensor | nn.Module) and is_of_sharding(entry):
                    yield entry


def _forget(module: nn.Module, dropped: object) -> None:
    """Take out what stands for hooks and states that were not copied."""
    for registry in [r for r in vars(module).values() if isinstance(r, dict)]:
        for key in [key for key, entry in registry.items() if entry is dropped]:
            del registry[key]
            for options in _OPTIONS_OF_HOOKS:
                getattr(module, options, {}).pop(key, None)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield parameters, buffers, and tensors that are plain attributes."""
    plain = (value for module in model.modules() for value in vars(module).values())
    for tensor in chain(model.parameters(), model.buffers(), plain):
        if isinstance(tensor, Tensor):
            yield tensor


def _is_tensor_parallel(model: nn.Module) -> bool:
    """Return whether a module computes with DTensors, and not only FSDP2 keeps them."""
    modules = list(_unmanaged(model))
    return any(
        is_in_pieces(parameter)
        for module in modules
        for parameter in module.parameters(recurse=False)
    ) or any(
        is_of_tensor_parallelism(entry)
        for module in model.modules()
        for entry in _added(module)
    )


def _unmanaged(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that are not within one of FSDP2."""
    if is_fully_sharded(model):
        return
    yield model
    for child in model.children():
        yield from _unmanaged(child)


def _require_room(model: nn.Module) -> None:
    distinct = {id(tensor): tensor for tensor in _tensors(model)}
    needed = sum(t.numel() * t.element_size() for t in distinct.values())
    budget = resolve(None)
    if needed > budget:
        raise ValueError(
            "a network in pieces is gathered whole on every rank, where each vector of "
            f"its parameters is as long; that takes {format_bytes(needed)}, and half "
            f"of what is free is {format_bytes(budget)} for each. Start fewer ranks on "
            "each machine, or take machines with more memory."
        )
