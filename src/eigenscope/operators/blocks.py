"""Diagonal blocks of curvature matrices, by parameter, module or own groups."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from eigenscope._types import require_choice
from eigenscope.operators.base import Combination, SymmetricOperator
from eigenscope.operators.curvature import CurvatureOperator

Grouping = Literal["parameter", "module"]


def layer_blocks(
    operator: SymmetricOperator,
    *,
    by: Grouping | Mapping[str, str | Sequence[str]] = "parameter",
) -> dict[str, SymmetricOperator]:
    """A_ℓℓ for every layer ℓ: the diagonal blocks of a matrix over the parameters.

    The blocks share the recordings of the operator, so that all of them together cost
    one forward and one backward pass beside their products, and a product of a block
    ends where its layer is reached. The small matrices behind their exact spectra are
    computed together, too.

    Args:
        operator: A Hessian, Gauss-Newton or Fisher matrix, or a sum, difference,
            multiple or shift of these.
        by: "parameter", "module" (all parameters of its own that a module has), or
            your groups: name to parameters by name, glob or a sequence of these.

    Returns:
        Parameter name, module path ("" for the model itself) or your name to
        operator, in `named_parameters()` order, or yours.

    Raises:
        TypeError: If the operator is not over parameters.
        ValueError: If `by` is unknown or a group matches nothing.

    Example:
        >>> import torch
        >>> from eigenscope.operators import Hessian
        >>> from eigenscope.problem import Problem
        >>> net = torch.nn.Linear(2, 1)
        >>> data = (torch.ones(3, 2), torch.zeros(3, 1))
        >>> H = Hessian(Problem(net, data, loss=torch.nn.MSELoss()))
        >>> {name: block.dense().tolist() for name, block in layer_blocks(H).items()}
        {'weight': [[2.0, 2.0], [2.0, 2.0]], 'bias': [[2.0]]}
    """
    names = _parameters_of(operator)
    if isinstance(by, str):
        require_choice("by", by, Grouping)
        groups: dict[str, Any] = {}
        for name in names:
            key = name if by == "parameter" else name.rpartition(".")[0]
            groups.setdefault(key, []).append(name)
    else:
        groups = dict(by)
    blocks = {name: restricted(operator, params) for name, params in groups.items()}
    _share_sides(list(blocks.values()))
    return blocks


def restricted(
    operator: SymmetricOperator, params: str | Sequence[str]
) -> SymmetricOperator:
    """Return the diagonal block of some parameters."""
    if isinstance(operator, Combination):
        terms = [(c, restricted(part, params)) for c, part in operator.terms]
        return Combination(terms, shift=operator.shift)
    return cast("CurvatureOperator", operator).restricted(params)


def _share_sides(blocks: Sequence[SymmetricOperator]) -> None:
    """Have the small matrices of blocks without common parameters made together."""
    first = blocks[0] if blocks else None
    if isinstance(first, Combination):
        sums = [block.terms for block in blocks if isinstance(block, Combination)]
        for terms in zip(*sums, strict=True):
            _share_sides([part for _, part in terms])
        return
    factors = [block.factor for block in blocks if isinstance(block, CurvatureOperator)]
    names = [name for factor in factors for name in factor.parameters]
    if factors and len(set(names)) == len(names):
        factors[0].share_sides(factors)


def _parameters_of(operator: object) -> list[str]:
    if isinstance(operator, Combination):
        names = [_parameters_of(part) for _, part in operator.terms]
        if any(other != names[0] for other in names):
            raise ValueError(
                "the operators of a sum must be over the same parameters to have "
                "layer blocks; make them with the same params."
            )
        return names[0]
    if not isinstance(operator, CurvatureOperator):
        raise TypeError(
            "layer blocks need a Hessian, GaussNewton or Fisher operator, or a sum or "
            f"multiple of these; got {type(operator).__name__}."
        )
    return list(operator.problem.params)
