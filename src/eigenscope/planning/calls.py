"""The plan of a call: from its name and arguments to what it will cost."""

import time
from collections.abc import Callable
from inspect import signature
from typing import Any, Final

from eigenscope.budget import resolve
from eigenscope.operators import LinearOperator
from eigenscope.planning.estimates import ESTIMATES, steps_of_estimate
from eigenscope.planning.functions import FUNCTIONS, job_of_function
from eigenscope.planning.job import Job
from eigenscope.planning.operators import job_of_method
from eigenscope.planning.plan import Alternative, Plan, Step
from eigenscope.planning.rehearsal import EFFORT, Measurement

_METHODS: Final = (
    "dense",
    "diagonal",
    "multiply",
    "multiply_transpose",
    "squared_column_norms",
    "squared_row_norms",
    "write",
)


def plan(
    call: Callable[..., Any] | LinearOperator | str,
    /,
    *arguments: Any,
    effort: float = EFFORT,
    **options: Any,
) -> Plan:
    """What a call will do and cost, before it is made: time, memory, disk, and why.

    The call is given as it would be made, the function first. It is rehearsed on the
    first 2, 8, 32, … samples, which checks its arguments, and what that takes is
    extrapolated: passes over the data grow with n, kernels and Gram matrices with n²,
    eigenvalues with n³. Memory counts what the call holds at one time beside the model
    and the data.

    Args:
        call: A public function (`es.ntk`), its name ("ntk"), a method of an operator
            (`op.dense`, `jacobian.write`), or an operator, for one product.
        *arguments: Those of the call.
        effort: Seconds for rehearsals.
        **options: Those of the call.

    Returns:
        The plan; `print(plan)` shows a table.

    Raises:
        TypeError: If there is no plan for such a call, or its arguments don't fit.
        ValueError: As the call itself, where its arguments are wrong.

    Cost:
        About `effort` seconds, and at least two runs on two samples.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(3, 2)
        >>> made = plan("ntk", net, torch.ones(8, 3), outputs="trace", effort=0.1)
        >>> made.fits, made.steps[0].name, made.steps[0].backward
        (True, 'tangent kernel', 16.0)
    """
    started = time.perf_counter()
    if effort <= 0:
        raise ValueError(f"effort must be more than 0 seconds; got {effort}.")
    function = _function(call)
    steps, others, found = _steps(function, arguments, options, effort)
    return Plan(
        operation=_name(function),
        steps=tuple(steps),
        alternatives=tuple(others),
        budget=resolve(_memory(function, options)),
        rehearsed_samples=max((m.size for m in found), default=0),
        rehearsal_seconds=time.perf_counter() - started,
    )


def step_of(job: Job, effort: float) -> tuple[Step, tuple[Measurement, ...]]:
    """Return the step of a job, and its rehearsal."""
    found = job.rehearsed(effort)
    return job.step(found), found


def _steps(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    effort: float,
) -> tuple[list[Step], list[Alternative], tuple[Measurement, ...]]:
    bound = signature(function).bind(*arguments, **options)
    owner = getattr(function, "__self__", None)
    if isinstance(owner, LinearOperator):
        own = dict(bound.arguments)
        job = job_of_method(owner, function.__name__, own)
        step, found = step_of(job, effort)
        return [step], [], found
    bound.apply_defaults()
    given = dict(bound.arguments)
    if function in FUNCTIONS:
        step, found = step_of(job_of_function(function, given), effort)
        return [step], [], found
    return steps_of_estimate(function, given, effort)


def _function(call: object) -> Callable[..., Any]:
    """Return what is called.

    Raises:
        TypeError: If it is none of those that have plans.
    """
    known = {own.__name__: own for own in (*FUNCTIONS, *ESTIMATES)}
    if isinstance(call, str) and call in known:
        return known[call]
    if isinstance(call, LinearOperator):
        return call.multiply
    if callable(call):
        is_method = isinstance(getattr(call, "__self__", None), LinearOperator)
        if call in known.values() or (is_method and _name_of(call) in _METHODS):
            return call
    raise TypeError(
        f"call must be one of {', '.join(known)}, or a method of an operator "
        f"({', '.join(_METHODS)}), or an operator; got {call!r}."
    )


def _name_of(call: Callable[..., Any]) -> str:
    return getattr(call, "__name__", type(call).__name__)


def _name(function: Callable[..., Any]) -> str:
    owner = getattr(function, "__self__", None)
    prefix = "" if owner is None else f"{type(owner).__name__}."
    return f"{prefix}{function.__name__}"


def _memory(function: Callable[..., Any], options: dict[str, Any]) -> str | int | None:
    has_budget = "memory" in signature(function).parameters
    return options.get("memory") if has_budget else None
