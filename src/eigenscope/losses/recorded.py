"""Any loss, its second derivative left to autograd."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.autodiff import gradient_of, second_derivative
from eigenscope.losses.base import FisherKind, LossParts, RiskLoss
from eigenscope.losses.elementwise import gradient_directions
from eigenscope.losses.output_matrix import OutputMatrix, Recorded


@final
class RecordedLoss(RiskLoss):
    """A loss without closed forms.

    Args:
        parts: Its numerators and denominators.
    """

    def __init__(self, parts: LossParts) -> None:
        self.name = parts.name
        self.is_mean = parts.is_mean
        self._parts = parts

    @override
    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        return self._parts.numerator(raw, targets)

    @override
    def denominator(self, raw: Tensor, targets: Any) -> float:
        return self._parts.denominator(raw, targets)

    @override
    def per_sample(self, raw: Tensor, targets: Any) -> Float[Tensor, " sample"]:
        return self._parts.per_sample(raw, targets)

    @override
    def require_valid(self, raw: Tensor, targets: Any, start: int) -> None:
        self._parts.require_valid(raw, targets, start)

    @override
    def require_additive(self, raw: Tensor, targets: Any, start: int) -> None:
        self._parts.require_additive(raw, targets, start)

    @override
    def curvature(self, raw: Tensor, targets: Any) -> OutputMatrix:
        def numerator(outputs: Tensor) -> Tensor:
            return self._parts.numerator(outputs, targets)

        return Recorded(second_derivative(numerator, raw))

    @override
    def fisher(
        self,
        kind: FisherKind,
        raw: Tensor,
        targets: Any,
        uniform: Float[Tensor, "sample *term draw"] | None,
    ) -> OutputMatrix:
        if kind != "empirical":
            raise ValueError(
                f"kind={kind!r} needs a loss that is a known negative log-likelihood: "
                "CrossEntropyLoss, MSELoss, BCEWithLogitsLoss or es.next_token_loss; "
                f"got {self.name}. Use kind='empirical' or es.GaussNewton."
            )
        gradient = gradient_of(lambda z: self._parts.numerator(z, targets), raw)
        return gradient_directions(torch.stack([gradient]))
