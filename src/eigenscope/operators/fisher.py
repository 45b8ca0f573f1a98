"""Fisher matrices of a loss that is read as a negative log-likelihood."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Final, final

import torch
from torch import Tensor

from eigenscope._types import require_choice
from eigenscope.losses import FisherKind, OutputMatrix, Risk, RiskLoss
from eigenscope.operators.curvature import require_parameters
from eigenscope.operators.gauss_newton import OutputCurvature
from eigenscope.precision import wide_device
from eigenscope.problem import Batch, Problem

_OBSERVED: Final = "observed"
_UNIFORM: Final = "uniform"


@final
class Fisher(OutputCurvature):
    """F, the Fisher information of the loss read as a negative log-likelihood.

    One term for every class-labelled position (sample, token), for other losses one
    for every sample; weighted and normalized as in the risk.

    - "true": Σ E_{y∼p(·|z)}[∇ℓ ∇ℓᵀ] under the model's own distribution; equal to G for
      cross-entropy (softmax), logistic loss (Bernoulli) and squared error (normal with
      variance ½ per output).
    - "empirical": Σ ∇ℓ ∇ℓᵀ at the observed targets, of any loss. Class weights and
      the mass of a smoothed label count once, not squared.
    - "sampled": the true one with targets drawn from the model.

    Args:
        problem: The network, its data with targets, and the loss.
        kind: "true", "empirical" or "sampled".
        num_draws: Targets drawn for every term, for kind "sampled".
        generator: Source of the draws; a fresh one with a fixed seed if None. They are
            the same in every product and for every cut into batches.
        memory: Budget such as "4GiB" for recordings that are kept between products;
            None for half of what is available.

    Raises:
        ValueError: If `kind` is unknown, `num_draws` less than 1, the loss no known
            negative log-likelihood (for "true" and "sampled"), or as for `Hessian`.

    Cost:
        As for `GaussNewton`; `diagonal()` and `dense()` take one backward pass for
        every term of a sample and draw.

    References:
        Kunstner, Hennig and Balles (2019), NeurIPS 32, on the empirical one.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> data = (torch.eye(2), net(torch.eye(2)).detach() + 1)
        >>> F = Fisher(Problem(net, data, loss=torch.nn.MSELoss()), kind="empirical")
        >>> F.dense().round(decimals=4).tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    def __init__(
        self,
        problem: Problem,
        *,
        kind: FisherKind = "true",
        num_draws: int = 1,
        generator: torch.Generator | None = None,
        memory: str | int | None = None,
    ) -> None:
        require_choice("kind", kind, FisherKind)
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1; got {num_draws}.")
        require_parameters(problem, memory)
        self.kind: FisherKind = kind
        risk = Risk(problem)
        rule = partial(_fisher_matrix, risk.loss, kind)
        if kind == "sampled":
            seed = _seed(generator)
            risk = risk.with_changed(partial(_drawing, risk.loss, num_draws, seed))
        self.set_rule(risk, rule, memory)


def _fisher_matrix(
    loss: RiskLoss, kind: FisherKind, raw: Tensor, targets: Any
) -> OutputMatrix:
    if kind == "sampled":
        return loss.fisher(kind, raw, targets[_OBSERVED], targets[_UNIFORM])
    return loss.fisher(kind, raw, targets, None)


def _drawing(loss: RiskLoss, num_draws: int, seed: int) -> Callable[[Batch], Batch]:
    """Return what adds uniform numbers to one batch after the other."""
    source = torch.Generator().manual_seed(seed)

    def changed(batch: Batch) -> Batch:
        shape = (batch.size, *loss.draw_shape(batch.targets), num_draws)
        # Drawn in the order of samples, whatever the sizes of the batches.
        uniform = torch.rand(shape, generator=source, dtype=torch.float64)
        uniform = uniform.clamp_(min=2.0**-60).to(wide_device(batch.targets.device))
        return dataclasses.replace(
            batch, targets={_OBSERVED: batch.targets, _UNIFORM: uniform}
        )

    return changed


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        return 0
    drawn = torch.randint(2**62, (), generator=generator, device=generator.device)
    return int(drawn)
