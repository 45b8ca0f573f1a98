"""Losses that are sums over single outputs: squared error, logistic loss."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from eigenscope.losses.base import FisherKind, RiskLoss
from eigenscope.losses.output_matrix import Diagonal, Directions, OutputMatrix


@final
class SquaredError(RiskLoss):
    """Σ_c (z_c - y_c)², Λ = 2; the likelihood of a normal law of variance ½."""

    name = "squared error"

    def __init__(self, *, is_mean: bool) -> None:
        self.is_mean = is_mean

    @override
    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        return functional.mse_loss(raw, targets.to(raw), reduction="sum")

    @override
    def denominator(self, raw: Tensor, targets: Any) -> float:
        return float(raw.numel())

    @override
    def per_sample(self, raw: Tensor, targets: Any) -> Float[Tensor, " sample"]:
        return (raw - targets.to(raw)).square().reshape(len(raw), -1).sum(1)

    @override
    def require_valid(self, raw: Tensor, targets: Any, start: int) -> None:
        require_equal_shapes(self.name, raw, targets)

    @override
    def curvature(self, raw: Tensor, targets: Any) -> OutputMatrix:
        return Diagonal(torch.full_like(raw, 2))

    @override
    def fisher(
        self,
        kind: FisherKind,
        raw: Tensor,
        targets: Any,
        uniform: Float[Tensor, "sample *term draw"] | None,
    ) -> OutputMatrix:
        if kind == "true":
            return self.curvature(raw, targets)
        if uniform is None:
            return gradient_directions((2 * (raw - targets.to(raw))).unsqueeze(0))
        noise = torch.special.ndtri(uniform).movedim(-1, 0).to(raw)
        return gradient_directions(-(2**0.5) * noise)

    @override
    def draw_shape(self, targets: Any) -> tuple[int, ...]:
        return tuple(targets.shape[1:])


@final
class LogisticLoss(RiskLoss):
    """Σ_c w_c (v_c y_c log(1 + e^-z_c) + (1 - y_c) log(1 + e^z_c)).

    With v = 1, Λ_c = w_c σ(z_c)(1 - σ(z_c)), and it is w times the negative
    log-likelihood of independent Bernoulli variables.

    Args:
        weight: w, broadcast over samples, or None.
        pos_weight: v, broadcast over samples, or None.
        is_mean: Whether terms are averaged.
    """

    name = "binary cross-entropy with logits"

    def __init__(
        self, *, weight: Tensor | None, pos_weight: Tensor | None, is_mean: bool
    ) -> None:
        self.is_mean = is_mean
        self._weight = weight
        self._pos_weight = pos_weight

    @override
    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        return self._unreduced(raw, targets).sum()

    @override
    def denominator(self, raw: Tensor, targets: Any) -> float:
        return float(raw.numel())

    @override
    def per_sample(self, raw: Tensor, targets: Any) -> Float[Tensor, " sample"]:
        return self._unreduced(raw, targets).reshape(len(raw), -1).sum(1)

    @override
    def require_valid(self, raw: Tensor, targets: Any, start: int) -> None:
        require_equal_shapes(self.name, raw, targets)
        self._require_weights(raw)
        outside = (targets < 0) | (targets > 1)
        if bool(outside.any()):
            place = outside.nonzero()[0].tolist()
            raise ValueError(
                f"targets of {self.name} must be from 0 to 1; sample "
                f"{start + place[0]} has {float(targets[tuple(place)]):g}."
            )

    @override
    def curvature(self, raw: Tensor, targets: Any) -> OutputMatrix:
        return Diagonal(self._mass(raw, targets) * self._variance(raw))

    @override
    def fisher(
        self,
        kind: FisherKind,
        raw: Tensor,
        targets: Any,
        uniform: Float[Tensor, "sample *term draw"] | None,
    ) -> OutputMatrix:
        p = torch.sigmoid(raw)
        if kind == "empirical":
            wanted = targets.to(raw)
            own = (1 - wanted) * p
            positive = wanted * (1 - p)
            if self._pos_weight is not None:
                positive = positive * self._pos_weight.to(raw)
            scale = 1.0 if self._weight is None else self._weight.to(raw)
            return gradient_directions((scale * (own - positive)).unsqueeze(0))
        if self._pos_weight is not None:
            raise ValueError(
                f"{self.name} with pos_weight is no negative log-likelihood, which "
                f"kind={kind!r} needs; use kind='empirical' or es.GaussNewton."
            )
        if uniform is None:
            return self.curvature(raw, targets)
        drawn = (uniform.movedim(-1, 0) < p.to(uniform.device)).to(raw)
        return gradient_directions((p - drawn) * self._mass(raw, targets).sqrt())

    @override
    def draw_shape(self, targets: Any) -> tuple[int, ...]:
        return tuple(targets.shape[1:])

    def _unreduced(self, raw: Tensor, targets: Tensor) -> Tensor:
        weights = (self._weight, self._pos_weight)
        weight, pos_weight = (None if w is None else w.to(raw) for w in weights)
        return functional.binary_cross_entropy_with_logits(
            raw,
            targets.to(raw),
            weight=weight,
            pos_weight=pos_weight,
            reduction="none",
        )

    def _require_weights(self, raw: Tensor) -> None:
        """Raise unless weights can be broadcast over samples."""
        own, shape = tuple(raw.shape[1:]), tuple(raw.shape)
        given = {"weight": self._weight, "pos_weight": self._pos_weight}
        for label, weight in given.items():
            if weight is None:
                continue
            found = tuple(weight.shape)
            pairs = zip(reversed(found), reversed(shape), strict=False)
            if len(found) > len(shape) or any(w not in {1, s} for w, s in pairs):
                raise ValueError(
                    f"{label} of {self.name} must have the shape of one sample's "
                    f"output, {own}, or broadcast to it; got shape {found}."
                )

    def _mass(self, raw: Tensor, targets: Tensor) -> Tensor:
        wanted = targets.to(raw)
        mass = torch.ones_like(raw)
        if self._pos_weight is not None:
            mass = mass + wanted * (self._pos_weight.to(raw) - 1)
        return mass if self._weight is None else mass * self._weight.to(raw)

    @staticmethod
    def _variance(raw: Tensor) -> Tensor:
        return torch.sigmoid(raw) * torch.sigmoid(-raw)


def gradient_directions(
    gradients: Float[Tensor, "draw sample *output"],
) -> OutputMatrix:
    """Return the matrix of one joint gradient for every draw and sample.

    Args:
        gradients: By the raw outputs.

    Returns:
        A matrix of at most rank `draw` for every sample.
    """
    shape = gradients.shape[1:]
    directions = gradients.reshape(*gradients.shape[:2], -1, 1)

    def arrange(outputs: Tensor) -> Tensor:
        return outputs.reshape(len(outputs), -1, 1)

    def restore(arranged: Tensor) -> Tensor:
        return arranged.reshape(shape)

    return Directions(directions, arrange, restore)


def require_equal_shapes(name: str, raw: Tensor, targets: Any) -> None:
    """Raise unless there is one target for every output.

    Args:
        name: The loss.
        raw: Raw outputs.
        targets: Targets.

    Raises:
        ValueError: If the shapes differ: torch would broadcast them.
    """
    found = tuple(targets.shape) if isinstance(targets, Tensor) else None
    if found != tuple(raw.shape):
        given = type(targets).__name__ if found is None else f"shape {found}"
        raise ValueError(
            f"{name} of outputs of shape {tuple(raw.shape)} needs targets of the same "
            f"shape; got {given}. Reshape the targets, or the model's output."
        )
