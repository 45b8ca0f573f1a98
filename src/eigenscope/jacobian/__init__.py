"""Jacobians of samples, a chunk at a time."""

from eigenscope.jacobian.engine import (
    OpenChunk,
    ParameterEngine,
    require_finite_rows,
)
from eigenscope.jacobian.inputs import (
    EngineSettings,
    InputJacobianEngine,
    input_jacobian,
)
from eigenscope.jacobian.parameters import parameter_jacobian, per_sample_gradients
from eigenscope.jacobian.proof import Coverage
from eigenscope.jacobian.rows import transform_rows
from eigenscope.jacobian.rules import (
    Convolved,
    Outer,
    PerSample,
    Plain,
    Scattered,
    register_rule,
)

__all__ = [
    "Convolved",
    "Coverage",
    "EngineSettings",
    "InputJacobianEngine",
    "OpenChunk",
    "Outer",
    "ParameterEngine",
    "PerSample",
    "Plain",
    "Scattered",
    "input_jacobian",
    "parameter_jacobian",
    "per_sample_gradients",
    "register_rule",
    "require_finite_rows",
    "transform_rows",
]
