"""An estimated number or vector with its standard error and its cost."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.spectra.quadrature import LEVEL, confidence_factor


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """A quantity that was estimated from products with random vectors.

    `stderr` is one standard error; `interval()` is the band that the truth lies in with
    95 % confidence.

    Attributes:
        value: The estimate: a number, or a vector such as a diagonal.
        stderr: Standard error of the mean over probes, in units of the value; 0
            where the value is exact.
        bias: Bound or estimate of what more probes do not remove, such as the
            resolution of a quadrature; 0 for unbiased estimators.
        converged: Whether the error asked for was reached.
        num_matvecs: Products with the operator.
        num_terms: Terms whose spread is the standard error; None for many.
        provenance: How it was made.

    Example:
        >>> estimate = Estimate(value=6.0, stderr=0.5, num_matvecs=30)
        >>> print(estimate)
        6 ± 0.5
        >>> low, high = estimate.interval()
        >>> print(f"{low:.2f} to {high:.2f}")
        5.02 to 6.98
    """

    value: float | Float[Tensor, " dim"]
    stderr: float | Float[Tensor, " dim"]
    num_matvecs: int
    bias: float = 0.0
    converged: bool = True
    num_terms: int | None = None
    provenance: dict[str, JsonValue] = field(default_factory=dict)

    def interval(
        self, level: float = LEVEL
    ) -> tuple[float, float] | tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Where the truth is, by Student's t for the terms that there are, and `bias`.

        Args:
            level: Confidence, between 0 and 1.

        Returns:
            Lower and upper end: two numbers, or two vectors.

        Raises:
            ValueError: If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1; got {level}.")
        half = self.stderr * confidence_factor(self.num_terms, level) + self.bias
        return self.value - half, self.value + half  # pyright: ignore[reportReturnType] - both are of one kind

    def __str__(self) -> str:
        if isinstance(self.value, Tensor) or isinstance(self.stderr, Tensor):
            return repr(self)
        return f"{self.value:.6g} ± {self.stderr + self.bias:.2g}"

    def __float__(self) -> float:
        return float(self.value)
