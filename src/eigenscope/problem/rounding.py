"""Outputs that differ: by rounding, which a deep network amplifies, or otherwise."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from eigenscope.problem.batch import ModelInputs
from eigenscope.problem.model import left_as_found, nearly_equal

_FACTOR: Final = 10.0  # layers round, too, and in another order for each batch size
_MOST: Final = 0.05  # of the largest output: beyond it nothing is explained


def equal_but_for_rounding(
    model: nn.Module,
    first: Tensor,
    second: Tensor,
    evaluate: Callable[[ModelInputs], Tensor],
    inputs: ModelInputs,
) -> bool:
    """Return whether two outputs of the same samples differ by rounding alone.

    Where they are not nearly equal, inputs are moved by one unit of rounding each, and
    outputs may differ by ten times what that changes, up to 5 % of the largest:
    hundreds of layers amplify rounding by factors of thousands.

    Args:
        model: The network, left as it was.
        first: Its outputs.
        second: Outputs of the same samples, computed otherwise.
        evaluate: Gives the outputs of a batch's inputs.
        inputs: Of such a batch.

    Returns:
        Whether rounding explains the difference.

    Cost:
        Two passes of the batch where the outputs are not nearly equal.
    """
    if nearly_equal(first, second):
        return True
    with torch.no_grad():
        with left_as_found(model):  # each from the same random state
            before = evaluate(inputs)
        with left_as_found(model):
            after = evaluate(_moved(inputs))
    spread = (after - before).abs().max()
    allowed = torch.minimum(_FACTOR * spread, _MOST * first.abs().max())
    return bool((first - second).abs().max() <= allowed)


def _moved(inputs: ModelInputs) -> ModelInputs:
    """Return inputs of which every floating number is a unit of rounding away."""
    if isinstance(inputs, Tensor):
        return _moved_tensor(inputs)
    entries: Mapping[str, Any] = inputs
    return {
        name: _moved_tensor(entry) if isinstance(entry, Tensor) else entry
        for name, entry in entries.items()
    }


def _moved_tensor(entry: Tensor) -> Tensor:
    if not entry.is_floating_point():
        return entry
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, entry.shape, generator=generator).to(entry) * 2 - 1
    return entry + signs * torch.finfo(entry.dtype).eps * entry
