"""Jacobians of samples, a chunk at a time."""

from eigenscope.jacobian.inputs import (
    EngineSettings,
    InputJacobianEngine,
    input_jacobian,
)
from eigenscope.jacobian.rows import transform_rows

__all__ = ["EngineSettings", "InputJacobianEngine", "input_jacobian", "transform_rows"]
