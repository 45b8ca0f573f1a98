"""What is asked of a model before its spectra mean anything, and of us: no traces."""

import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eigenscope.problem.outputs import raw_outputs

_DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
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
        ValueError: If the two answers differ, or are not finite, or lose samples.
    """
    with torch.no_grad(), rng_preserved(), buffers_preserved(model):
        first = call_model(model, inputs)
        second = call_model(model, inputs)
    if not bool(first.isfinite().all()):
        bad = (~first.isfinite()).reshape(len(first), -1).any(1)
        raise ValueError(
            "the model's output must be finite; sample "
            f"{int(bad.nonzero()[0, 0])} gives NaN or infinity."
        )
    scale = float(first.abs().max()) if first.numel() else 0.0
    if first.shape != second.shape or float((first - second).abs().max()) > 1e-4 * (
        scale or 1.0
    ):
        active = _active(model, _DROPOUT)
        found = f"dropout is active in {active}" if active else "something is random"
        raise ValueError(
            "the model must give the same output for the same input; it does not: "
            f"{found}. Call model.eval(), and switch off randomness in its forward."
        )
    return first


def require_no_batch_statistics(model: nn.Module) -> None:
    """Raise if a BatchNorm is in training mode, where it mixes the samples of a batch.

    Args:
        model: The network.

    Raises:
        ValueError: Naming the modules.
    """
    active = _active(model, _BATCH_NORM)
    if active:
        raise ValueError(
            "per-sample derivatives need every sample to be independent of the "
            f"others; BatchNorm is in training mode in {active} and normalizes by the "
            "batch. Call model.eval()."
        )


@contextmanager
def buffers_preserved(model: nn.Module) -> Generator[None]:
    """Restore buffers that a forward pass in training mode may have updated."""
    buffers = list(model.buffers()) if any(m.training for m in model.modules()) else []
    saved = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)


@contextmanager
def rng_preserved() -> Generator[None]:
    """Give back the global random states that data or a model may have advanced."""
    cuda = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if cuda else ()
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - saved and restored, not used
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _active(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str:
    names = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if module.training and isinstance(module, kinds)
    ]
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
