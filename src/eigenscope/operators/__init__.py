"""Linear operators: Jacobians, Gram matrices and plain matrices."""

from eigenscope.operators.base import (
    Dense,
    Jacobian,
    LinearOperator,
    SymmetricOperator,
)
from eigenscope.operators.gram import Gram, StoredGram, gram
from eigenscope.operators.jacobian import InputJacobian

__all__ = [
    "Dense",
    "Gram",
    "InputJacobian",
    "Jacobian",
    "LinearOperator",
    "StoredGram",
    "SymmetricOperator",
    "gram",
]
