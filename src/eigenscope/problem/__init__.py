"""A network, its data and what is asked of it, as one mathematical object."""

from eigenscope.problem.as_found import left_as_found, without_gradient_hooks
from eigenscope.problem.batch import Batch, ModelInputs
from eigenscope.problem.data import Batches, DataChangedError
from eigenscope.problem.halving import Halving
from eigenscope.problem.layout import ParameterLayout
from eigenscope.problem.model import (
    call_model,
    nearly_equal,
    require_finite_outputs,
    require_initialized,
    require_no_batch_statistics,
    state_digest,
)
from eigenscope.problem.model_state import ModelState
from eigenscope.problem.outputs import (
    flatten_outputs,
    output_cotangent,
    output_derivative,
    require_classes,
    transform_outputs,
)
from eigenscope.problem.parameters import select_parameters
from eigenscope.problem.problem import Problem
from eigenscope.problem.rounding import equal_but_for_rounding
from eigenscope.problem.sharded import require_no_pieces, whole_network

__all__ = [
    "Batch",
    "Batches",
    "DataChangedError",
    "Halving",
    "ModelInputs",
    "ModelState",
    "ParameterLayout",
    "Problem",
    "call_model",
    "equal_but_for_rounding",
    "flatten_outputs",
    "left_as_found",
    "nearly_equal",
    "output_cotangent",
    "output_derivative",
    "require_classes",
    "require_finite_outputs",
    "require_initialized",
    "require_no_batch_statistics",
    "require_no_pieces",
    "select_parameters",
    "state_digest",
    "transform_outputs",
    "whole_network",
    "without_gradient_hooks",
]
