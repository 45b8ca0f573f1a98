"""What every curvature matrix of a risk is: an operator over named parameters."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, cast, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.budget import resolve
from eigenscope.distributed import Ranks
from eigenscope.losses import Risk
from eigenscope.operators.base import SymmetricOperator
from eigenscope.operators.curvature_factor import OutputFactor
from eigenscope.operators.curvature_products import CurvatureProducts
from eigenscope.problem import ParameterLayout, Problem

Operator = TypeVar("Operator", bound="CurvatureOperator")


class CurvatureOperator(SymmetricOperator):
    """A P × P matrix over the parameters of a problem, in `named_parameters()` order.

    Attributes:
        problem: The problem, with the parameters of this operator.
        risk: L(θ), with its value.
        layout: Which rows and columns belong to which parameter.
        products: What multiplies.
        factor: F of the Gauss-Newton or Fisher matrix Fᵀ D F of these parameters.
    """

    problem: Problem
    risk: Risk
    layout: ParameterLayout
    products: CurvatureProducts
    factor: OutputFactor

    @property
    @abstractmethod
    def is_positive_semidefinite(self) -> bool:
        """Whether no eigenvalue is negative but by rounding, known from its form."""

    @abstractmethod
    def has_cheap_dense(self) -> bool:
        """Return whether the dense form costs a pass, not a product for each row."""

    @abstractmethod
    def restricted(self, params: str | Sequence[str]) -> "CurvatureOperator":
        """Return the diagonal block of some parameters, which shares all that is kept.

        Args:
            params: Names or globs.

        Returns:
            An operator of the same kind.

        Raises:
            ValueError: If they are not among the operator's own.
        """

    @final
    def with_batch_size(self, batch_size: int) -> "CurvatureOperator":
        """Return the same matrix, with products from chunks of another size.

        Args:
            batch_size: Samples of a chunk.

        Returns:
            An operator that keeps its own recordings.
        """
        other = copy.copy(self)
        other.products = self.products.with_batch_size(batch_size)
        return other

    @property
    @final
    @override
    def shape(self) -> tuple[int, int]:
        return self.layout.size, self.layout.size

    @property
    @final
    @override
    def dtype(self) -> torch.dtype:
        return next(iter(self.problem.params.values())).dtype

    @property
    @final
    @override
    def device(self) -> torch.device:
        return next(iter(self.problem.params.values())).device

    @property
    @final
    @override
    def ranks(self) -> Ranks:
        return self.problem.ranks

    @final
    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return self.products.multiply(block)


def restriction(operator: Operator, params: str | Sequence[str]) -> Operator:
    """Return a copy of an operator for some of its own parameters.

    Args:
        operator: The operator; what else it is made of has to be replaced.
        params: Names or globs.

    Returns:
        The copy.

    Raises:
        ValueError: If they are not among the operator's own.
    """
    problem = operator.problem.with_params(params)
    foreign = [name for name in problem.params if name not in operator.problem.params]
    if foreign:
        raise ValueError(
            f"a block's parameters must be among the operator's own; {foreign[0]!r} "
            f"is not among {', '.join(map(repr, operator.problem.params))}."
        )
    other = copy.copy(operator)
    other.problem = problem
    other.layout = ParameterLayout(problem.params)
    other.products = operator.products.restricted(list(problem.params))
    return other


def require_parameters(problem: Problem, memory: str | int | None) -> None:
    """Raise unless a problem has parameters, and the budget is one.

    Args:
        problem: The problem.
        memory: A budget, or None.

    Raises:
        TypeError: If it is no problem at all.
        ValueError: If there are none, or it is not a size.
    """
    if not isinstance(cast("object", problem), Problem):
        raise TypeError(
            f"a curvature matrix is made of an es.Problem; got {type(problem).__name__}"
            ". Pass es.Problem(model, data, loss=...)."
        )
    if memory is not None:
        resolve(memory)
    if not problem.params:
        raise ValueError(
            "a curvature matrix needs parameters; the model has none that requires "
            "gradients. Name frozen ones: params='*' takes them all."
        )
