"""From data and loss, given once, to the curvature of the network as it is now."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, final

from torch import nn

from eigenscope._types import require_choice
from eigenscope.budget import Share, parse_bytes
from eigenscope.operators import (
    Curvature,
    SymmetricOperator,
    curvature,
    layer_blocks,
)
from eigenscope.problem import Problem, select_parameters

LayerChoice = Literal["parameter", "module", "weights"]
Layers = LayerChoice | Sequence[str] | Mapping[str, str | Sequence[str]] | None

FULL = "full"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCurvature:
    """What a curvature matrix is made of, but for the network.

    Attributes:
        data: As for `es.Problem`.
        loss: The loss.
        kind: Which matrix.
        layers: Which diagonal blocks.
        params: As for `es.Problem`.
        batch_size: As for `es.Problem`.
        memory: Budget, of which recordings that are kept have half.
    """

    data: object
    loss: Callable[[Any, Any], Any]
    kind: Curvature
    layers: Layers = None
    params: str | Sequence[str] | None = None
    batch_size: int | None = None
    memory: str | int | None = None

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, Curvature)
        if isinstance(self.layers, str):
            require_choice("layers", self.layers, LayerChoice)
        if self.memory is not None:
            parse_bytes(self.memory)

    def matrix(self, model: nn.Module) -> SymmetricOperator:
        """Return the whole matrix of a network."""
        problem = Problem(
            model,
            self.data,
            loss=self.loss,
            params=self.params,
            batch_size=self.batch_size,
        )
        return curvature(problem, self.kind, memory=Share.of(self.memory, 2))

    def blocks(
        self, model: nn.Module, matrix: SymmetricOperator
    ) -> dict[str, SymmetricOperator]:
        """Return the diagonal blocks of the layers, by name."""
        by = self.layers
        if by is None:
            return {}
        if by in {"parameter", "module"} if isinstance(by, str) else False:
            return layer_blocks(matrix, by=cast("Any", by))
        if isinstance(by, Mapping):
            return layer_blocks(matrix, by=by)
        if isinstance(by, str):
            chosen = [n for n, p in self._parameters(model).items() if p.ndim > 1]
        else:
            chosen = list(select_parameters(model, list(by)))
        return layer_blocks(matrix, by={name: name for name in chosen})

    def _parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return select_parameters(model, self.params)
