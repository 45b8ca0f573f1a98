"""The conjugate kernel: inner products of the features inside a network."""

import difflib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenscope.autodiff import large_empty
from eigenscope.budget import require_fits, resolve
from eigenscope.jacobian.chunks import choose_forward_chunk
from eigenscope.kernels.matrices import require_finite_kernel
from eigenscope.kernels.triangles import add_lower_product, add_product, mirror_lower
from eigenscope.problem import (
    Batch,
    Halving,
    ModelInputs,
    Problem,
    call_model,
    equal_but_for_rounding,
    left_as_found,
    require_no_batch_statistics,
)
from eigenscope.problem.alike import data_of, require_alike

_CHUNK = 128


def conjugate_kernel(
    model: nn.Module,
    x1: Tensor | Mapping[str, Any],
    x2: Tensor | Mapping[str, Any] | None = None,
    *,
    layer: str | None = None,
    memory: str | int | None = None,
) -> Float[Tensor, "left right"]:
    """K[i, j] = ⟨φ(x_i), φ(x_j)⟩ for features φ inside a network, flattened.

    φ is what enters the last linear layer that runs, or what leaves a named module (the
    last time, where it runs more than once). With the last layer's weight as the only
    parameter, the trace of the tangent kernel is k times this kernel.

    Args:
        model: Any module whose samples do not influence each other.
        x1: Inputs, a tensor or a mapping of keyword arguments.
        x2: More inputs of the same shape and dtype; None for x1.
        layer: Path of the module whose output is φ; None for the input of the last
            linear layer.
        memory: Budget such as "4GiB" for result, features and the samples that go
            through the network together; None for half of what is available.

    Returns:
        The kernel, in units of feature², in the model's dtype.

    Raises:
        TypeError: If the named module returns something else than a tensor.
        ValueError: If there is no such module or no linear layer, the two sets differ
            in shape or dtype, BatchNorm is in training mode, a sample's features
            change with its batch, or something does not fit or is not finite.

    Cost:
        One forward pass; n₁ · n₂ · features operations, half of them for one set.

    References:
        Fan, Wang (2020), arXiv 2005.11879.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> x = torch.eye(2)
        >>> phi = net[1](net[0](x))
        >>> torch.allclose(conjugate_kernel(net, x), phi @ phi.T)
        True
    """
    if x2 is not None:
        require_alike(x1, x2)
    first = Problem(model, data_of(x1), params=[], ranks="own")
    second = None
    if x2 is not None:
        second = Problem(first.model, data_of(x2), params=[], ranks="own")
    return conjugate_of(first, second, layer, memory)


def conjugate_of(
    problem: Problem, other: Problem | None, layer: str | None, memory: str | int | None
) -> Float[Tensor, "left right"]:
    """Return the conjugate kernel of one or two data sets; see `conjugate_kernel`."""
    left = _features(problem, layer, memory)
    right = left if other is None else _features(other, layer, memory)
    _require_room(len(left), len(right), left, memory)
    dtype = torch.float32 if left.dtype in _HALF else left.dtype
    result = large_empty((len(left), len(right)), dtype=dtype, device=left.device)
    if other is None:
        add_lower_product(result, left.to(dtype), fresh=True)
        mirror_lower(result)
    else:
        add_product(result, left.to(dtype), right.to(dtype), fresh=True)
    require_finite_kernel(result, 1)
    return result.to(left.dtype)


_HALF = (torch.float16, torch.bfloat16)


def features_of(
    problem: Problem, layer: str | None, batch: Batch
) -> Float[Tensor, "sample feature"]:
    """Return the features of one batch.

    Args:
        problem: The network.
        layer: As for `conjugate_kernel`.
        batch: The samples.

    Returns:
        One row per sample.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If the layer does not run, or samples are not on axis 0.
    """
    model = problem.model
    watch = _Watch()
    with ExitStack() as stack:
        for handle in _watched(model, layer, watch):
            stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(left_as_found(model))
        call_model(model, batch.inputs)
    found = watch.found
    what = "the last linear layer" if layer is None else f"layer {layer!r}"
    if not watch.ran:
        raise ValueError(
            f"{what} must run when the model does; it does not. Name a module that "
            f"does: {_listed([name for name, _ in model.named_modules() if name])}."
        )
    if not isinstance(found, Tensor):
        raise TypeError(
            f"features must be a tensor; {what} gives {type(found).__name__}. Name "
            "another module."
        )
    if found.ndim == 0 or len(found) != batch.size:
        raise ValueError(
            f"features must have one entry per sample on axis 0; those of {what} have "
            f"shape {tuple(found.shape)} for a batch of {batch.size}. Name another "
            "module."
        )
    return found.detach().reshape(batch.size, -1)


@final
class _Watch:
    """Keeps the features of the last call."""

    def __init__(self) -> None:
        self.found: object = None
        self.ran = False

    def entering(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note what a linear layer is given."""
        del module
        if args:
            self.found, self.ran = _kept(args[0]), True

    def leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note what the named module returns."""
        del module, args
        self.found, self.ran = _kept(output), True


def _kept(value: object) -> object:
    """Return a copy: the network may go on to change it in place."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _watched(model: nn.Module, layer: str | None, watch: _Watch) -> list[Any]:
    modules = dict(model.named_modules())
    if layer is not None:
        if layer not in modules:
            close = difflib.get_close_matches(layer, modules, n=3, cutoff=0.0)
            raise ValueError(
                f"layer must be the path of a module; {layer!r} is none. The nearest: "
                f"{_listed([name for name in close if name])}."
            )
        return [modules[layer].register_forward_hook(watch.leaving)]
    linear = [module for module in modules.values() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            "features that enter the last linear layer need an nn.Linear; the model "
            f"has none. {_way_out([name for name in modules if name])}"
        )
    return [module.register_forward_pre_hook(watch.entering) for module in linear]


def _way_out(names: list[str]) -> str:
    """Return what to do about a model without a linear layer."""
    if not names:
        return "It has no modules inside, either: wrap it in nn.Sequential, layer='0'."
    return f"Name the module whose output they are: layer= {_listed(names)}."


def _features(problem: Problem, layer: str | None, memory: str | int | None) -> Tensor:
    """Return the features of all samples."""
    example = first_features(problem, layer, memory)
    shape = (problem.num_samples, example.shape[1])
    result = large_empty(shape, dtype=example.dtype, device=example.device)
    if problem.ranks.size > 1:
        result.zero_()
    with problem.ranks.sum_over_ranks(result):
        halving = Halving("conjugate kernel")
        work = partial(_fill, problem, layer, example, result)
        room = resolve(memory) - result.nbytes
        size = choose_forward_chunk(problem, most=_CHUNK, room=room)
        for batch in problem.batches.chunks(size):
            halving.run(work, batch)
    return result


def _fill(
    problem: Problem, layer: str | None, example: Tensor, result: Tensor, batch: Batch
) -> None:
    """Write the features of some samples; compare the first with `example`."""
    found = features_of(problem, layer, batch)

    def first_of(inputs: ModelInputs) -> Tensor:
        return features_of(problem, layer, replace(batch, inputs=inputs))[:1]

    if batch.start == 0 and not equal_but_for_rounding(
        problem.model, found[:1], example, first_of, batch.inputs
    ):
        raise ValueError(
            "a conjugate kernel needs every sample to be independent of the "
            "others; the features of sample 0 change with the samples beside "
            "it. Look for operations over axis 0 in forward."
        )
    result[batch.start : batch.start + batch.size] = found


def first_features(
    problem: Problem, layer: str | None, memory: str | int | None
) -> Float[Tensor, "one feature"]:
    """Return the features of the first sample; fails where those of all would.

    Args:
        problem: The network and its data.
        layer: As for `conjugate_kernel`.
        memory: As for `conjugate_kernel`.

    Returns:
        One row.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If BatchNorm is in training mode, the layer does not run, or the
            features of all samples do not fit.
    """
    require_no_batch_statistics(problem.model, what="a conjugate kernel needs")
    example = features_of(problem, layer, problem.batches.first(1))
    _require_room(problem.num_samples, 0, example, memory)
    return example


def _require_room(
    num_left: int, num_right: int, features: Tensor, memory: str | int | None
) -> None:
    size = num_left * (features.shape[1] + num_right) * features.element_size()
    require_fits(
        size,
        memory,
        what=f"{num_left} samples with {features.shape[1]} features each and their "
        "kernel",
        way_out="or take some samples at a time",
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8]) or "none at all"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
