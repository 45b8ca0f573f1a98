"""A network, its data and what is asked of it, as one mathematical object."""

from eigenscope.problem.batch import Batch, ModelInputs
from eigenscope.problem.data import Batches, DataChangedError
from eigenscope.problem.layout import ParameterLayout
from eigenscope.problem.model import (
    call_model,
    left_as_found,
    require_no_batch_statistics,
    state_digest,
)
from eigenscope.problem.outputs import (
    flatten_outputs,
    output_cotangent,
    output_derivative,
    transform_outputs,
)
from eigenscope.problem.parameters import select_parameters
from eigenscope.problem.problem import Problem

__all__ = [
    "Batch",
    "Batches",
    "DataChangedError",
    "ModelInputs",
    "ParameterLayout",
    "Problem",
    "call_model",
    "flatten_outputs",
    "left_as_found",
    "output_cotangent",
    "output_derivative",
    "require_no_batch_statistics",
    "select_parameters",
    "state_digest",
    "transform_outputs",
]
