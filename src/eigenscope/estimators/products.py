"""Products with a symmetric operator, counted and checked."""

import math
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.estimators.kept import KeptImages
from eigenscope.estimators.matrices import Operand, require_square
from eigenscope.operators import Dense, LinearOperator, SymmetricOperator
from eigenscope.precision import is_finite

_LARGEST: Final = 1e140


@final
class Products:
    """A X for blocks of vectors, which are rows here.

    Args:
        operand: A symmetric operator or matrix.
        count: Products that were taken before.

    Attributes:
        operator: The operator.
        dim: D.
        dtype: Type that vectors are kept in: float64, or float32 for narrower types.
        device: Where vectors are.
        count: Products taken so far.
        kept: Where each is left, and taken from again; None for nowhere.

    Raises:
        TypeError: If the operand is no operator or matrix of floating-point numbers.
        ValueError: If it is not square.
    """

    def __init__(self, operand: Operand, *, count: int = 0) -> None:
        self.dim = require_square(operand)
        self.operator = as_operator(operand)
        self.device = self.operator.device
        is_wide = self.operator.dtype == torch.float64
        self.dtype = torch.float64 if is_wide else torch.float32
        self.count = count
        self.kept: KeptImages | None = None

    @property
    def epsilon(self) -> float:
        """Unit roundoff of the operator's own dtype."""
        return torch.finfo(self.operator.dtype).eps

    def remarks(self) -> dict[str, JsonValue]:
        """What results should say of the operator.

        Returns:
            What it says of itself after the products that were taken.
        """
        own = self.operator
        return own.remarks() if isinstance(own, SymmetricOperator) else {}

    def __call__(
        self, rows: Float[Tensor, "vector dim"]
    ) -> Float[Tensor, "vector dim"]:
        """Return A v for every row v.

        Args:
            rows: The vectors.

        Returns:
            The products, as rows in new memory.

        Raises:
            ValueError: If a product is not finite.
        """
        if self.kept is None:
            images = self._taken(rows)
        else:
            images = self.kept.images(self.count, rows, self._taken)
        self.count += len(rows)
        return images

    def _taken(self, rows: Float[Tensor, "vector dim"]) -> Float[Tensor, "vector dim"]:
        """Products that the operator has to be asked for."""
        columns = rows.contiguous().T  # the same bits, however they were given
        products = self.operator @ columns.to(self.operator.dtype)
        if not is_finite(products):
            last = self.count + len(rows)
            raise ValueError(
                f"products with the operator must be finite; number {last} is not. "
                "Look at the weights and the data for NaN and infinities (a training "
                "run that diverged?), or compute in float64."
            )
        if not self.count:
            self._require_range(float(products.abs().max()))
        result = products.T.to(self.dtype)
        return result.clone() if result.is_contiguous() else result.contiguous()

    def _require_range(self, largest: float) -> None:
        """Raise if squares of what is of this size are no numbers."""
        if largest and not 1 / _LARGEST < largest < _LARGEST:
            unit = 2.0 ** round(-math.log2(largest))
            raise ValueError(
                f"products with the operator must be between {1 / _LARGEST:g} and "
                f"{_LARGEST:g} in size, for their squares are needed; the first are "
                f"{largest:.3g}. Pass {unit:g} * operator, and divide what comes out."
            )


def as_operator(operand: Operand) -> LinearOperator:
    """The operand as an operator.

    Args:
        operand: An operator, or a matrix, which is not copied.

    Returns:
        The operator.
    """
    if isinstance(operand, LinearOperator):
        return operand
    if isinstance(operand, Tensor):
        return Dense(operand)
    return Dense(torch.from_numpy(operand))


def require_symmetric_part(
    found: Float[Tensor, "*shape"],
    expected: Float[Tensor, "*shape"],
    *,
    norm: float,
    tolerance: float,
) -> None:
    """Raise unless ⟨v, Aw⟩ agrees with what ⟨Av, w⟩ was.

    Args:
        found: ⟨v, Aw⟩ for earlier v and a new w.
        expected: ⟨Av, w⟩, from when A v was taken.
        norm: ‖A‖, or a lower bound that is of its size.
        tolerance: The largest difference that rounding explains.

    Raises:
        ValueError: If they differ by more than rounding explains.
    """
    if not found.numel():
        return
    gap = float((found - expected).abs().max())
    if gap > tolerance:
        raise ValueError(
            "the operator must be symmetric and the same in every product; ⟨v, Aw⟩ and "
            f"⟨Av, w⟩ differ by {gap / norm:.2g} of ‖A‖, and rounding explains "
            f"{tolerance / norm:.2g}. es.verify(operator) tells what is wrong: an "
            "operator without symmetry (pass es.gram(jacobian)), dropout, or data that "
            "change."
        )
