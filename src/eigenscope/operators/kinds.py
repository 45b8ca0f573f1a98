"""Curvature matrices by the names that options and measures call them."""

from typing import Literal

from eigenscope._types import require_choice
from eigenscope.operators.curvature import CurvatureOperator
from eigenscope.operators.fisher import Fisher
from eigenscope.operators.gauss_newton import GaussNewton
from eigenscope.operators.hessian import Hessian
from eigenscope.problem import Problem

Curvature = Literal["hessian", "gauss-newton", "fisher"]


def curvature(
    problem: Problem, kind: Curvature, *, memory: str | int | None = None
) -> CurvatureOperator:
    """Return a curvature matrix of a problem's risk.

    Args:
        problem: The network, its data with targets, and the loss.
        kind: "hessian", "gauss-newton" (of the same loss) or "fisher" (the empirical
            one).
        memory: Budget such as "4GiB" for recordings that are kept.

    Returns:
        The operator.

    Raises:
        ValueError: If the kind is unknown, or the problem has no such matrix.
    """
    require_choice("kind", kind, Curvature)
    if kind == "hessian":
        return Hessian(problem, memory=memory)
    if kind == "gauss-newton":
        return GaussNewton(problem, memory=memory)
    return Fisher(problem, kind="empirical", memory=memory)
