"""A network that is measured in the middle of its training, and cannot tell."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from eigenscope.problem import DataChangedError, left_as_found, state_digest

Mode = Literal["eval", "as_is"]


@contextmanager
def untouched(model: nn.Module, mode: Mode, name: str) -> Generator[None]:
    """Give back mode, gradients and random states; refuse changed weights.

    Automatic mixed precision is off inside, and gradients are on.

    Args:
        model: The network.
        mode: "eval" puts it in eval mode inside.
        name: Of the measure, for the message.

    Raises:
        DataChangedError: If a weight has changed inside.
    """
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    device = parameters[0][0].device.type if parameters else "cpu"
    before = state_digest(model)
    try:
        with (
            left_as_found(model, every_buffer=True),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
        ):
            if mode == "eval":
                model.eval()
            for parameter, _, _ in parameters:
                parameter.grad = None
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient, required in parameters:
            parameter.grad = gradient
            parameter.requires_grad = required
    if state_digest(model) != before:
        raise DataChangedError(
            "a measure must leave the network as it is; weights have changed "
            f"during {name!r}. Work on a copy: copy.deepcopy(model)."
        )
