"""The Hessian of a risk by the parameters."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope._types import JsonValue, require_choice
from eigenscope.losses import Risk
from eigenscope.operators.base import SymmetricOperator
from eigenscope.operators.curvature import (
    CurvatureOperator,
    require_parameters,
    restriction,
)
from eigenscope.operators.curvature_engines import Engine, EngineChoice
from eigenscope.operators.curvature_graphs import (
    ForwardChunk,
    HessianChunk,
    Recorder,
)
from eigenscope.operators.curvature_products import CurvatureProducts
from eigenscope.operators.gauss_newton import GaussNewton, OutputCurvature
from eigenscope.operators.room import require_room
from eigenscope.problem import ParameterLayout, Problem

_VECTORS_AT_ONCE: Final = 64


@final
class Comparison:
    """Whether a Hessian, or a block of it, is the Gauss-Newton matrix.

    So it is in a single layer's block of a network that is piecewise linear in that
    layer's parameters, and in the whole of a linear model.

    Args:
        products: Products of H.
        gauss_newton: G.

    Attributes:
        gauss_newton: G.
    """

    def __init__(
        self, products: CurvatureProducts, gauss_newton: OutputCurvature
    ) -> None:
        self._products = products
        self.gauss_newton = gauss_newton

    @property
    def is_known_equal(self) -> bool:
        """Whether the comparison has been made and they are equal."""
        return "is_equal" in vars(self) and self.is_equal

    @cached_property
    def is_equal(self) -> bool:
        """Whether H v = G v to ε^¾ ‖G v‖ for a random v, ε the dtype's roundoff."""
        own = self.gauss_newton
        source = torch.Generator().manual_seed(11)
        drawn = torch.randn(own.shape[0], 1, generator=source, dtype=torch.float64)
        vector = drawn.to(own.device, own.dtype)
        expected = own.multiply(vector)
        gap = torch.linalg.vector_norm(self._products.multiply(vector) - expected)
        tolerance = torch.finfo(own.dtype).eps ** 0.75
        return bool(gap <= tolerance * torch.linalg.vector_norm(expected))


@final
class Hessian(CurvatureOperator):
    """H = ∇²_θ L, the second derivative of the risk by the parameters.

    Exact for any twice differentiable model: products are reverse-mode passes through
    recorded graphs of the gradient. At kinks (ReLU at 0, tied maxima) it is the
    derivative that PyTorch's autograd takes. Parameters without influence have zero
    rows; tied ones count once.

    Args:
        problem: The network, its data with targets, and the loss.
        engine: How products are computed: "reverse" mode through kept graphs, "forward"
            over reverse, which keeps nothing, or "auto", which is "reverse" (see *How
            products are computed* in the documentation).
        memory: Budget such as "4GiB" for recordings that are kept between products
            and a pass through them; None for half of what is available.

    Raises:
        ValueError: If the problem has no parameters, or no risk (see its message);
            with the first product, if `engine` is not right for the model.

    Cost:
        A forward pass over the data when it is made; about two gradients per product,
        and two more for the first or where recordings do not fit the budget.

    Attributes:
        comparison: G of the same parameters, and whether H is equal to it.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> data = (torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.zeros(2, 1))
        >>> H = Hessian(Problem(net, data, loss=torch.nn.MSELoss()))
        >>> H.dense().tolist(), (H @ torch.ones(2)).tolist()
        ([[2.0, 2.0], [2.0, 4.0]], [4.0, 6.0])
    """

    def __init__(
        self,
        problem: Problem,
        *,
        engine: EngineChoice = "auto",
        memory: str | int | None = None,
    ) -> None:
        require_choice("engine", engine, EngineChoice)
        require_parameters(problem, memory)
        self.problem = problem
        self.risk = Risk(problem)
        self.layout = ParameterLayout(problem.params)
        recorders: dict[Engine, Recorder] = {
            "reverse": partial(HessianChunk, self.risk),
            "forward": partial(ForwardChunk, self.risk),
        }
        self.products = CurvatureProducts(
            self.risk, recorders, memory=memory, engine=engine
        )
        gauss_newton = GaussNewton.of(self.risk, memory)
        self.comparison = Comparison(self.products, gauss_newton)
        self.factor = gauss_newton.factor

    @override
    def restricted(self, params: str | Sequence[str]) -> "Hessian":
        other = restriction(self, params)
        own = self.comparison.gauss_newton.restricted(list(other.problem.params))
        other.comparison = Comparison(other.products, own)
        other.factor = own.factor
        return other

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        if self.comparison.is_equal:
            return self.comparison.gauss_newton.diagonal()
        names = list(self.problem.params)
        if len(names) > 1:
            return torch.cat([self.restricted(name).diagonal() for name in names])
        result = torch.empty(self.shape[0], dtype=self.dtype, device=self.device)
        for first, columns in _columns(self):
            rows = slice(first, first + columns.shape[1])
            result[rows] = columns[rows].diagonal()
        return result

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        if self.shape[0] > _VECTORS_AT_ONCE and self.comparison.is_equal:
            return self.comparison.gauss_newton.dense()
        require_room(self, None, copies=2)
        result = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for first, columns in _columns(self):
            result[:, first : first + columns.shape[1]] = columns
        return (result + result.T).div_(2)

    @override
    def remarks(self) -> dict[str, JsonValue]:
        found = self.products.remarks()
        if self.comparison.is_known_equal:
            found["recognized"] = "Gauss-Newton block"
        return found

    @property
    @override
    def is_positive_semidefinite(self) -> bool:
        return self.comparison.is_equal and not self.factor.is_indefinite

    @override
    def has_cheap_dense(self) -> bool:
        return self.shape[0] > _VECTORS_AT_ONCE and self.comparison.is_equal

    @override
    def smaller_side(self) -> SymmetricOperator | None:
        smaller = self.comparison.gauss_newton.smaller_side()
        return smaller if smaller is not None and self.comparison.is_equal else None


def _columns(operator: SymmetricOperator) -> Iterator[tuple[int, Tensor]]:
    """Yield (first column, some whole columns) from left to right."""
    size = operator.shape[0]
    for first in range(0, size, _VECTORS_AT_ONCE):
        count = min(_VECTORS_AT_ONCE, size - first)
        units = torch.zeros(size, count, dtype=operator.dtype, device=operator.device)
        units[first : first + count].fill_diagonal_(1)
        yield first, operator.multiply(units)
