"""Spectra of Hessian, Gauss-Newton and Fisher, whole and by layer, in a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast, final

import torch

from eigenscope._types import JsonValue, require_choice
from eigenscope.analysis import fit_bulk, summarize, wasserstein_estimate
from eigenscope.analysis.classwise import require_classes
from eigenscope.budget import Share, parse_bytes
from eigenscope.estimators import spectrum
from eigenscope.experiments.class_structure import write_class_structure
from eigenscope.experiments.eigenpairs import eigenpairs_path, write_eigenpairs
from eigenscope.experiments.records import budget_of, require_same_problem
from eigenscope.experiments.tails import finite
from eigenscope.operators import (
    Curvature,
    SymmetricOperator,
    curvature,
    layer_blocks,
)
from eigenscope.problem import Problem
from eigenscope.spectra import Eigenpairs, Spectrum
from eigenscope.store import Run

Layers = Literal["parameter", "module"]
CurvatureMethod = Literal["auto", "exact", "slq", "kpm"]

WHOLE = "whole"
_BULK_DISTANCE = 0.1  # of the cdfs, beyond which the law is no law of the bulk


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CurvaturePlan:
    """What is computed of one risk's curvature.

    Attributes:
        operators: "hessian", "gauss-newton" (of the same loss) and "fisher" (the
            empirical one).
        layers: Spectra of the diagonal blocks of parameters or modules, too.
        method: As for `es.spectrum`.
        tolerance: As for `es.spectrum`.
        num_pairs: Eigenpairs of largest |λ| of the whole matrix to keep.
        classes: Decompose the Gauss-Newton matrix of a cross-entropy by classes.
        seed: Seed of all probes.
        memory: Budget such as "4GiB"; None for half of what is available when a run
            begins, and for the same when it goes on.
    """

    operators: tuple[Curvature, ...] = ("hessian",)
    layers: Layers | None = None
    method: CurvatureMethod = "auto"
    tolerance: float = 0.02
    num_pairs: int = 0
    classes: bool = False
    seed: int = 0
    memory: str | int | None = None

    def __post_init__(self) -> None:
        for operator in self.operators:
            require_choice("operator", operator, Curvature)
        if not self.operators or len(set(self.operators)) < len(self.operators):
            given = ", ".join(self.operators) or "none"
            raise ValueError(
                f"operator must name at least one, and none of them twice; got {given}."
            )
        if self.num_pairs < 0:
            raise ValueError(f"top must be at least 0; got {self.num_pairs}.")
        if self.classes and self.decomposed is None:
            raise ValueError(
                "classes are those of a Gauss-Newton matrix, which fisher does not "
                "have; got operator fisher alone. Add gauss-newton or hessian to it."
            )
        if self.memory is not None:
            parse_bytes(self.memory)

    @property
    def decomposed(self) -> Curvature | None:
        """The operator whose Gauss-Newton matrix is decomposed by classes."""
        able: tuple[Curvature, ...] = ("gauss-newton", "hessian")
        return next((name for name in able if name in self.operators), None)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CurvatureResult:
    """The spectra of one matrix of a run.

    Attributes:
        operator: Which matrix.
        spectra: "whole", then the blocks' names, to their spectra.
        numbers: The same names to what the table says of them.
        eigenpairs: Those of largest |λ| of the whole matrix, if they were asked for.
    """

    operator: Curvature
    spectra: dict[str, Spectrum]
    numbers: dict[str, dict[str, Any]]
    eigenpairs: Eigenpairs | None


def prepare_curvature(
    problem: Problem, plan: CurvaturePlan, *, run: Run | None
) -> dict[Curvature, SymmetricOperator]:
    """Make the operators, which checks network, data and loss.

    Args:
        problem: The network, its data with targets, and the loss.
        plan: What is to be computed.
        run: The run that goes on; None if there is none yet.

    Returns:
        The operators.

    Raises:
        ValueError: If model or data are not those that the run started with, or the
            network or the loss has no such matrix, or no classes and they are asked
            for.

    Cost:
        A forward pass over the data for each operator.
    """
    memory = plan.memory
    if run is not None:
        require_same_problem(run, problem)
        memory = budget_of(run, plan.memory)
    found: dict[Curvature, SymmetricOperator] = {
        name: curvature(problem, name, memory=Share.of(memory, 2))
        for name in plan.operators
    }
    if plan.classes and plan.decomposed is not None:
        require_classes(found[plan.decomposed])
    return found


def run_curvature(
    run: Run,
    problem: Problem,
    plan: CurvaturePlan,
    operators: Mapping[Curvature, SymmetricOperator],
) -> None:
    """Compute spectra, blocks' spectra, top eigenpairs and classes into a run.

    Every spectrum that is on disk already is left as it is, and an estimate goes on
    from its last group of probes.

    Args:
        run: A run that is open for writing.
        problem: The network, its data with targets, and the loss.
        plan: What is computed.
        operators: What `prepare_curvature` gave.

    Raises:
        ValueError: As `es.spectrum`.
        OSError: If the disk is full; what is done stays.

    Cost:
        As `es.spectrum` for each matrix and block; the blocks share the recordings
        of their matrix.
    """
    require_same_problem(run, problem)
    run.record_settings({"fingerprint": dict(problem.fingerprint())})
    # The operator's recordings have the other half.
    plan = replace(plan, memory=Share.of(budget_of(run, plan.memory), 2))
    run.record_result("num_samples", problem.num_samples)
    sizes = [p.numel() for p in problem.params.values()]
    run.record_result("num_parameters", sum(sizes))
    for name, operator in operators.items():
        parts = {WHOLE: operator}
        if plan.layers is not None:
            parts |= layer_blocks(operator, by=plan.layers)
        run.record_result(f"{name}_blocks", cast("JsonValue", list(parts)))
        for place, part in enumerate(parts.values()):
            _write_spectrum(run, f"{name}_{place:03d}", part, plan)
        if plan.num_pairs:
            write_eigenpairs(
                run,
                name,
                operator,
                plan.num_pairs,
                which="magnitude",
                seed=plan.seed,
                memory=plan.memory,
            )
        run.ranks.from_first(partial(_record_numbers, run, name))
    if plan.classes and plan.decomposed is not None:
        operator = operators[plan.decomposed]
        write_class_structure(run, operator, seed=plan.seed, memory=plan.memory)
    run.complete()


def load_curvature_results(run: Run) -> tuple[CurvatureResult, ...]:
    """Read the spectra of a run.

    Args:
        run: A run of curvature spectra.

    Returns:
        One result for each matrix whose spectra are there.
    """
    names = cast("Sequence[Curvature]", run.arguments.get("operators", []))
    found: list[CurvatureResult] = []
    for name in names:
        spectra = _spectra(run, name)
        numbers = cast("dict[str, dict[str, Any]]", run.results.get(name) or {})
        pairs = eigenpairs_path(run, name)
        if spectra:
            found.append(
                CurvatureResult(
                    operator=name,
                    spectra=spectra,
                    numbers=dict(numbers),
                    eigenpairs=Eigenpairs.load(pairs) if pairs.exists() else None,
                )
            )
    return tuple(found)


def _write_spectrum(
    run: Run, name: str, operator: SymmetricOperator, plan: CurvaturePlan
) -> None:
    path = run.results_path(f"spectrum_{name}.npz")
    if run.has(path):
        return
    with run.stage(f"spectrum_{name}"):
        found = spectrum(
            operator,
            method=plan.method,
            tolerance=plan.tolerance,
            generator=torch.Generator().manual_seed(plan.seed),
            memory=plan.memory,
            run=run,
            name=f"estimate_{name}",
        )
        run.keep(path, partial(found.save, wall_time=False))


def _record_numbers(run: Run, name: Curvature) -> None:
    spectra = _spectra(run, name)
    numbers = {part: _numbers(found, spectra) for part, found in spectra.items()}
    run.record_result(name, cast("JsonValue", numbers))


def _spectra(run: Run, name: str) -> dict[str, Spectrum]:
    """Return the spectra of a matrix and its blocks that are there."""
    parts = cast("Sequence[str]", run.results.get(f"{name}_blocks") or [])
    paths = {
        part: run.results_path(f"spectrum_{name}_{place:03d}.npz")
        for place, part in enumerate(parts)
    }
    return {part: Spectrum.load(path) for part, path in paths.items() if path.exists()}


def _numbers(found: Spectrum, spectra: Mapping[str, Spectrum]) -> dict[str, JsonValue]:
    """Return what the table says of one spectrum."""
    said = summarize(found)
    numbers: dict[str, JsonValue] = {
        "dimension": found.dimension,
        "lambda_max": said.largest,
        "lambda_min": said.smallest,
        "trace": float(cast("float", said.trace.value)),
        "trace_stderr": float(cast("float", said.trace.stderr)),
        "effective_rank": said.effective_rank,
        "negative_mass": said.negative_mass,
        "num_outliers": _num_outliers(found) if said.converged else None,
        "error": said.error,
        "converged": said.converged,
        "method": _path(found),
    }
    whole = spectra.get(WHOLE)
    if whole is not None and found is not whole:
        for scale in ("none", "range"):
            distance = wasserstein_estimate(whole, found, scale=scale)
            numbers[f"w1_{scale}"] = float(cast("float", distance.value))
            numbers[f"w1_{scale}_stderr"] = float(cast("float", distance.stderr))
    return {name: finite(value) for name, value in numbers.items()}


def _path(found: Spectrum) -> str:
    """Return the method of a spectrum, and of an exact one which matrix was solved."""
    method = str(found.provenance.get("method"))
    if method != "exact":
        return method
    if str(found.provenance.get("side", "")).startswith("samples"):
        return f"{method}, kernel side"
    return f"{method}, dense"


def _num_outliers(found: Spectrum) -> float | None:
    """Return the eigenvalues above the bulk's edge, None where no law fits a bulk."""
    is_positive = float(found.values[0]) >= -found.noise_floor
    law: Any = "marchenko_pastur" if is_positive else "semicircle"
    try:
        bulk = fit_bulk(found, law=law)
    except ValueError:  # too few values
        return None
    return round(bulk.num_above, 3) if bulk.ks_distance <= _BULK_DISTANCE else None
