"""A network, its data and what is asked of it, as one mathematical object."""

from eigenscope.problem.data import Batch, Batches, DataChangedError, ModelInputs
from eigenscope.problem.model import call_model, require_no_batch_statistics
from eigenscope.problem.outputs import (
    flatten_outputs,
    output_derivative,
    raw_outputs,
    transform_outputs,
)
from eigenscope.problem.problem import Problem

__all__ = [
    "Batch",
    "Batches",
    "DataChangedError",
    "ModelInputs",
    "Problem",
    "call_model",
    "flatten_outputs",
    "output_derivative",
    "raw_outputs",
    "require_no_batch_statistics",
    "transform_outputs",
]
