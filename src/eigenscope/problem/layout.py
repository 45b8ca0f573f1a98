"""Named parameters as one flat vector."""

from collections.abc import Mapping, Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor, nn


@final
class ParameterLayout:
    """Where each parameter lies in a vector θ ∈ ℝᴾ: in order, each in C order.

    Args:
        params: Name to parameter, in `named_parameters()` order.

    Attributes:
        columns: Name to the entries of its parameter.
        size: P.
    """

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self._shapes = {name: tuple(p.shape) for name, p in params.items()}
        self.columns: dict[str, slice] = {}
        self.size = 0
        for name, parameter in params.items():
            stop = self.size + parameter.numel()
            self.columns[name] = slice(self.size, stop)
            self.size = stop

    def split(self, vectors: Float[Tensor, "*vector param"]) -> list[Tensor]:
        """Return views of the entries (*vector, *parameter) of each parameter."""
        return [
            vectors[..., self.columns[name]].view((*vectors.shape[:-1], *shape))
            for name, shape in self._shapes.items()
        ]

    def add(
        self, vectors: Float[Tensor, "*vector param"], parts: Sequence[Tensor]
    ) -> None:
        """Add tensors (*vector, *parameter) to vectors, in place."""
        for own, part in zip(self.split(vectors), parts, strict=True):
            own.add_(part)
