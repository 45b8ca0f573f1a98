"""Curvature as products of Jacobians with their transposes: Jᵀ M J = F₊ᵀF₊ - F₋ᵀF₋.

F = Sᵀ J with M = S Sᵀ is the parameter Jacobian of the numbers Sᵀ z, S held constant,
so its rows, norms and Gram matrices come from the engine of parameter Jacobians.
"""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from eigenscope.jacobian import ParameterEngine
from eigenscope.losses import Risk
from eigenscope.operators.base import Combination, SymmetricOperator
from eigenscope.operators.curvature_graphs import MatrixRule
from eigenscope.operators.gram import gram
from eigenscope.operators.indefinite import IndefiniteSide
from eigenscope.operators.parameter_jacobian import ParameterJacobian
from eigenscope.problem import Problem


@final
class OutputFactor:
    """F of one problem's Jᵀ M J, made when it is needed.

    Args:
        risk: The risk, with its problem.
        rule: From raw outputs and targets to M, not normalized.
        memory: Budget for what is formed of it.
        problem: The same problem with some of the parameters.
    """

    def __init__(
        self,
        risk: Risk,
        rule: MatrixRule,
        *,
        memory: str | int | None,
        problem: Problem | None = None,
    ) -> None:
        self._risk = risk
        self._problem = problem or risk.problem
        self._rule = rule
        self._memory = memory
        with torch.no_grad():
            examples = [(raw, rule(raw, batch.targets)) for batch, raw in risk.examples]
            self._rows = max(m.project(raw).shape[1] for raw, m in examples)
        self._is_indefinite = any(matrix.is_indefinite for _, matrix in examples)
        self._positive: ParameterJacobian | None = None

    def restricted(self, problem: Problem) -> "OutputFactor":
        """Return the same for other parameters of the same network."""
        return OutputFactor(
            self._risk, self._rule, memory=self._memory, problem=problem
        )

    def diagonal(self) -> Float[Tensor, " param"]:
        """Return the diagonal of Jᵀ M J."""
        result = self._jacobian().squared_column_norms()
        if self._is_indefinite:
            result -= self._made(negative=True).squared_column_norms()
        return result

    def dense(self) -> Float[Tensor, "param param"]:
        """Return Jᵀ M J."""
        positive = gram(self._jacobian(), side="columns", memory=self._memory)
        if not self._is_indefinite:
            return positive.dense()
        other = self._made(negative=True)
        negative = gram(other, side="columns", memory=self._memory)
        return Combination([(1.0, positive), (-1.0, negative)]).dense()

    def smaller_side(self) -> SymmetricOperator | None:
        """Return F Fᵀ, or its like for indefinite M, if that has fewer rows than P."""
        rows = self._rows * self._problem.num_samples
        rows *= 2 if self._is_indefinite else 1
        if rows >= sum(p.numel() for p in self._problem.params.values()):
            return None
        if self._is_indefinite:
            return IndefiniteSide(self._jacobian(), self._made(negative=True))
        return gram(self._jacobian(), side="rows", memory=self._memory)

    def _jacobian(self) -> ParameterJacobian:
        self._risk.require_same_model()
        if self._positive is None:
            self._positive = self._made(negative=False)
        return self._positive

    def _made(self, *, negative: bool) -> ParameterJacobian:
        self._risk.require_same_model()
        scale = self._risk.denominator**-0.5

        def head(raw: Tensor, targets: Any) -> Tensor:
            matrix = self._rule(raw.detach(), targets)
            project = matrix.project_negative if negative else matrix.project
            rows = project(raw) * scale
            # Shorter sequences have fewer rows.
            return functional.pad(rows, (0, self._rows - rows.shape[1]))

        engine = ParameterEngine(self._problem, head=head, num_outputs=self._rows)
        return ParameterJacobian(self._problem, engine=engine)
