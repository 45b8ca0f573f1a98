"""The same operator on the first samples of its data, for rehearsals."""

from functools import singledispatch
from typing import cast

from eigenscope.operators import (
    NTK,
    Combination,
    Fisher,
    GaussNewton,
    Gram,
    Hessian,
    InputJacobian,
    LinearOperator,
    ParameterJacobian,
    SymmetricOperator,
)
from eigenscope.operators.computed_blocks import ComputedBlocks
from eigenscope.problem import Problem


@singledispatch
def problem_of(operator: LinearOperator) -> Problem | None:
    """Return the problem whose samples an operator goes through; None if none."""
    del operator
    return None


@singledispatch
def on_first(operator: LinearOperator, problem: Problem) -> LinearOperator:
    """Return the same operator of fewer samples.

    Args:
        operator: An operator that has a problem.
        problem: Its problem on some samples.

    Returns:
        A new operator.

    Raises:
        TypeError: If the operator is of no such kind.
    """
    raise TypeError(
        f"only operators over the samples of a problem can be rehearsed on fewer "
        f"({problem.num_samples}); got {type(operator).__name__}."
    )


@problem_of.register
def _(operator: InputJacobian) -> Problem | None:
    source = operator.source
    return source.problem if isinstance(source, ComputedBlocks) else None


@on_first.register
def _(operator: InputJacobian, problem: Problem) -> LinearOperator:
    return InputJacobian(problem, layout=operator.layout, memory=operator.memory)


@problem_of.register(ParameterJacobian)
@problem_of.register(NTK)
@problem_of.register(Hessian)
@problem_of.register(GaussNewton)
@problem_of.register(Fisher)
def _(
    operator: ParameterJacobian | NTK | Hessian | GaussNewton | Fisher,
) -> Problem | None:
    return operator.problem


@on_first.register
def _(operator: ParameterJacobian, problem: Problem) -> LinearOperator:
    return ParameterJacobian(problem, memory=operator.memory)


@on_first.register
def _(operator: NTK, problem: Problem) -> LinearOperator:
    return NTK(
        problem,
        outputs=operator.outputs,
        method=operator.method,
        memory=operator.memory,
    )


@on_first.register(Hessian)
@on_first.register(GaussNewton)
def _(operator: Hessian | GaussNewton, problem: Problem) -> LinearOperator:
    return type(operator)(problem, memory=operator.products.memory)


@on_first.register
def _(operator: Fisher, problem: Problem) -> LinearOperator:
    return Fisher(problem, kind=operator.kind, memory=operator.products.memory)


@problem_of.register
def _(operator: Gram) -> Problem | None:
    return problem_of(operator.factor)


@on_first.register
def _(operator: Gram, problem: Problem) -> LinearOperator:
    factor = on_first(operator.factor, problem)
    return Gram(
        cast("InputJacobian", factor),
        side=operator.side,
        accumulate=None,
        memory=operator.memory,
    )


@problem_of.register
def _(operator: Combination) -> Problem | None:
    found = [problem_of(part) for _, part in operator.terms]
    return next((problem for problem in found if problem is not None), None)


@on_first.register
def _(operator: Combination, problem: Problem) -> LinearOperator:
    terms = [
        (c, cast("SymmetricOperator", on_first(part, problem)))
        for c, part in operator.terms
    ]
    return Combination(terms, shift=operator.shift)
