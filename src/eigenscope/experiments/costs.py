"""What the runs of each verb will cost, as plans."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from eigenscope._types import Components
from eigenscope.analysis import decompose_by_class, fit_power_law
from eigenscope.analysis.classwise import require_classes
from eigenscope.budget import Share, resolve
from eigenscope.estimators import spectrum, top_eigenpairs, verify
from eigenscope.experiments.class_structure import PER_CLASS
from eigenscope.experiments.curvature_spectra import CurvaturePlan, prepare_curvature
from eigenscope.experiments.jacobian_spectra import JacobianPlan, prepare_jacobian
from eigenscope.experiments.kernel_spectra import KernelPlan, prepare_kernels
from eigenscope.experiments.matrix_costs import (
    eigenvalue_step,
    file_rates,
    gram_steps,
)
from eigenscope.experiments.records import write_small
from eigenscope.experiments.tails import RULES, fit_tails, tail_numbers
from eigenscope.kernels import conjugate_kernel
from eigenscope.kernels.tangent import groups_of
from eigenscope.operators import (
    NTK,
    ParameterJacobian,
    SymmetricOperator,
    layer_blocks,
)
from eigenscope.planning import Plan, Step, plan, plan_of_job
from eigenscope.planning.job import Job
from eigenscope.problem import Problem
from eigenscope.store import Run

Value = TypeVar("Value")

_LEAST_VALUES: Final = 256
_TAIL_EFFORT: Final = 0.5
_RUN_EFFORT: Final = 0.5


def jacobian_cost(problem: Problem, wanted: JacobianPlan, *, effort: float) -> Plan:
    """Return what a run of input-Jacobian spectra will cost.

    Args:
        problem: The network and its data.
        wanted: What is to be computed.
        effort: Seconds for rehearsals.

    Returns:
        One step for the Jacobian, two for each spectrum, and those of tails and files.
    """
    jacobian, preparation = _prepared(lambda: prepare_jacobian(problem, wanted))
    parts: list[Plan | Step] = [
        preparation,
        plan(jacobian.write, None, memory=wanted.memory, effort=effort),
    ]
    for output in wanted.outputs:
        for layout in wanted.layouts:
            name = f"{output}, {layout}"
            is_derived = output != "logits"
            matrix = jacobian.with_layout(layout)
            parts += gram_steps(matrix, name, wanted, is_derived=is_derived)
    sizes = [min(jacobian.with_layout(chosen).shape) for chosen in wanted.layouts]
    count = len(wanted.outputs) * len(wanted.layouts)
    parts += tail_steps(max(sizes), wanted.num_replicas, count=count)
    parts.append(run_step(2 + 2 * len(wanted.outputs) + 2 * count))
    return Plan.joined("eigenscope jacobian", parts, memory=wanted.memory)


def kernel_cost(problem: Problem, wanted: KernelPlan, *, effort: float) -> Plan:
    """Return what a run of kernels will cost.

    Args:
        problem: The network, its data, its output and parameters.
        wanted: What is to be computed.
        effort: Seconds for all rehearsals.

    Returns:
        Steps for every kernel, its eigenvalues, components and shares.
    """
    prepare_kernels(problem, wanted, run=None)
    each = effort / (len(wanted.kernels) + 2)
    parts: list[Plan | Step] = []
    for kind in wanted.kernels:
        size = problem.num_samples
        if kind == "conjugate":
            inputs = problem.first(size).batches.first(size).inputs
            options = {"layer": wanted.layer, "memory": wanted.memory}
            parts.append(
                plan(conjugate_kernel, problem.model, inputs, effort=each, **options)
            )
        else:
            kernel = _kernel(problem, wanted, kind)
            parts.append(plan(kernel.write, None, effort=each))
            size = kernel.shape[0]
        parts.append(
            eigenvalue_step(size, f"eigenvalues, {kind}", memory=wanted.memory)
        )
    if wanted.components is not None:
        kernel = _kernel(problem, wanted, "trace")
        count = _num_components(problem, wanted.components)
        written = plan(kernel.write, None, effort=each).named(wanted.components)
        parts.append(replace(written, steps=tuple(_several(written.steps, count))))
    if set(wanted.kernels) != {"conjugate"}:
        shares = ParameterJacobian(problem, memory=wanted.memory).squared_column_norms
        parts.append(plan(shares, effort=each))
    size = problem.num_samples
    size *= problem.num_outputs if "full" in wanted.kernels else 1
    parts += tail_steps(size, wanted.num_replicas, count=len(wanted.kernels))
    parts.append(run_step(3 + 2 * len(wanted.kernels)))
    return Plan.joined("eigenscope ntk", parts, memory=wanted.memory)


def curvature_cost(
    problem: Problem,
    wanted: CurvaturePlan,
    *,
    effort: float,
    does_verify: bool = False,
) -> Plan:
    """Return what a run of curvature spectra will cost.

    Args:
        problem: The network, its data with targets, and the loss.
        wanted: What is to be computed.
        effort: Seconds for all rehearsals.
        does_verify: Whether the operators are verified, too.

    Returns:
        Steps for every matrix and block.
    """
    operators, preparation = _prepared(
        lambda: prepare_curvature(problem, wanted, run=None)
    )
    parts: list[Plan | Step] = [preparation]
    half = replace(wanted, memory=Share.of(wanted.memory, 2))
    for name, operator in operators.items():
        prefix = f"{name}, " if len(operators) > 1 else ""
        parts += _curvature_parts(
            operator, half, prefix=prefix, effort=effort / len(operators)
        )
        if does_verify:
            parts.append(plan(verify, operator, effort=effort / 8).named("verify"))
    if wanted.classes and wanted.decomposed is not None:
        parts += _class_parts(operators[wanted.decomposed], half, effort)
    parts.append(run_step(3 + len(parts)))
    return Plan.joined("eigenscope hessian", parts, memory=wanted.memory)


def tail_steps(
    size: int, num_replicas: int, *, count: int, rules: Sequence[str] = RULES
) -> list[Step]:
    """Return the steps of tail fits, rehearsed on lognormal numbers.

    Args:
        size: Eigenvalues of each spectrum.
        num_replicas: Bootstrap replicas of each fit.
        count: Spectra.
        rules: By which their tails are fitted.

    Returns:
        One step, two with a bootstrap.
    """
    values = np.exp(np.random.default_rng(0).standard_normal(size))

    def fits(num_values: int) -> Callable[[], object]:
        return partial(_with_numbers, values[:num_values])

    def replicas(num_values: int) -> Callable[[], object]:
        fit = fit_power_law(values[:num_values])
        return partial(fit.goodness_of_fit, num_replicas=1)

    found = [_of_values("tail fits", fits, size).times(count * len(rules) / len(RULES))]
    if num_replicas:
        one = _of_values(f"bootstrap, {num_replicas} replicas", replicas, size)
        found.append(one.times(len(rules) * count * num_replicas))
    return found


def run_step(count: int) -> Step:
    """Return the step of opening a run, its small files and its manifest.

    Each is safe on disk before the next begins, which is most of what a small run
    takes. They are written now, into the folder for temporary files.

    Args:
        count: Stages: each leaves an array, a spectrum or some numbers in the run.

    Returns:
        The step.
    """
    job = Job(
        name="run",
        method=f"{count} stages, safe on disk one by one",
        num_samples=count,
        device=torch.device("cpu"),
        call_on=lambda size: partial(_write_run, size),
        chunk=count,
        budget=resolve(None),
        passes=0.0,
        least=1,
    )
    return plan_of_job("run", job, effort=_RUN_EFFORT).steps[0]


def _write_run(num_stages: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with Run.create(path, verb="plan", arguments={}, ranks="own") as run:
            for number in range(num_stages):
                with run.stage(f"stage_{number}"):
                    write_small(run, f"array_{number}", np.zeros(1))
                run.record_result(f"result_{number}", number)
            run.complete()


def _of_values(
    name: str, call_on: Callable[[int], Callable[[], object]], size: int
) -> Step:
    job = Job(
        name=name,
        method=f"{size} eigenvalues",
        num_samples=size,
        device=torch.device("cpu"),
        call_on=call_on,
        chunk=size,
        budget=resolve(None),
        passes=0.0,
        least=_LEAST_VALUES,
        has_arrays=True,
    )
    return plan_of_job(name, job, effort=_TAIL_EFFORT).steps[0]


def _with_numbers(values: Float[np.ndarray, " value"]) -> None:
    for fit in fit_tails(values)[0].values():
        tail_numbers(fit, num_replicas=0, seed=0)


def _curvature_parts(
    operator: SymmetricOperator, wanted: CurvaturePlan, *, prefix: str, effort: float
) -> list[Plan | Step]:
    """Return the plans of one matrix, its blocks and its largest eigenpairs."""
    parts: list[Plan | Step] = []
    matrices: dict[str, SymmetricOperator] = {"whole": operator}
    if wanted.layers is not None:
        matrices |= layer_blocks(operator, by=wanted.layers)
    each = effort / len(matrices)
    for part, matrix in matrices.items():
        found = plan(
            spectrum,
            matrix,
            method=wanted.method,
            tolerance=wanted.tolerance,
            memory=wanted.memory,
            effort=each,
        )
        parts.append(found.named(f"{prefix}{part}"))
    if wanted.num_pairs:
        pairs: dict[str, Any] = {"which": "magnitude", "memory": wanted.memory}
        count = min(wanted.num_pairs, operator.shape[0])
        parts.append(plan(top_eigenpairs, operator, count, effort=each, **pairs))
        size = count * operator.shape[0] * operator.dtype.itemsize
        parts.append(
            Step(
                name=f"{count} eigenpairs on disk",
                method="one file",
                disk_bytes=size,
                seconds=size * file_rates()[0],
            )
        )
    return parts


def _class_parts(
    operator: SymmetricOperator, wanted: CurvaturePlan, effort: float
) -> list[Plan | Step]:
    """Return the plans of a decomposition by classes and its eigenpairs."""
    total, loss = require_classes(operator)
    classes = loss.arrange(total.risk.examples[0][1]).shape[1]
    means = plan(decompose_by_class, total, memory=wanted.memory, effort=effort / 8)
    count = min(PER_CLASS * classes, total.shape[0])
    pairs = plan(top_eigenpairs, total, count, memory=wanted.memory, effort=effort / 8)
    return [means, pairs.named("total"), pairs.named("within")]


def _prepared(prepare: Callable[[], Value]) -> tuple[Value, Step]:
    """Return what a verb prepares before its run, and the step of that, as it took."""
    started = time.perf_counter()
    value = prepare()
    seconds = time.perf_counter() - started
    step = Step(name="preparation", method="checks and choices", seconds=seconds)
    return value, step


def _num_components(problem: Problem, by: Components) -> int:
    return len(set(groups_of(problem, by).values()))


def _several(steps: Sequence[Step], count: int) -> Iterator[Step]:
    """Return the steps with what is written as often as there are components."""
    for step in steps:
        yield replace(step, disk_bytes=count * step.disk_bytes)


def _kernel(problem: Problem, wanted: KernelPlan, kind: str) -> NTK:
    return NTK(
        problem,
        outputs="full" if kind == "full" else "trace",
        method=wanted.method,
        memory=wanted.memory,
    )
