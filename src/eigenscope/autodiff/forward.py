"""Products with a Hessian as derivatives of the gradient along a direction.

Forward over reverse: H v = d/dt ∇f(θ + t v). It needs a derivative in forward mode of
every operation, which checkpoints, fused attention and some functions do not have.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from eigenscope.problem import Problem
from eigenscope.problem.batch import ModelInputs
from eigenscope.problem.outputs import raw_outputs

Function = Callable[[dict[str, Tensor]], Tensor]
Parts = Sequence[Tensor]


def outputs_at(
    problem: Problem, params: Mapping[str, Tensor], inputs: ModelInputs
) -> Tensor:
    """Return the raw output z at other values of some parameters.

    Args:
        problem: The problem.
        params: The values, by name.
        inputs: Inputs of a batch.

    Returns:
        What the model gives.
    """
    given: Any = ((), inputs) if isinstance(inputs, Mapping) else ((inputs,), {})
    return raw_outputs(functional_call(problem.model, dict(params), *given))


def directional_gradient(
    function: Function,
    params: Mapping[str, Tensor],
    vector: Parts,
    *,
    together: int | None = None,
) -> Parts:
    """Return (∂²f/∂θ²) v at a point, from one pass that keeps nothing.

    Args:
        function: Named tensors to a scalar.
        params: The point θ.
        vector: v, a tensor for each name.
        together: Number of vectors on the first axis, for one batched pass.

    Returns:
        A tensor for each name.

    Raises:
        RuntimeError: If an operation has no derivative in forward mode, or no
            batching rule.
    """
    point = {name: p.detach() for name, p in params.items()}

    def product(*tangents: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(point, tangents, strict=True))
        found: Any = jvp(grad(function), (point,), (named,))[1]
        return tuple(found.values())

    _load_forward_mode()
    with torch.no_grad():
        return (vmap(product) if together else product)(*vector)


@cache
def _load_forward_mode() -> None:
    """Let torch load its forward derivatives, which warns of what torch itself does."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))
