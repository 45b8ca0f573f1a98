"""What is asked of a model before its spectra mean anything."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from eigenscope.distributed.pieces import kept_in_pieces
from eigenscope.problem.as_found import left_as_found
from eigenscope.problem.outputs import raw_outputs
from eigenscope.problem.raw_batches import update_digest

_DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_NOT_REPEATABLE = (
    "the model must give the same output for the same input; it does not: {}. Call "
    "model.eval(), and switch off randomness in its forward."
)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def call_model(model: nn.Module, inputs: Tensor | dict[str, Any]) -> Tensor:
    """Return the raw output for one batch; a mapping becomes keyword arguments."""
    if isinstance(inputs, Mapping):
        return raw_outputs(model(**inputs))
    return raw_outputs(model(inputs))


def device_and_dtype(
    model: nn.Module,
) -> tuple[torch.device | None, torch.dtype | None]:
    """Return the device and floating dtype of the model's first parameter or buffer."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return None, None


def require_initialized(model: nn.Module) -> None:
    """Raise if parameters or buffers have no shape yet.

    Args:
        model: The network.

    Raises:
        ValueError: Naming the modules.
    """
    lazy = (
        (name, module)
        for name, module in model.named_modules()
        if any(map(is_lazy, module.parameters(recurse=False)))
        or any(map(is_lazy, module.buffers(recurse=False)))
    )
    if found := _names(lazy):
        raise ValueError(
            f"weights must have their shapes; those of the lazy {found} have none "
            "before the first call. Call the model once, such as model(inputs[:2]), "
            "before anything is measured."
        )


def require_finite_weights(model: nn.Module) -> None:
    """Raise if a parameter or buffer holds NaN or infinity.

    Args:
        model: The network.

    Raises:
        ValueError: Naming the first such tensor.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all()):
            raise ValueError(
                f"weights must be finite; {name!r} holds NaN or infinity, as after a "
                "diverged training. Load an earlier checkpoint."
            )


def require_repeatable(model: nn.Module, inputs: Tensor | dict[str, Any]) -> Tensor:
    """Return the raw output; raise if the model answers differently the second time.

    Args:
        model: The network.
        inputs: A few samples.

    Returns:
        The raw output.

    Raises:
        TypeError: If the model fails on integer inputs.
        RuntimeError: What else the model raises.
        ValueError: If dropout is active, the two answers differ (by more than rounding
            where no random numbers were drawn), they are not finite, or the model
            writes into its input.
    """
    dropouts = (m for m in model.named_modules() if _is_active_dropout(m[1]))
    if active := _names(dropouts):
        raise ValueError(_NOT_REPEATABLE.format(f"dropout is active in {active}"))
    with torch.no_grad(), left_as_found(model):
        own = _cloned(inputs)
        before = torch.get_rng_state()
        try:
            first = call_model(model, own)
        except RuntimeError as error:
            _explain_integers(inputs, error)
            raise
        drew = not torch.equal(torch.get_rng_state(), before)
        _require_same_inputs(inputs, own)
        second = call_model(model, own)
    require_finite_outputs(first, 0)
    same = torch.equal if drew else nearly_equal
    if first.shape != second.shape or not same(first, second):
        raise ValueError(_NOT_REPEATABLE.format("something is random"))
    return first


def require_finite_outputs(raw: Tensor, start: int) -> None:
    """Raise unless the raw outputs of consecutive samples are finite.

    Args:
        raw: The outputs, samples on axis 0.
        start: Index of the first sample.

    Raises:
        ValueError: Naming the first sample whose output is not.
    """
    finite = raw.isfinite()
    if not bool(finite.all()) and raw.ndim:
        bad = (~finite).reshape(len(raw), -1).any(1)
        raise ValueError(
            "the model's output must be finite; sample "
            f"{start + int(bad.nonzero()[0, 0])} gives NaN or infinity. Look at the "
            "scale of this input and of the weights."
        )


def nearly_equal(first: Tensor, second: Tensor) -> bool:
    """Return whether two outputs differ by no more than rounding explains.

    Args:
        first: Outputs of some samples.
        second: Outputs of the same shape.

    Returns:
        Whether all differences are at most √ε and 1000 ε of the largest output.
    """
    if not first.is_floating_point():
        return torch.equal(first, second)
    scale = first.abs().amax() if first.numel() else 0.0
    epsilon = torch.finfo(first.dtype).eps
    tolerance = min(epsilon**0.5, 1000 * epsilon)  # sums of atomics on accelerators
    return bool(((first - second).abs() <= tolerance * scale).all())


def _cloned(inputs: Tensor | dict[str, Any]) -> Tensor | dict[str, Any]:
    if isinstance(inputs, Tensor):
        return inputs.clone()
    return {
        name: entry.clone() if isinstance(entry, Tensor) else entry
        for name, entry in inputs.items()
    }


def _require_same_inputs(
    given: Tensor | dict[str, Any], used: Tensor | dict[str, Any]
) -> None:
    """Raise if the model has written into its input, or the user's data would change.

    Raises:
        ValueError: If it has.
    """
    pairs = {"input": (given, used)}
    if isinstance(given, Mapping) and isinstance(used, Mapping):
        pairs = {name: (given[name], used[name]) for name in given}
    for name, (before, after) in pairs.items():
        if isinstance(before, Tensor) and isinstance(after, Tensor):
            same = before.shape == after.shape and torch.equal(before, after)
            if not same and bool(before.isfinite().all()):
                raise ValueError(
                    "the model must leave its inputs as they are; it writes into its "
                    f"{name!r}. Use an out-of-place operation there, or clone it first."
                )


def _explain_integers(inputs: Tensor | dict[str, Any], error: RuntimeError) -> None:
    if isinstance(inputs, Tensor) and not inputs.is_floating_point():
        raise TypeError(
            f"the model must accept its inputs; it fails on {inputs.dtype} ({error}). "
            "Convert integer data to floating point, as by images / 255."
        ) from error


def require_no_batch_statistics(
    model: nn.Module, *, what: str = "per-sample derivatives need"
) -> None:
    """Raise if a BatchNorm normalizes by the batch, and so mixes its samples.

    Args:
        model: The network.
        what: What is asked for, the start of the message.

    Raises:
        ValueError: Naming the modules.
    """
    norms = [m for m in model.named_modules() if isinstance(m[1], _BATCH_NORM)]
    cause, active = "is in training mode", _names(m for m in norms if m[1].training)
    advice = "Call model.eval()."
    if not active:
        cause = "keeps no running statistics"
        active = _names(m for m in norms if getattr(m[1], "running_mean", 0) is None)
        advice = "Use track_running_stats=True."
    if active:
        raise ValueError(
            f"{what} every sample to be independent of the others; BatchNorm {cause} "
            f"in {active} and normalizes by the batch. {advice}"
        )


def state_digest(model: nn.Module) -> str:
    """Return a digest of all parameters and buffers.

    Args:
        model: The network.

    Returns:
        32 hexadecimal digits.
    """
    state = hashlib.blake2b(digest_size=16)
    # What FSDP2 has gathered must not be shared with NumPy: it could not be let go.
    with kept_in_pieces(model):
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            state.update(name.encode())
            update_digest(state, tensor)
    return state.hexdigest()


def _is_active_dropout(module: nn.Module) -> bool:
    if not module.training:
        return False
    if isinstance(module, nn.RNNBase):  # it has none after the last layer
        return module.dropout > 0 and module.num_layers > 1
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.RReLU) or (
        isinstance(module, _DROPOUT) and module.p > 0
    )


def _names(modules: Iterator[tuple[str, nn.Module]]) -> str:
    names = [name or type(module).__name__ for name, module in modules]
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
