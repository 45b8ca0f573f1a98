"""The plan of a call: from its name and arguments to what it will cost."""

import time
from collections.abc import Callable
from functools import partial
from inspect import BoundArguments, signature
from typing import Any, Final, cast

import torch
from torch import nn

from eigenscope.analysis import decompose_by_class
from eigenscope.budget import resolve
from eigenscope.estimators import weight_spectra
from eigenscope.operators import LinearOperator
from eigenscope.planning.classes import job_of_classes
from eigenscope.planning.estimates import ESTIMATES, Found
from eigenscope.planning.functions import FUNCTIONS
from eigenscope.planning.job import Job
from eigenscope.planning.operators import job_of_method, memory_of
from eigenscope.planning.plan import Plan, Step
from eigenscope.planning.rehearsal import EFFORT
from eigenscope.planning.series import checkpoints_of, steps_of_loading
from eigenscope.planning.values import VALUES, job_of_values
from eigenscope.planning.weights import step_of_weights
from eigenscope.problem import whole_network
from eigenscope.training import record_series
from eigenscope.training.measurement import Composed

Options = dict[str, Any]

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
    first 2, 16, 128, … samples, which checks its arguments, and what that takes is
    extrapolated: passes over the data grow with n, kernels and Gram matrices with n²,
    eigenvalues with n³. Memory counts what the call holds at one time beside the model
    and the data.

    Args:
        call: A public function (`es.ntk`), its name ("ntk"), a method of an operator
            (`op.dense`, `jacobian.write`), an operator, for one product, or a measure
            of `es.Recorder`, for one recording.
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
    if not effort > 0:
        raise ValueError(f"effort must be more than 0 seconds; got {effort}.")
    if isinstance(call, Composed):
        return _of_measure(call, *arguments, effort=effort, **options)
    function = _function(call)
    bound = signature(function).bind(*arguments, **options)
    model = bound.arguments.get("model")
    if isinstance(model, nn.Module):  # gathered once, not in each rehearsal
        bound.arguments["model"] = whole_network(model)
    if function is record_series:
        return _of_series(dict(bound.arguments), effort)
    steps, others, found = _steps(function, bound, effort)
    return Plan(
        operation=_name(function),
        steps=tuple(steps),
        alternatives=tuple(others),
        budget=resolve(_memory(function, options)),
        rehearsed_samples=max((m.size for m in found), default=0),
        rehearsal_seconds=time.perf_counter() - started,
    )


def plan_of_job(operation: str, job: Job, *, effort: float = EFFORT) -> Plan:
    """Return the plan of a job.

    Args:
        operation: What it is called.
        job: The job.
        effort: Seconds for rehearsals.

    Returns:
        A plan of one step.
    """
    started = time.perf_counter()
    found = job.rehearsed(effort)
    return Plan(
        operation=operation,
        steps=(job.step(found),),
        budget=job.budget,
        rehearsed_samples=found[-1].size,
        rehearsal_seconds=time.perf_counter() - started,
    )


def _steps(function: Callable[..., Any], bound: BoundArguments, effort: float) -> Found:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, LinearOperator):
        return _of_job(
            job_of_method(owner, function.__name__, dict(bound.arguments)), effort
        )
    bound.apply_defaults()
    given = dict(bound.arguments)
    if function is weight_spectra:
        return [step_of_weights(given)], [], ()
    if function in ESTIMATES:
        return ESTIMATES[function](given, effort)
    return _of_job(JOBS[function](given), effort)


def _of_job(job: Job, effort: float) -> Found:
    found = job.rehearsed(effort)
    return [job.step(found)], [], found


def _of_measure(measure: Composed, model: nn.Module, *, effort: float) -> Plan:
    """Return the plan of one recording: of the calls that a measure makes."""
    calls = measure.calls(model)
    each = effort / max(1, len(calls))
    plans = [
        plan(call.func, *call.args, effort=each, **call.keywords).named(name)
        for name, call in calls.items()
    ]
    return Plan.joined(type(measure).__name__, plans)


def _of_series(options: Options, effort: float) -> Plan:
    """Return the plan of measuring every checkpoint that is not recorded yet."""
    numbers = checkpoints_of(options)
    parts: list[Plan | Step] = list(steps_of_loading(options, numbers))
    model, measures = options["model"], options["measures"]
    for name, measure in measures.items():
        one = plan_of_measure(name, measure, model, effort=effort / len(measures))
        if one.steps:
            parts.append(one.merged(name).times(len(numbers)))
    return Plan.joined("record_series", parts)


def plan_of_measure(
    name: str,
    measure: Callable[[nn.Module], object],
    model: nn.Module,
    *,
    effort: float,
) -> Plan:
    """Return the plan of one recording of a measure, which is made if it says nothing.

    Args:
        name: The measure's.
        measure: A measure of `es.Recorder`.
        model: The network.
        effort: Seconds for rehearsals.

    Returns:
        The plan.
    """
    if isinstance(measure, Composed):
        return plan(cast("Any", measure), model, effort=effort)
    parameters = next(iter(model.parameters()), torch.empty(0))

    def call_on(size: int) -> Callable[[], object]:
        del size
        return partial(measure, model)

    job = Job(
        name=name,
        method="a function of the network",
        reason="called once",
        num_samples=1,
        device=parameters.device,
        call_on=call_on,
        chunk=1,
        budget=resolve(None),
        passes=0.0,
    )
    return plan_of_job(name, job, effort=effort)


JOBS: Final[dict[Callable[..., Any], Callable[[Options], Job]]] = {
    **FUNCTIONS,
    **{function: partial(job_of_values, function) for function in VALUES},
    decompose_by_class: job_of_classes,
}


def _function(call: object) -> Callable[..., Any]:
    """Return what is called.

    Raises:
        TypeError: If it is none of those that have plans.
    """
    known = {
        own.__name__: own for own in (*JOBS, *ESTIMATES, weight_spectra, record_series)
    }
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
        f"({', '.join(_METHODS)}), or an operator, or a measure; got {call!r}."
    )


def _name_of(call: Callable[..., Any]) -> str:
    return getattr(call, "__name__", type(call).__name__)


def _name(function: Callable[..., Any]) -> str:
    owner = getattr(function, "__self__", None)
    prefix = "" if owner is None else f"{type(owner).__name__}."
    return f"{prefix}{function.__name__}"


def _memory(function: Callable[..., Any], options: dict[str, Any]) -> str | int | None:
    """Return the budget of a call, or that of the operator whose method it is."""
    if "memory" in signature(function).parameters:
        return options.get("memory")
    owner = getattr(function, "__self__", None)
    return memory_of(owner) if isinstance(owner, LinearOperator) else None
