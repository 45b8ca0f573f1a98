"""Linear operators: Jacobians, Gram matrices and plain matrices."""

from eigenscope.operators.base import (
    Dense,
    Jacobian,
    LinearOperator,
    SymmetricOperator,
)
from eigenscope.operators.gram import Gram, StoredGram, gram
from eigenscope.operators.jacobian import InputJacobian
from eigenscope.operators.ntk import NTK
from eigenscope.operators.parameter_jacobian import ParameterJacobian
from eigenscope.operators.stored_rows import StoredRows

__all__ = [
    "NTK",
    "Dense",
    "Gram",
    "InputJacobian",
    "Jacobian",
    "LinearOperator",
    "ParameterJacobian",
    "StoredGram",
    "StoredRows",
    "SymmetricOperator",
    "gram",
]
