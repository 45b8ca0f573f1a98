"""Linear operators: Jacobians, Gram matrices, curvature and plain matrices."""

from eigenscope.operators.base import (
    Combination,
    LinearOperator,
    SymmetricOperator,
)
from eigenscope.operators.blocks import layer_blocks
from eigenscope.operators.curvature import CurvatureOperator
from eigenscope.operators.dense import Dense
from eigenscope.operators.fisher import Fisher
from eigenscope.operators.gauss_newton import GaussNewton
from eigenscope.operators.gram import Gram, StoredGram, gram
from eigenscope.operators.hessian import Hessian
from eigenscope.operators.jacobian import InputJacobian
from eigenscope.operators.kinds import Curvature, curvature
from eigenscope.operators.ntk import NTK
from eigenscope.operators.parameter_jacobian import ParameterJacobian
from eigenscope.operators.rows import Jacobian
from eigenscope.operators.stored_rows import StoredRows

__all__ = [
    "NTK",
    "Combination",
    "Curvature",
    "CurvatureOperator",
    "Dense",
    "Fisher",
    "GaussNewton",
    "Gram",
    "Hessian",
    "InputJacobian",
    "Jacobian",
    "LinearOperator",
    "ParameterJacobian",
    "StoredGram",
    "StoredRows",
    "SymmetricOperator",
    "curvature",
    "gram",
    "layer_blocks",
]
