"""Gauss-Newton matrices, and what they share with all others of the form Jᵀ M J."""

from collections.abc import Sequence
from functools import partial
from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope._types import JsonValue
from eigenscope.losses import Risk
from eigenscope.operators.base import SymmetricOperator
from eigenscope.operators.curvature import (
    CurvatureOperator,
    require_parameters,
    restriction,
)
from eigenscope.operators.curvature_engines import Engine
from eigenscope.operators.curvature_factor import OutputFactor
from eigenscope.operators.curvature_graphs import (
    MatrixRule,
    OutputChunk,
    Recorder,
)
from eigenscope.operators.curvature_products import CurvatureProducts
from eigenscope.operators.room import require_room
from eigenscope.problem import ParameterLayout, Problem


class OutputCurvature(CurvatureOperator):
    """Jᵀ M J with M block-diagonal over samples."""

    @final
    def set_rule(self, risk: Risk, rule: MatrixRule, memory: str | int | None) -> None:
        """Set what the operator is made of.

        Args:
            risk: The risk.
            rule: From raw outputs and targets to M, not normalized.
            memory: Budget for what is kept.
        """
        self.problem = risk.problem
        self.risk = risk
        self.layout = ParameterLayout(risk.problem.params)
        self.factor = OutputFactor(risk, rule, memory=memory)
        recorders: dict[Engine, Recorder] = {
            "reverse": partial(OutputChunk, risk, rule)
        }
        self.products = CurvatureProducts(risk, recorders, memory=memory)

    @final
    @override
    def restricted(self, params: str | Sequence[str]) -> "OutputCurvature":
        other = restriction(self, params)
        other.factor = self.factor.restricted(other.problem)
        return other

    @final
    @override
    def remarks(self) -> dict[str, JsonValue]:
        return self.products.remarks()

    @final
    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        return self.factor.diagonal()

    @final
    @override
    def dense(self) -> Float[Tensor, "row column"]:
        require_room(self, None)
        return self.factor.dense()

    @property
    @final
    @override
    def is_positive_semidefinite(self) -> bool:
        return not self.factor.is_indefinite

    @final
    @override
    def has_cheap_dense(self) -> bool:
        return True

    @final
    @override
    def smaller_side(self) -> SymmetricOperator | None:
        return self.factor.smaller_side()


@final
class GaussNewton(OutputCurvature):
    """G = Jᵀ Λ J, J = ∂z/∂θ and Λ the second derivative of the loss by the raw output.

    Λ is normalized as the risk is. Positive semi-definite where the loss is convex in
    the output. Λ of cross-entropy, squared error and logistic loss is a closed form
    that never holds a class × class matrix; any other loss is left to autograd.

    Args:
        problem: The network, its data with targets, and the loss.
        memory: Budget such as "4GiB" for recordings that are kept between products;
            None for half of what is available.

    Raises:
        ValueError: If the problem has no parameters, or no risk (see its message).

    Cost:
        A forward pass over the data when it is made; less than two gradients per
        product, and two more for the first or where recordings do not fit the budget.
        `diagonal()` and `dense()`: one pass with k - 1 backward passes for k classes
        (k for other losses).

    References:
        Schraudolph (2002), Neural Computation 14, section 3.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> data = (torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.zeros(2, 1))
        >>> G = GaussNewton(Problem(net, data, loss=torch.nn.MSELoss()))
        >>> diagonal, product = G.diagonal(), G @ torch.ones(2)
        >>> diagonal.round(decimals=3).tolist(), product.round(decimals=3).tolist()
        ([2.0, 4.0], [4.0, 6.0])
    """

    def __init__(self, problem: Problem, *, memory: str | int | None = None) -> None:
        require_parameters(problem, memory)
        risk = Risk(problem)
        self.set_rule(risk, risk.loss.curvature, memory)

    @classmethod
    def of(cls, risk: Risk, memory: str | int | None) -> "GaussNewton":
        """Return the matrix of a risk that is there already."""
        made = cls.__new__(cls)
        made.set_rule(risk, risk.loss.curvature, memory)
        return made
