"""Input Jacobians of a whole problem through the engine, a few samples at a time."""

import torch
from torch import Tensor

import eigenscope as es
from eigenscope.jacobian import EngineSettings, InputJacobianEngine


def blocks(problem: es.Problem, settings: EngineSettings | None = None) -> Tensor:
    """Return (sample, output, *input), with a ragged last chunk."""
    engine = InputJacobianEngine(problem, settings=settings)
    shape = (problem.num_samples, problem.num_outputs, *engine.sample_shape)
    result = torch.full(shape, torch.nan, dtype=problem.dtype)
    for batch in problem.batches.chunks(3):
        part = result[batch.start : batch.start + batch.size]
        engine.fill(batch, [problem.output], [part])
    return result
