"""Per-sample Jacobians by the parameters and per-sample gradients of a loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenscope._types import OutputSpec
from eigenscope.autodiff import large_empty
from eigenscope.budget import require_fits
from eigenscope.jacobian.engine import ParameterEngine
from eigenscope.losses import known_loss, per_sample_losses
from eigenscope.problem import Batch, Problem, left_as_found


def parameter_jacobian(
    model: nn.Module,
    x: Tensor | Mapping[str, Any],
    *,
    output: OutputSpec = "logits",
    params: str | Sequence[str] | None = None,
    create_graph: bool = False,
    memory: str | int | None = None,
) -> dict[str, Float[Tensor, "sample output *param"]]:
    """J[i, c] = ∂z_c(x_i)/∂θ for every parameter tensor of a network.

    Exact to rounding for any module: closed forms where data meets weights in torch's
    own functions, autograd sample by sample for what is left. Parameters that are used
    several times or tied count all their uses, under their first name. At kinks
    (ReLU at 0, tied maxima) it is the derivative that PyTorch's autograd takes.

    Args:
        model: Any module whose samples do not influence each other.
        x: Inputs, a tensor or a mapping of keyword arguments.
        output: "logits" (the raw output, flattened), "probabilities" or
            "log_probabilities" (softmax over axis 1), or a callable of the raw output.
        params: Parameters by name, glob or a sequence of these; None for all that
            require gradients.
        create_graph: Whether the result can be differentiated, by the parameters and
            by `x`; takes the memory of the whole graph.
        memory: Budget for the result and for the samples that go through the network
            together, one at least; half of what is free if None.

    Returns:
        Name to Jacobian, in units of output per parameter, in `named_parameters()`
        order, in the model's dtype and on its device; zeros for unused parameters.

    Raises:
        ValueError: If `output` is unknown, there are no parameters, `params` matches
            nothing, the model mixes samples or is random, something is not finite, or
            the result does not fit the budget.

    Cost:
        One forward and k backward passes; memory for the result and one chunk.

    Example:
        >>> import torch
        >>> linear = nn.Linear(3, 2)
        >>> J = parameter_jacobian(linear, torch.ones(4, 3))
        >>> tuple(J["weight"].shape), J["weight"][0, 1].tolist()
        ((4, 2, 2, 3), [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    """
    data = x if isinstance(x, Tensor) else [x]
    problem = Problem(model, data, output=output, params=params, ranks="own")
    _require_parameters(problem, "a parameter Jacobian needs")
    way_out = "write it to a run: es.ParameterJacobian(problem).write(run)"
    room = _room_beside(problem, problem.num_outputs, memory, way_out)
    engine = ParameterEngine(problem, room=room)
    if create_graph:
        inputs = _moved(x, problem)
        return _differentiable(
            engine,
            Batch(inputs=inputs, targets=None, start=0, size=problem.num_samples),
        )
    return _filled(engine)


def per_sample_gradients(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    x: Tensor | Mapping[str, Any],
    y: Any,
    *,
    params: str | Sequence[str] | None = None,
    create_graph: bool = False,
    memory: str | int | None = None,
) -> dict[str, Float[Tensor, "sample *param"]]:
    """G[i] = ∂ℓ(z(x_i), y_i)/∂θ, the gradient of every sample's own loss term.

    The term is the sample's part of the numerator of the loss, not divided by the
    batch's denominator: torch's losses, modules or functions, are summed over a
    sample's own entries whatever their reduction, with class weights and without
    ignored targets; any other callable, which must be a sum or a mean over samples or
    return (sum, count), is called for each sample alone.

    Args:
        model: Any module whose samples do not influence each other.
        loss: (raw output, targets) → scalar, or (sum, count).
        x: Inputs, a tensor or a mapping of keyword arguments.
        y: Targets, samples on axis 0.
        params: As for `parameter_jacobian`.
        create_graph: Whether the result can be differentiated, by the parameters and
            by `x`.
        memory: Budget for the result and for the samples that go through the network
            together, one at least; half of what is free if None.

    Returns:
        Name to gradient, in `named_parameters()` order; zeros for unused parameters.

    Raises:
        TypeError: If there is no loss.
        ValueError: If there are no parameters, `params` matches nothing, the model
            mixes samples or is random, targets do not fit the loss, the loss has no
            form per sample or compares samples, something is not finite, or the result
            does not fit the budget.

    Cost:
        One forward and one backward pass; memory for the result and one chunk.

    Example:
        >>> import torch
        >>> linear = nn.Linear(3, 1, bias=False)
        >>> x, y = torch.eye(3), torch.zeros(3, 1)
        >>> G = per_sample_gradients(linear, nn.MSELoss(), x, y)["weight"]
        >>> torch.allclose(G[1, 0, 1], 2 * linear.weight[0, 1])
        True
    """
    data: object = (x, y) if isinstance(x, Tensor) else [(x, y)]
    problem = Problem(model, data, loss=loss, params=params, ranks="own")
    _require_parameters(problem, "per-sample gradients need")
    _require_loss_and_targets(problem)
    room = _room_beside(problem, 1, memory, "take some samples at a time")

    def head(raw: Tensor, targets: Any) -> Tensor:
        return per_sample_losses(loss, raw, targets).unsqueeze(1)

    engine = ParameterEngine(problem, head=head, num_outputs=1, room=room)
    if create_graph:
        targets = problem.batches.first(problem.num_samples).targets
        whole = Batch(
            inputs=_moved(x, problem),
            targets=targets,
            start=0,
            size=problem.num_samples,
        )
        found = _differentiable(engine, whole)
    else:
        found = _filled(engine)
    return {name: gradient[:, 0] for name, gradient in found.items()}


def _require_parameters(problem: Problem, what: str) -> None:
    """Raise if there is nothing to differentiate by.

    Raises:
        ValueError: If the problem has no parameters.
    """
    if not problem.params:
        raise ValueError(
            f"{what} parameters; the model has none that requires gradients. Name "
            "frozen ones: params='*' takes them all."
        )


def _require_loss_and_targets(problem: Problem) -> None:
    """Raise before any backward pass unless the loss takes the targets.

    Raises:
        TypeError: If there is no loss.
        ValueError: If the loss's own checks of the targets fail.
    """
    if problem.loss is None:
        raise TypeError(
            "per-sample gradients need a loss; got None. Pass one of torch's, such as "
            "nn.CrossEntropyLoss(), or a callable of raw outputs and targets."
        )
    loss = known_loss(problem.loss)
    if loss is None:
        return
    first = problem.batches.first(2)
    with torch.no_grad(), left_as_found(problem.model):
        raw = problem.raw(first.inputs)[:1]
    for batch in problem.batches:
        alike = raw.expand(batch.size, *raw.shape[1:])
        loss.require_valid(alike, batch.targets, batch.start)


def _room_beside(
    problem: Problem, num_outputs: int, memory: str | int | None, way_out: str
) -> int:
    """Return what the result leaves of the budget; raise before any work if nothing.

    Raises:
        ValueError: If it does not fit the budget.
    """
    rows = problem.num_samples * num_outputs
    columns = sum(p.numel() for p in problem.params.values())
    needed = rows * sum(p.nbytes for p in problem.params.values())
    budget = require_fits(
        needed,
        memory,
        what=f"the {rows} × {columns} Jacobian",
        way_out=f"choose some parameters with params=, or {way_out}",
    )
    return budget - needed


def _filled(engine: ParameterEngine) -> dict[str, Tensor]:
    problem = engine.problem
    shape = (problem.num_samples, engine.num_outputs)
    results = {
        name: large_empty((*shape, *p.shape), dtype=p.dtype, device=p.device)
        for name, p in problem.params.items()
    }
    for batch in engine.chunks():
        rows = slice(batch.start, batch.start + batch.size)
        engine.fill(batch, {name: r[rows] for name, r in results.items()})
    return results


def _differentiable(engine: ParameterEngine, batch: Batch) -> dict[str, Tensor]:
    shape = (batch.size, engine.num_outputs)
    found: dict[str, Tensor] = {}
    with engine.open(batch, create_graph=True) as chunk:
        for name, part in chunk.parts():
            values = part.tensor()
            found[name] = found[name] + values if name in found else values
    return {
        name: found[name] if name in found else p.new_zeros((*shape, *p.shape))
        for name, p in engine.problem.params.items()
    }


def _moved(x: Any, problem: Problem) -> Any:
    """Return inputs in the model's dtype and device, still in the caller's graph."""
    if isinstance(x, Mapping):
        return {key: _moved(value, problem) for key, value in x.items()}
    if not isinstance(x, Tensor):
        return x
    dtype = problem.dtype if x.is_floating_point() else None
    return x.to(device=problem.device, dtype=dtype)
