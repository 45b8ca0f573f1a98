"""An estimated number or vector with its standard error and its cost."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """A quantity that was estimated from products with random vectors.

    Attributes:
        value: The estimate: a number, or a vector such as a diagonal.
        stderr: Standard error of the mean over probes, in units of the value; 0
            where the value is exact.
        bias: Bound or estimate of what more probes do not remove, such as the
            resolution of a quadrature; 0 for unbiased estimators.
        converged: Whether the error asked for was reached.
        num_matvecs: Products with the operator.
        provenance: How it was made.

    Example:
        >>> estimate = Estimate(value=6.0, stderr=0.5, num_matvecs=30)
        >>> print(estimate)
        6 ± 0.5
    """

    value: float | Float[Tensor, " dim"]
    stderr: float | Float[Tensor, " dim"]
    num_matvecs: int
    bias: float = 0.0
    converged: bool = True
    provenance: dict[str, JsonValue] = field(default_factory=dict)

    def __str__(self) -> str:
        if isinstance(self.value, Tensor) or isinstance(self.stderr, Tensor):
            return repr(self)
        return f"{self.value:.6g} ± {self.stderr + self.bias:.2g}"

    def __float__(self) -> float:
        return float(self.value)
