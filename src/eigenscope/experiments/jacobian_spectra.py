"""Spectra of the input-output Jacobian of a data set, computed into a run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from jaxtyping import Float, Int64

from eigenscope._types import JsonValue, Layout, OutputName, Side, require_choice
from eigenscope.analysis import PowerLaw
from eigenscope.budget import parse_bytes, resolve, rows_within
from eigenscope.experiments.eigenvectors import (
    VectorSide,
    read_eigenpairs,
    vector_side,
    write_eigenpairs,
)
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
from eigenscope.jacobian import EngineSettings
from eigenscope.operators import InputJacobian, gram
from eigenscope.problem import Problem
from eigenscope.spectra import Eigenpairs, Spectrum
from eigenscope.store import Run


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JacobianPlan:
    """What is computed of one data set's Jacobian.

    Attributes:
        outputs: Named outputs; all come from one set of backward passes.
        layouts: "samples" (n × k·d) and "outputs" (n·k × d).
        side: "rows" for 𝒥𝒥ᵀ, "columns" for 𝒥ᵀ𝒥, "auto" for the smaller of each.
        num_vectors: Top eigenvectors that are kept of every spectrum: of 𝒥ᵀ𝒥 for
            layout "outputs", of the smaller Gram matrix for "samples".
        num_replicas: Bootstrap replicas for the p-value of each tail fit; 0 for none.
        seed: Seed of the replicas.
        memory: Budget such as "4GiB"; None for half of what is available when a run
            begins, and for the same when it goes on.
    """

    outputs: tuple[OutputName, ...] = ("logits",)
    layouts: tuple[Layout, ...] = ("samples",)
    side: Side = "auto"
    num_vectors: int = 0
    num_replicas: int = 0
    seed: int = 0
    memory: str | int | None = None

    def __post_init__(self) -> None:
        for name, chosen in (("output", self.outputs), ("layout", self.layouts)):
            if not chosen or len(set(chosen)) < len(chosen):
                given = ", ".join(chosen) or "none"
                raise ValueError(
                    f"{name} must name at least one, and none of them twice; got "
                    f"{given}."
                )
        for name, count in (
            ("vectors", self.num_vectors),
            ("replicas", self.num_replicas),
        ):
            if count < 0:
                raise ValueError(f"{name} must be at least 0; got {count}.")
        require_choice("side", self.side, Side)
        if self.memory is not None:
            parse_bytes(self.memory)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumResult:
    """One spectrum of a run and what follows from it.

    Attributes:
        output: The output that was differentiated.
        layout: "samples" or "outputs".
        side: "rows" for 𝒥𝒥ᵀ, "columns" for 𝒥ᵀ𝒥.
        spectrum: The eigenvalues.
        fits: Tail fits by rule, "scan" and "peak", where there is a tail.
        notes: Why a fit is missing, by rule.
        diagonal: diag(𝒥𝒥ᵀ), the squared Frobenius norm of every sample's Jacobian;
            None for layout "outputs".
        diagonal_fits: Tail fits of the diagonal by rule.
        eigenpairs: Top eigenvalues with their vectors, if they were asked for.
    """

    output: OutputName
    layout: Layout
    side: str
    spectrum: Spectrum
    fits: dict[str, PowerLaw]
    notes: dict[str, str]
    diagonal: Float[np.ndarray, " sample"] | None
    diagonal_fits: dict[str, PowerLaw]
    eigenpairs: Eigenpairs | None

    @property
    def name(self) -> str:
        """The result's name in its run, such as "logits_samples"."""
        return f"{self.output}_{self.layout}"

    @property
    def vector_side(self) -> VectorSide:
        """Whose eigenvectors are in `eigenpairs`: "rows" 𝒥𝒥ᵀ, "columns" 𝒥ᵀ𝒥."""
        return vector_side(self.layout, self.side)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JacobianResults:
    """Everything that a run of Jacobian spectra has found.

    Attributes:
        run: The run, open for reading.
        targets: The samples' classes, if the data has them.
        spectra: One result for each output and layout.
    """

    run: Run
    targets: Int64[np.ndarray, " sample"] | None
    spectra: tuple[SpectrumResult, ...]


def prepare_jacobian(
    problem: Problem, plan: JacobianPlan, *, run: Run | None = None
) -> InputJacobian:
    """Choose the engine, or take up a run's, and check all that can be checked now.

    Args:
        problem: The network and its data; its `output` is not used.
        plan: What is to be computed.
        run: The run that goes on; None if there is none yet.

    Returns:
        The logits' Jacobian, not computed yet.

    Raises:
        ValueError: If model or data are not those that the run started with, samples
            influence each other, an output cannot be had of this network, or the
            memory budget is too small.

    Cost:
        Forward and backward passes of a few samples.
    """
    for output in plan.outputs:
        problem.with_output(output)  # a softmax needs two classes
    recorded = None
    if run is not None:
        require_same_problem(run, problem)
        recorded = cast("dict[str, Any] | None", run.settings.get("jacobian_engine"))
    engine = EngineSettings(**recorded) if recorded else None
    jacobian = InputJacobian(problem.with_output("logits"), engine=engine)
    _require_memory(jacobian, plan if run is None else _with_budget_of(run, plan))
    return jacobian


def run_jacobian_spectra(
    run: Run,
    problem: Problem,
    plan: JacobianPlan,
    *,
    jacobian: InputJacobian | None = None,
) -> None:
    """Compute Jacobian, Gram matrices, eigenvalues and tail fits into a run.

    Every stage that is on disk already is left as it is, so a run that was killed goes
    on where it stopped, with the engine, chunk and tile sizes of its manifest. Where a
    Gram matrix does not fit the budget, its spectrum is estimated from products with
    the tiles on disk, with a stated error.

    Args:
        run: A run that is open for writing.
        problem: The network and its data; its `output` is not used.
        plan: What is computed.
        jacobian: What `prepare_jacobian` gave; None prepares it here.

    Raises:
        ValueError: As `prepare_jacobian`.
        OSError: If the disk is full; what is done stays.

    Cost:
        One set of backward passes over the data, D² · (other dimension) operations
        for each Gram matrix and about 4/3 D³ for its eigenvalues.
    """
    jacobian = jacobian or prepare_jacobian(problem, plan, run=run)
    record_problem(run, problem)
    plan = _with_budget_of(run, plan)
    run.record_result("sample_shape", [*jacobian.sample_shape])
    run.record_result("num_outputs", problem.num_outputs)
    with run.stage("jacobian"):
        stored = jacobian.write(run, memory=plan.memory)
    targets = classes_of(problem)
    if targets is not None:
        write_small(run, "targets", targets)
        run.record_result("accuracy", _accuracy(stored, targets))
    for output in plan.outputs:
        for layout in plan.layouts:
            _run_one(run, output, layout, plan)
    run.complete()


def load_jacobian_results(run: Run) -> JacobianResults:
    """Read the spectra of a run and fit their tails again (milliseconds each).

    Args:
        run: A run of Jacobian spectra.

    Returns:
        The results that are there.
    """
    arguments = run.arguments
    outputs = cast("Sequence[OutputName]", arguments.get("outputs", []))
    layouts = cast("Sequence[Layout]", arguments.get("layouts", []))
    return JacobianResults(
        run=run,
        targets=read_small(run, "targets"),
        spectra=tuple(
            _load_one(run, output, layout)
            for output in outputs
            for layout in layouts
            if _spectrum_path(run, output, layout).exists()
        ),
    )


def _run_one(run: Run, output: OutputName, layout: Layout, plan: JacobianPlan) -> None:
    name = f"{output}_{layout}"
    jacobian = InputJacobian.open(run, output=output, layout=layout)
    if layout == "samples":
        with run.stage(f"diagonal_{output}"):
            write_small(
                run, f"diagonal_{output}", lambda: jacobian.squared_row_norms().numpy()
            )
    matrix = gram(jacobian, side=plan.side, memory=plan.memory)
    with run.stage(f"gram_{name}"):
        stored = matrix.write(run, name=f"gram_{name}")
    path = _spectrum_path(run, output, layout)
    if not run.has(path):
        with run.stage(f"spectrum_{name}"):
            keep_spectrum(run, path, stored, seed=plan.seed, memory=plan.memory)
    if plan.num_vectors:
        with run.stage(f"eigenvectors_{name}"):
            write_eigenpairs(
                run,
                name,
                jacobian=jacobian,
                stored=stored,
                found=Spectrum.load(path),
                num_vectors=plan.num_vectors,
                memory=plan.memory,
            )

    def record() -> None:
        result = _load_one(run, output, layout, side=matrix.side)
        run.record_result(name, _summary(result, plan))

    run.ranks.from_first(record)


def _load_one(
    run: Run, output: OutputName, layout: Layout, *, side: str | None = None
) -> SpectrumResult:
    found = Spectrum.load(_spectrum_path(run, output, layout))
    fits, notes = fit_tails(found)
    diagonal = read_small(run, f"diagonal_{output}") if layout == "samples" else None
    name = f"{output}_{layout}"
    recorded = cast("dict[str, Any]", run.results.get(name) or {})
    return SpectrumResult(
        output=output,
        layout=layout,
        side=side or str(recorded.get("side", "rows")),
        spectrum=found,
        fits=fits,
        notes=notes,
        diagonal=diagonal,
        diagonal_fits={} if diagonal is None else fit_tails(diagonal)[0],
        eigenpairs=read_eigenpairs(run, name),
    )


def _summary(result: SpectrumResult, plan: JacobianPlan) -> dict[str, JsonValue]:
    found = result.spectrum
    summary: dict[str, JsonValue] = {
        "side": result.side,
        "dimension": found.dimension,
        "method": str(found.provenance.get("method")),
        "error": finite(found.error),
        "lambda_max": float(found.values[-1]),
        "trace": found.trace(),
        "jacobian_stable_rank": found.intrinsic_dimension(),
        "effective_rank": found.effective_rank(),
        "noise_floor": found.noise_floor,
        "num_below_noise_floor": int(found.num_below_noise_floor),
        "notes": dict(result.notes),
    }
    for rule, fit in result.fits.items():
        summary[rule] = tail_numbers(
            fit, num_replicas=plan.num_replicas, seed=plan.seed
        )
    for rule, fit in result.diagonal_fits.items():
        summary[f"diagonal_{rule}"] = fit.summary()
    return summary


def _with_budget_of(run: Run, plan: JacobianPlan) -> JacobianPlan:
    """Return the plan with the memory that the run began with, if it gives none."""
    return replace(plan, memory=budget_of(run, plan.memory))


def _require_memory(jacobian: InputJacobian, plan: JacobianPlan) -> None:
    """Raise before hours of work if a tile does not fit in memory."""
    item = jacobian.dtype.itemsize
    sample_bytes = jacobian.with_layout("samples").shape[1] * item
    rows_within(resolve(plan.memory), 4 * sample_bytes)  # as `write` cuts tiles


def _accuracy(jacobian: InputJacobian, targets: np.ndarray) -> float | None:
    raw = jacobian.raw_outputs()
    if raw.ndim != 2 or raw.shape[1] < 2:
        return None
    return float((raw.argmax(1).numpy() == targets).mean())


def _spectrum_path(run: Run, output: OutputName, layout: Layout) -> Path:
    return run.results_path(f"spectrum_{output}_{layout}.npz")
