"""Tangent and conjugate kernels of a data set and their spectra, in a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, final

import numpy as np
import torch
from jaxtyping import Float, Int64

from eigenscope._types import Components, JsonValue, KernelMethod
from eigenscope.analysis import PowerLaw
from eigenscope.budget import parse_bytes
from eigenscope.experiments.records import (
    budget_of,
    classes_of,
    keep_spectrum,
    read_small,
    record_problem,
    require_same_problem,
    write_small,
)
from eigenscope.experiments.tails import finite, fit_tails, tail_numbers
from eigenscope.kernels.conjugate import conjugate_of, first_features
from eigenscope.operators import NTK, ParameterJacobian, StoredGram
from eigenscope.operators.kernel_tiles import tile_engine
from eigenscope.precision import widened
from eigenscope.problem import Problem
from eigenscope.spectra import Spectrum
from eigenscope.store import Run

KernelKind = Literal["full", "trace", "conjugate"]

_SHOWN = 1000
_TILE = 2048


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlan:
    """What is computed of one data set's kernels.

    Attributes:
        kernels: "full" (n·k × n·k), "trace" (n × n) and "conjugate" (n × n).
        components: Write the trace kernels of all parameters or modules, too.
        layer: Module whose output is the conjugate kernel's features; None for what
            enters the last linear layer.
        method: How tangent kernels are computed.
        num_replicas: Bootstrap replicas for the p-value of each tail fit; 0 for none.
        seed: Seed of the replicas.
        memory: Budget such as "4GiB"; None for half of what is available when a run
            begins, and for the same when it goes on.
    """

    kernels: tuple[KernelKind, ...] = ("trace",)
    components: Components | None = None
    layer: str | None = None
    method: KernelMethod = "auto"
    num_replicas: int = 0
    seed: int = 0
    memory: str | int | None = None

    def __post_init__(self) -> None:
        if not self.kernels or len(set(self.kernels)) < len(self.kernels):
            given = ", ".join(self.kernels) or "none"
            raise ValueError(
                f"kernel must name at least one, and none of them twice; got {given}."
            )
        if self.num_replicas < 0:
            raise ValueError(f"replicas must be at least 0; got {self.num_replicas}.")
        if self.memory is not None:
            parse_bytes(self.memory)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KernelResult:
    """One kernel of a run and what follows from it.

    Attributes:
        kind: Which kernel.
        matrix: The kernel, read from the run.
        spectrum: Its eigenvalues.
        fits: Tail fits by rule, "scan" and "peak", where there is a tail.
        notes: Why a fit is missing, by rule.
    """

    kind: KernelKind
    matrix: StoredGram
    spectrum: Spectrum
    fits: dict[str, PowerLaw]
    notes: dict[str, str]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KernelResults:
    """Everything that a run of kernels has found.

    Attributes:
        run: The run, open for reading.
        targets: The samples' classes, if the data has them.
        kernels: One result for each kernel.
        shares: Every parameter's share of the tangent kernel's trace.
    """

    run: Run
    targets: Int64[np.ndarray, " sample"] | None
    kernels: tuple[KernelResult, ...]
    shares: dict[str, float]

    def shown(
        self, result: KernelResult
    ) -> tuple[Float[np.ndarray, "sample sample"], Int64[np.ndarray, " sample"] | None]:
        """Return a kernel of a thousand samples, evenly taken, and their classes.

        Of a full kernel the trace over the outputs is taken.
        """
        num_samples = int(cast("int", self.run.results["num_samples"]))
        each = result.matrix.shape[0] // num_samples
        count = min(num_samples, max(2, _SHOWN // each))
        chosen = torch.linspace(0, num_samples - 1, count).round().long()
        rows = (chosen.unsqueeze(1) * each + torch.arange(each)).flatten()
        blocks = result.matrix.submatrix(rows).view(count, each, count, each)
        kernel = torch.einsum("icjc->ij", blocks).numpy()
        return kernel, None if self.targets is None else self.targets[chosen.numpy()]


def prepare_kernels(problem: Problem, plan: KernelPlan, *, run: Run | None) -> None:
    """Check all that can be checked before work starts.

    Args:
        problem: The network, its data, its output and parameters.
        plan: What is to be computed.
        run: The run that goes on; None if there is none yet.

    Raises:
        TypeError: If the features of the conjugate kernel are no tensor.
        ValueError: If model or data are not those that the run started with, samples
            influence each other, the features cannot be found, or the memory budget
            is too small.

    Cost:
        Forward and backward passes of a few samples.
    """
    memory = plan.memory
    if run is not None:
        require_same_problem(run, problem)
        memory = budget_of(run, plan.memory)
    tangent = {kind for kind in plan.kernels if kind != "conjugate"}
    for kind in sorted(tangent | ({"trace"} if plan.components else set())):
        tile_engine(
            problem,
            1,
            outputs="full" if kind == "full" else "trace",
            method=plan.method,
            memory=memory,
        )
    if "conjugate" in plan.kernels:
        first_features(problem, plan.layer, memory)


def run_kernels(run: Run, problem: Problem, plan: KernelPlan) -> None:
    """Compute kernels, eigenvalues, tail fits and alignments into a run.

    Every tile and every stage that is on disk already is left as it is, so a run that
    was killed goes on where it stopped, with the sizes and choices of its manifest.

    Args:
        run: A run that is open for writing.
        problem: The network, its data, its output and parameters.
        plan: What is computed.

    Raises:
        ValueError: As `prepare_kernels`.
        OSError: If the disk is full; what is done stays.

    Cost:
        For each tangent kernel as for `es.NTK.write`, one more set of backward passes
        for the shares, and about 4/3 D³ operations for the eigenvalues.
    """
    record_problem(run, problem)
    plan = replace(plan, memory=budget_of(run, plan.memory))
    run.record_result("num_outputs", problem.num_outputs)
    targets = classes_of(problem)
    if targets is not None:
        write_small(run, "targets", targets)
    for kind in plan.kernels:
        with run.stage(f"kernel_{kind}"):
            stored = _stored(run, problem, plan, kind)
        path = _spectrum_path(run, kind)
        if not run.has(path):
            with run.stage(f"spectrum_{kind}"):
                keep_spectrum(run, path, stored, seed=plan.seed, memory=plan.memory)
    if plan.components is not None:
        kernel = NTK(problem, outputs="trace", method=plan.method, memory=plan.memory)
        with run.stage("components"):
            kernel.write_components(run, by=plan.components, name="component")
    if set(plan.kernels) != {"conjugate"}:
        with run.stage("shares"):
            _record_shares(run, problem, plan.memory)
    run.ranks.from_first(lambda: _record_numbers(run, plan))
    run.complete()


def load_kernel_results(run: Run) -> KernelResults:
    """Read the kernels of a run and fit their tails again (milliseconds each).

    Args:
        run: A run of kernels.

    Returns:
        The results that are there.
    """
    kinds = cast("Sequence[KernelKind]", run.arguments.get("kernels", []))
    found: list[KernelResult] = []
    for kind in kinds:
        if _spectrum_path(run, kind).exists():
            values = Spectrum.load(_spectrum_path(run, kind))
            fits, notes = fit_tails(values)
            found.append(
                KernelResult(
                    kind=kind,
                    matrix=StoredGram(run.open_array(f"kernel_{kind}")),
                    spectrum=values,
                    fits=fits,
                    notes=notes,
                )
            )
    shares = cast("dict[str, float]", run.results.get("trace_shares") or {})
    return KernelResults(
        run=run,
        targets=read_small(run, "targets"),
        kernels=tuple(found),
        shares=dict(shares),
    )


def _stored(
    run: Run, problem: Problem, plan: KernelPlan, kind: KernelKind
) -> StoredGram:
    name = f"kernel_{kind}"
    if kind != "conjugate":
        kernel = NTK(problem, outputs=kind, method=plan.method, memory=plan.memory)
        stored = kernel.write(run, name=name)
        if f"{name}_choices" not in run.settings:
            choices = {n: f"{c.form}: {c.reason}" for n, c in kernel.choices.items()}
            run.record_settings({f"{name}_choices": cast("JsonValue", choices)})
        return stored
    size = problem.num_samples
    dtype = str(problem.dtype).removeprefix("torch.")
    array = run.array(
        name,
        shape=(size, size),
        dtype=dtype,
        tile_shape=(min(size, _TILE),) * 2,
        attributes={"factor_dtype": dtype, "layer": plan.layer},
    )
    pending = [
        index for index in run.ranks.from_first(array.missing) if index[0] >= index[1]
    ]
    if pending:
        run.require_space(len(pending) * array.tile_bytes)
        matrix = conjugate_of(problem, None, plan.layer, plan.memory).cpu().numpy()
        with run.ranks.together():
            for index in run.ranks.deal(pending):
                array.write(index, matrix[array.selection(index)])
    return StoredGram(array)


def _record_shares(run: Run, problem: Problem, memory: str | int | None) -> None:
    """Record each parameter's share of Σ Θ[i, i, c, c] = Σ (∂z_c(x_i)/∂θ_p)²."""
    if "trace_shares" in run.results:
        return
    jacobian = ParameterJacobian(problem, memory=memory)
    squares = widened(jacobian.squared_column_norms())
    total = float(squares.sum()) or 1.0
    shares = {
        name: float(squares[where].sum()) / total
        for name, where in jacobian.columns.items()
    }
    run.record_result("trace_shares", cast("JsonValue", shares))


def _record_numbers(run: Run, plan: KernelPlan) -> None:
    results = load_kernel_results(run)
    by_kind = {result.kind: result for result in results.kernels}
    for kind, result in by_kind.items():
        numbers: dict[str, Any] = _summary(result.spectrum)
        numbers["notes"] = dict(result.notes)
        for rule, fit in result.fits.items():
            numbers[rule] = tail_numbers(
                fit, num_replicas=plan.num_replicas, seed=plan.seed
            )
        if kind != "full" and results.targets is not None:
            numbers["target_alignment"] = _target_alignment(
                result.matrix, results.targets
            )
        run.record_result(kind, numbers)
    if {"trace", "conjugate"} <= by_kind.keys():
        tangent, conjugate = (by_kind[k].matrix for k in ("trace", "conjugate"))
        norms = tangent.inner(tangent) * conjugate.inner(conjugate)
        aligned = tangent.inner(conjugate) / math.sqrt(norms)
        run.record_result("tangent_conjugate_alignment", aligned)


def _target_alignment(
    kernel: StoredGram, targets: Int64[np.ndarray, " sample"]
) -> float:
    """Return ⟨K, YYᵀ⟩ / (‖K‖ ‖YYᵀ‖) for one-hot Y, from products with K alone."""
    _, classes = torch.from_numpy(targets).unique(return_inverse=True)
    y = torch.nn.functional.one_hot(classes).to(kernel.dtype)
    inner = float((y * kernel.multiply(y)).double().sum())
    ideal = float(y.double().sum(0).norm())
    return inner / math.sqrt(kernel.inner(kernel)) / ideal


def _summary(found: Spectrum) -> dict[str, JsonValue]:
    smallest, largest = float(found.values[0]), float(found.values[-1])
    resolved = smallest > found.noise_floor
    return {
        "dimension": found.dimension,
        "method": str(found.provenance.get("method")),
        "error": finite(found.error),
        "lambda_max": largest,
        "lambda_min": smallest,
        "condition_number": finite(largest / smallest) if resolved else None,
        "trace": found.trace(),
        "effective_rank": found.effective_rank(),
        "noise_floor": found.noise_floor,
        "num_below_noise_floor": int(found.num_below_noise_floor),
    }


def _spectrum_path(run: Run, kind: KernelKind) -> Path:
    return run.results_path(f"spectrum_{kind}.npz")
