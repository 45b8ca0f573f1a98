"""What a loss is to us: numerators and denominators that add up over samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from eigenscope.losses.output_matrix import OutputMatrix

Loss = Callable[[Any, Any], Any]
FisherKind = Literal["true", "empirical", "sampled"]


class LossParts(ABC):
    """Numerators and denominators that add up over samples.

    Attributes:
        name: The loss as messages call it.
        is_mean: Whether the risk is divided by the sum of the denominators.
    """

    name: str
    is_mean: bool

    @abstractmethod
    def numerator(self, raw: Tensor, targets: Any) -> Float[Tensor, ""]:
        """Return the numerator of some samples, which autograd can differentiate."""

    @abstractmethod
    def denominator(self, raw: Tensor, targets: Any) -> float:
        """Return the denominator of some samples; not used for a sum."""

    @abstractmethod
    def per_sample(self, raw: Tensor, targets: Any) -> Float[Tensor, " sample"]:
        """Return every sample's own part of the numerator."""

    @abstractmethod
    def require_valid(self, raw: Tensor, targets: Any, start: int) -> None:
        """Raise unless targets fit outputs; `start` is the first sample's index."""

    def require_additive(self, raw: Tensor, targets: Any, start: int) -> None:
        """Raise unless numerators and denominators add up over parts of a batch."""
        del raw, targets, start


class RiskLoss(LossParts):
    """A loss whose risk over a data set is Σ numerators / Σ denominators."""

    @abstractmethod
    def curvature(self, raw: Tensor, targets: Any) -> OutputMatrix:
        """Return Λ, the second derivative of the numerator by the raw outputs."""

    @abstractmethod
    def fisher(
        self,
        kind: FisherKind,
        raw: Tensor,
        targets: Any,
        uniform: Float[Tensor, "sample *term draw"] | None,
    ) -> OutputMatrix:
        """Return the Fisher matrix of the raw outputs, weighted as the numerator.

        Args:
            kind: Which expectation is taken over the targets.
            raw: Raw outputs.
            targets: Observed targets.
            uniform: Numbers in (0, 1) that become the draws of kind "sampled".

        Returns:
            The matrix, not divided by the denominator.

        Raises:
            ValueError: If the loss is no known negative log-likelihood and `kind` is
                not "empirical".
        """

    def draw_shape(self, targets: Any) -> tuple[int, ...]:
        """Return the shape of the uniform numbers that one draw for a sample takes."""
        del targets
        return ()
