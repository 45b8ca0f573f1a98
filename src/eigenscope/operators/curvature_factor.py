"""Curvature as products of Jacobians with their transposes: Jᵀ M J = Fᵀ D F.

F = Sᵀ J with M = S₊S₊ᵀ - S₋S₋ᵀ, S = [S₊ S₋] and D = diag(1, -1) is the parameter
Jacobian of the numbers Sᵀ z, S held constant, so its norms and small matrices come
from the engines of parameter Jacobians and of kernels.
"""

from collections.abc import Sequence
from typing import Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from eigenscope.jacobian import ParameterEngine
from eigenscope.losses import Risk
from eigenscope.operators.base import SymmetricOperator
from eigenscope.operators.curvature_graphs import MatrixRule
from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.parameter_jacobian import ParameterJacobian
from eigenscope.operators.small_sides import RowSide, SmallSides
from eigenscope.problem import Problem

_ROWS: Final = "rows of a curvature matrix"


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
        self._sides, self._place = self._small_sides([self]), 0

    @property
    def is_indefinite(self) -> bool:
        """Whether there may be a part S₋."""
        return self._is_indefinite

    def restricted(self, problem: Problem) -> "OutputFactor":
        """Return the same for other parameters of the same network."""
        return OutputFactor(
            self._risk, self._rule, memory=self._memory, problem=problem
        )

    def diagonal(self) -> Float[Tensor, " param"]:
        """Return the diagonal of Jᵀ M J."""
        result = self._jacobian(negative=False).squared_column_norms()
        if self._is_indefinite:
            result -= self._jacobian(negative=True).squared_column_norms()
        return result

    def transposed_products(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "param vector"]:
        """Return Fᵀ Y where D is the identity: M has no part S₋."""
        return self._jacobian(negative=False).multiply_transpose(block)

    def dense(self) -> Float[Tensor, "param param"]:
        """Return Jᵀ M J."""
        self._risk.require_same_model()
        own = self._sides
        if own.has_few_rows(self._place):
            return require_no_overflow(own.column_side(self._place), _ROWS)
        return require_no_overflow(own.take(self._place), _ROWS)

    def smaller_side(self) -> SymmetricOperator | None:
        """Return F Fᵀ, or its like for indefinite M, if that has fewer rows than P."""
        if not self._sides.has_few_rows(self._place):
            return None
        self._risk.require_same_model()
        return RowSide(
            self._sides,
            self._place,
            num_rows=self._num_rows,
            signs=self._signs,
            device=self._problem.device,
            dtype=self._problem.dtype,
        )

    def share_sides(self, others: Sequence["OutputFactor"]) -> None:
        """Compute the small matrices of blocks of one matrix together from now on.

        Args:
            others: Factors of blocks, this one among them, that share no parameter.
        """
        sides = self._small_sides(others)
        for place, other in enumerate(others):
            other.take_sides_from(sides, place)

    def take_sides_from(self, sides: SmallSides, place: int) -> None:
        """Take the small matrices from some that are computed together.

        Args:
            sides: What computes them.
            place: Number of this factor's parameters among their groups.
        """
        self._sides, self._place = sides, place

    @property
    def parameters(self) -> list[str]:
        """Names of the columns' parameters."""
        return list(self._problem.params)

    @property
    def _num_rows(self) -> int:
        return self._outputs * self._problem.num_samples

    @property
    def _outputs(self) -> int:
        return 2 * self._rows if self._is_indefinite else self._rows

    @property
    def _signs(self) -> Float[Tensor, " row"] | None:
        if not self._is_indefinite:
            return None
        return torch.tensor([1.0, -1.0]).repeat_interleave(self._rows)

    def _small_sides(self, factors: Sequence["OutputFactor"]) -> SmallSides:
        whole = self._risk.problem
        return SmallSides(
            self._engine,
            [factor.parameters for factor in factors],
            num_entries={name: p.numel() for name, p in whole.params.items()},
            num_rows=self._num_rows,
            signs=self._signs,
            dtype=self._problem.dtype,
            ranks=whole.ranks,
            memory=self._memory,
        )

    def _engine(self, names: Sequence[str]) -> ParameterEngine:
        """Return what differentiates the rows of F by some parameters."""
        parts = (False, True) if self._is_indefinite else (False,)
        return self._differentiating(self._risk.problem.with_params(names), parts)

    def _jacobian(self, *, negative: bool) -> ParameterJacobian:
        self._risk.require_same_model()
        engine = self._differentiating(self._problem, (negative,))
        return ParameterJacobian(self._problem, engine=engine)

    def _differentiating(
        self, problem: Problem, parts: Sequence[bool]
    ) -> ParameterEngine:
        scale = self._risk.denominator**-0.5

        def head(raw: Tensor, targets: Any) -> Tensor:
            matrix = self._rule(raw.detach(), targets)
            found: list[Tensor] = []
            for negative in parts:
                project = matrix.project_negative if negative else matrix.project
                rows = project(raw) * scale
                # Shorter sequences have fewer rows.
                found.append(functional.pad(rows, (0, self._rows - rows.shape[1])))
            return found[0] if len(found) == 1 else torch.cat(found, 1)

        outputs = self._rows * len(parts)
        return ParameterEngine(problem, head=head, num_outputs=outputs)
