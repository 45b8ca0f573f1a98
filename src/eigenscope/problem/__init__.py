"""A network, its data and what is asked of it, as one mathematical object."""

from eigenscope.problem.data import Batch, Batches, DataChangedError, ModelInputs
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
    "flatten_outputs",
    "output_derivative",
    "raw_outputs",
    "transform_outputs",
]
