"""The last linear layer, where fewer features enter it than outputs leave it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenscope.autodiff import vector_jacobian_product
from eigenscope.problem import ModelInputs, call_model


@final
class LinearWatch:
    """What enters and leaves a linear layer in the pass that is under way."""

    def __init__(self) -> None:
        self.features = self.weight = self.output = torch.empty(0)
        self._version = 0

    def note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Take down a call; a later one of the same layer replaces it."""
        if inputs:
            self.features, self.output = inputs[0], output
            self.weight = cast("nn.Linear", module).weight.detach()
            self._version = output._version  # noqa: SLF001 - counts in-place changes

    def gave(self, raw: Tensor) -> bool:
        """Return whether the network's raw output is what left the layer, unchanged."""
        unchanged = raw._version == self._version  # noqa: SLF001
        return self.output is raw and unchanged and raw.ndim == 2


@contextmanager
def watching(module: nn.Module, name: str | None) -> Generator[LinearWatch | None]:
    """Watch one linear layer of a network, or none.

    Args:
        module: The network.
        name: The layer's name, or None.

    Yields:
        What the layer takes and gives, once the network has run.
    """
    if name is None:
        yield None
        return
    watch = LinearWatch()
    handle = module.get_submodule(name).register_forward_hook(watch.note)
    try:
        yield watch
    finally:
        handle.remove()


def find_bottleneck(module: nn.Module, inputs: ModelInputs) -> str | None:
    """Return the linear layer that gives the raw output from fewer features.

    That the raw output is W · features + b is proven by its derivative on the inputs.

    Args:
        module: The network.
        inputs: A few samples.

    Returns:
        The layer's name, or None if there is no such layer.
    """
    for name, layer in module.named_modules():
        if type(layer) is nn.Linear and layer.in_features < layer.out_features:
            with watching(module, name) as watch:
                raw = call_model(module, inputs)
            if watch and watch.gave(raw) and _is_linear_map(watch, raw):
                return name
    return None


def _is_linear_map(watch: LinearWatch, raw: Tensor) -> bool:
    """Return whether ∂raw/∂features is the weight, on a random cotangent."""
    if not watch.features.requires_grad:
        return False
    generator = torch.Generator().manual_seed(0)
    seed = torch.randn(raw.shape, generator=generator).to(raw)
    product = vector_jacobian_product(raw, watch.features, seed, keep_graph=False)
    expected: Float[Tensor, "sample feature"] = seed @ watch.weight
    tolerance = torch.finfo(raw.dtype).eps ** 0.5
    return bool((product - expected).abs().max() <= tolerance * expected.abs().max())
