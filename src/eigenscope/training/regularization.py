"""A penalty on the curvature that training meets: the trace of layers' Hessians."""

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenscope._types import require_choice
from eigenscope.autodiff import gradient_graph
from eigenscope.estimators.probes import ProbeLaw, draw_probes
from eigenscope.problem import (
    ParameterLayout,
    require_no_pieces,
    select_parameters,
    without_gradient_hooks,
)

LayerRange = Literal["middle", "all"]


@final
class TracePenalty:
    """γ tr(H) of some layers' Hessian blocks, by Hutchinson, to be added to a loss.

    tr(H) = E[vᵀHv] over random v with E[vvᵀ] = I, where H is the Hessian of the loss
    that is passed in (usually a batch's) by the chosen parameters; the trace of a whole
    block is the sum of its layers' traces. The term is differentiable: `backward`
    goes through the second derivatives. Where none is due the loss comes back as it
    is, without cost. Fused attention and fused recurrent kernels have no second
    derivatives: run the forward pass with `torch.nn.attention.SDPBackend.MATH`, and
    without cuDNN.

    Args:
        model: The network whose loss is penalized.
        weight: γ, at least 0.
        params: "middle" takes the parameter tensors i of n with n/4 ≤ i ≤ 3n/4, counted
            from 0; "all" takes all of them that require gradients; else names or globs
            in a sequence.
        num_probes: Random vectors for each estimate.
        law: "normal", "sign" or "sphere": distribution of their entries.
        every: A penalty is due at every multiple of this step.
        first_step: No penalty is due before this step.
        seed: The probes depend on the seed and the step alone, so that a training that
            is resumed draws the same.

    Raises:
        ValueError: If a number is out of its range, `params` or `law` is unknown, or no
            parameter is left.

    Cost:
        At a step that is due, `num_probes` products with the Hessian, each with a graph
        for the backward pass: about four times as many gradients.

    References:
        Hutchinson (1989), Commun. Stat. Simul. Comput. 18; Sankar, Khasbage,
        Vigneswaran, Balasubramanian (2021), AAAI 35, on penalizing layers' traces.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = layer.weight.data.fill_(3.0)
        >>> penalized = TracePenalty(layer, weight=0.5, params="all", law="sign")
        >>> loss = penalized((layer.weight**4).sum(), step=0)  # 81 + 0.5 · 12 · 3²
        >>> loss.backward()
        >>> loss.item(), layer.weight.grad.item()  # 4 · 3³ + 0.5 · 24 · 3
        (135.0, 144.0)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float,
        params: LayerRange | Sequence[str] = "middle",
        num_probes: int = 1,
        law: ProbeLaw = "normal",
        every: int = 1,
        first_step: int = 0,
        seed: int = 0,
    ) -> None:
        require_choice("law", law, ProbeLaw)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight must be finite and at least 0; got {weight}.")
        for name, count in (("num_probes", num_probes), ("every", every)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}.")
        require_no_pieces(
            model,
            what="the penalty",
            instead="Train with DistributedDataParallel, or measure the trace without "
            "penalizing it: es.CurvatureTrace.",
        )
        self._params = _chosen(model, params)
        self._layout = ParameterLayout(self._params)
        self._weight, self._num_probes, self._seed = weight, num_probes, seed
        self._law: ProbeLaw = law
        self._every, self._first_step = every, first_step

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the parameters whose blocks are penalized."""
        return tuple(self._params)

    def is_due(self, step: int) -> bool:
        """Return whether a step's loss is penalized.

        Args:
            step: Number of the step, from 0.

        Returns:
            Whether it is.
        """
        return step >= self._first_step and step % self._every == 0

    def __call__(self, loss: Float[Tensor, ""], *, step: int) -> Float[Tensor, ""]:
        """Return loss + γ tr(H), or the loss alone where nothing is due.

        Args:
            loss: Of the network, with its graph.
            step: Number of the step, from 0.

        Returns:
            A scalar to call `backward` of.
        """
        if not self._weight or not self.is_due(step):
            return loss
        return loss + self._weight * self.trace(loss, step=step)

    def trace(self, loss: Float[Tensor, ""], *, step: int = 0) -> Float[Tensor, ""]:
        """Return the estimate of tr(H) itself, with the graph that computed it.

        Args:
            loss: Of the network, with its graph.
            step: Chooses the probes.

        Returns:
            A differentiable scalar; 0 where the loss is linear in the parameters.

        Raises:
            ValueError: If the loss is no scalar, or has no graph.
        """
        if loss.ndim or not loss.requires_grad:
            raise ValueError(
                "the penalty needs a scalar loss with its graph; got shape "
                f"{tuple(loss.shape)} and requires_grad={loss.requires_grad}. Pass the "
                "loss before backward, computed with gradients on."
            )
        leaves = list(self._params.values())
        total = loss.new_zeros(())
        with without_gradient_hooks(leaves):
            gradient = gradient_graph(loss, leaves)
            for vector in self._probes(step, leaves[0]):
                parts = self._layout.split(vector)
                slope = _inner(gradient, parts)
                if slope.requires_grad:
                    total = total + _inner(gradient_graph(slope, leaves), parts)
        return total / self._num_probes

    def _probes(self, step: int, like: Tensor) -> Tensor:
        first = step * self._num_probes
        return draw_probes(
            range(first, first + self._num_probes),
            self._layout.size,
            seed=self._seed,
            law=self._law,
            dtype=like.dtype,
            device=like.device,
        )


def _chosen(
    model: nn.Module, params: LayerRange | Sequence[str]
) -> dict[str, nn.Parameter]:
    if isinstance(params, str):
        require_choice("params", params, LayerRange)
        found = select_parameters(model, None)
        if params == "middle":
            count = len(found)
            places = range(math.ceil(count / 4), math.floor(3 * count / 4) + 1)
            names = list(found)
            found = {names[i]: found[names[i]] for i in places if i < count}
    else:
        found = select_parameters(model, params)
    if not found:
        raise ValueError(
            "the penalty needs parameters that require gradients; the model leaves "
            f"none for params={params!r}. Unfreeze some, or name others."
        )
    return found


def _inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    products = [(a * b).sum() for a, b in zip(first, second, strict=True)]
    return torch.stack(products).sum()
