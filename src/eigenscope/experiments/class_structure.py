"""The Gauss-Newton matrix of a classifier by classes, in a run."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, cast, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.analysis import ClassDecomposition, decompose_by_class
from eigenscope.estimators import spectrum
from eigenscope.experiments.eigenpairs import eigenpairs_path, write_eigenpairs
from eigenscope.operators import Gram, SymmetricOperator
from eigenscope.precision import wide_sum
from eigenscope.spectra import Eigenpairs, rounding_floor
from eigenscope.store import Run

CLASSES: Final = "classes"
_TOTAL, _WITHIN = f"{CLASSES}_total", f"{CLASSES}_within"
PER_CLASS: Final = 2  # eigenvalues of G that are looked at: outliers and some others


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClassStructure:
    """Eigenvalues of G and of its parts G₀ + G₁ + G₂ + G₃, those above rounding.

    Attributes:
        num_classes: C.
        traces: Of "total" (G), "own" (G₀), "classes" (G₁), "cross" (G₂) and "within"
            (G₃).
        total: The 2 C largest eigenvalues of G, descending.
        shares: vᵀ(G₀ + G₁ + G₂)v / vᵀGv for their eigenvectors v: 1 where all of an
            eigenvalue comes from means of classes.
        between: All of G₀ + G₁ + G₂, descending.
        own: All of G₀.
        classes: All of G₁.
        cross: All of G₂.
        within: The 2 C largest of G₃.
        converged: Whether Lanczos reached its tolerance for those of G and G₃.
    """

    num_classes: int
    traces: dict[str, float]
    total: list[float]
    shares: list[float]
    between: list[float]
    own: list[float]
    classes: list[float]
    cross: list[float]
    within: list[float]
    converged: bool


def write_class_structure(
    run: Run, operator: SymmetricOperator, *, seed: int, memory: str | int | None
) -> None:
    """Decompose by classes into a run, unless that is done; eigenpairs go on.

    Args:
        run: A run that is open for writing.
        operator: A Gauss-Newton matrix, or a Hessian, whose Gauss-Newton matrix is
            taken.
        seed: Of the random starts.
        memory: Budget.

    Raises:
        TypeError: If it is another operator.
        ValueError: If the loss has no classes, or the means do not fit the budget.

    Cost:
        As `es.decompose_by_class`, and 2 C eigenpairs of G and of G₃.
    """
    if CLASSES in run.results:
        return
    with run.stage(CLASSES):
        parts = decompose_by_class(cast("Any", operator), memory=memory)
        trace = float(wide_sum(parts.total.diagonal()))
    count = PER_CLASS * len(parts.weights)
    for name, matrix in ((_TOTAL, parts.total), (_WITHIN, parts.within)):
        write_eigenpairs(
            run, name, matrix, count, which="largest", seed=seed, memory=memory
        )
    run.ranks.from_first(partial(_record, run, parts, trace))


def load_class_structure(run: Run) -> ClassStructure | None:
    """Read the decomposition by classes of a run.

    Args:
        run: A run of curvature spectra.

    Returns:
        The decomposition, or None if the run has none.
    """
    saved = cast("dict[str, Any] | None", run.results.get(CLASSES))
    return None if saved is None else ClassStructure(**saved)


def _record(run: Run, parts: ClassDecomposition, trace: float) -> None:
    pairs, rest = (
        Eigenpairs.load(eigenpairs_path(run, name)) for name in (_TOTAL, _WITHIN)
    )
    traces = {
        name: float(wide_sum(part.diagonal()))
        for name, part in (
            *(("own", parts.own), ("classes", parts.classes)),
            ("cross", parts.cross),
        )
    }
    traces = {"total": trace, **traces, "within": trace - sum(traces.values())}
    floor = rounding_floor(
        float(pairs.values.abs().max()),
        dimension=len(pairs.vectors),
        epsilon=torch.finfo(pairs.vectors.dtype).eps,
    )
    above = pairs.values > floor
    found = ClassStructure(
        num_classes=len(parts.weights),
        traces=traces,
        total=pairs.values[above].tolist(),
        shares=_shares(parts.between, pairs)[above].tolist(),
        between=_eigenvalues(parts.between),
        own=_eigenvalues(parts.own),
        classes=_eigenvalues(parts.classes),
        cross=_eigenvalues(parts.cross),
        within=rest.values[rest.values > floor].tolist(),
        converged=bool(pairs.converged.all() and rest.converged.all()),
    )
    run.record_result(CLASSES, cast("JsonValue", asdict(found)))


def _shares(between: Gram, pairs: Eigenpairs) -> Float[Tensor, " pair"]:
    vectors = pairs.vectors.to(between.device, between.dtype)
    forms = wide_sum(vectors * (between @ vectors), 0)
    return forms.cpu() / pairs.values


def _eigenvalues(part: Gram) -> list[float]:
    """Return all eigenvalues above rounding, descending."""
    found = spectrum(part, method="exact")
    above = found.values > found.noise_floor
    counts = np.rint(found.weights[above] * found.dimension).astype(int)
    return np.repeat(found.values[above], counts)[::-1].tolist()
