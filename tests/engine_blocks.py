"""Input Jacobians of a whole problem through the engine, a few samples at a time."""

import torch
from torch import Tensor, nn

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


def gradients_at(module: nn.Module) -> list[Tensor]:
    """What will arrive at a module's output, one for each backward pass.

    By a hook on its output: backward hooks of modules are off while we compute.
    """
    found: list[Tensor] = []

    def watch(_: nn.Module, inputs: object, output: Tensor) -> None:
        del inputs
        if output.requires_grad:
            output.register_hook(found.append)

    module.register_forward_hook(watch)
    return found
