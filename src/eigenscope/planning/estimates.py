"""The steps of spectra, eigenpairs and traces of an operator."""

from collections.abc import Callable
from inspect import signature
from typing import Any, Final, cast

from torch import Tensor

from eigenscope.budget import resolve
from eigenscope.estimators import (
    apply_function,
    diagonal,
    log_determinant,
    norm,
    spectral_sum,
    spectrum,
    top_eigenpairs,
    trace,
    verify,
)
from eigenscope.estimators.dense import pairs_bytes, smaller_side, spectrum_bytes
from eigenscope.estimators.eigenpairs import (
    chosen_pairs_method,
    default_block_size,
    takes_raised_pairs,
)
from eigenscope.estimators.lanczos import basis_capacity
from eigenscope.estimators.lapack import MOST_ROWS, peak_bytes
from eigenscope.estimators.matrices import Operand, extra_bytes
from eigenscope.estimators.probing_vectors import probing_vectors
from eigenscope.estimators.products import Products
from eigenscope.estimators.whole import chosen_method
from eigenscope.operators import CurvatureOperator, Gram, LinearOperator, StoredGram
from eigenscope.operators.gauss_newton import OutputCurvature
from eigenscope.planning.factorizations import (
    eigenvalue_flops,
    eigenvalue_method,
    eigenvalue_seconds,
)
from eigenscope.planning.operators import matrix_job, raising_job
from eigenscope.planning.plan import Alternative, Step
from eigenscope.planning.products import (
    in_panels,
    itemsize,
    orthogonalizing_seconds,
    seconds_beside,
    step_of_products,
)
from eigenscope.planning.rehearsal import Measurement
from eigenscope.planning.smaller import on_first, problem_of
from eigenscope.spectra import Spectrum

Options = dict[str, Any]
Found = tuple[list[Step], list[Alternative], tuple[Measurement, ...]]
_TOGETHER: Final = 8
_TYPICAL_STEPS: Final = 48
_PRODUCTS_PER_PAIR: Final = 12
_OUTER_PER_PAIR, _NARROWER = 4, 18  # three copies of blocks of 2 instead of 8
_POLISHED: Final = 4  # copies of all pairs while their residuals are taken
_FEWEST_PROBES: Final = 12
_CHEBYSHEV_VECTORS: Final = 7
_CHECKING, _SIGN_CHECKING, _CHECKED_TOGETHER, _COPIES_CHECKED = 32, 28, 4, 10
_SIGN_STEPS: Final = 20


def _spectrum(options: Options, effort: float) -> Found:
    operand = options["operator_or_matrix"]
    method = options["method"]
    if method == "auto":
        how = options["factorization"]
        method = chosen_method(operand, how, options["memory"])
    if method == "exact":
        steps, found = _exact(operand, effort, 0, spectrum_bytes(operand))
        return steps, [], found
    steps, found = _sampled(operand, options, method, effort)
    return steps, _dense_instead(operand, steps), found


def _dense_instead(operand: Operand, steps: list[Step]) -> list[Alternative]:
    """Return the exact spectrum as an alternative, where LAPACK can count its rows."""
    size = smaller_side(operand).shape[0]
    if size > MOST_ROWS:
        return []
    other = Alternative(
        method="exact",
        flops=eigenvalue_flops(size),
        peak_bytes=spectrum_bytes(operand),
        seconds=eigenvalue_seconds(size) + size / _TOGETHER * _block_seconds(steps),
        reason=f"a dense matrix of {size} rows, formed by {size} products",
    )
    return [other]


def _top_eigenpairs(options: Options, effort: float) -> Found:
    operand, k = options["operator_or_matrix"], options["k"]
    which, method = options["which"], options["method"]
    if takes_raised_pairs(operand, k, which, method, options["memory"]):
        return _raised_pairs(operand, k, effort)
    if method == "auto":
        method = chosen_pairs_method(operand, k, which, options["memory"])
    if method == "exact":
        steps, found = _exact(operand, effort, k, pairs_bytes(operand, k, which))
        return steps, [], found
    most = options["max_matvecs"] or max(2000, 200 * k)
    count = min(most, _PRODUCTS_PER_PAIR * k + 40)
    width = options["block_size"] or default_block_size(operand)
    budget = resolve(options["memory"])
    room = basis_capacity(Products(operand), k, width, budget)
    given = {"k": k, "which": which, "method": "lanczos", "block_size": width}
    step, found = step_of_products(
        operand,
        effort / 2,
        name="block Lanczos",
        count=count,
        most=most,
        width=width,
        basis=in_panels(min(room, count), operand.shape[0] * itemsize(operand))
        + max(0, _POLISHED * k - 3 * width),
        kept_within=budget,
        beside=seconds_beside(
            top_eigenpairs,
            operand,
            given | {"memory": options["memory"]},
            sizes="max_matvecs",
            least=k + 2 * width,
            total=count,
            effort=effort / 2,
        ),
    )
    return [step], [], found


def _raised_pairs(operand: OutputCurvature, k: int, effort: float) -> Found:
    """Return the steps of pairs from the side of the outputs."""
    small = cast("LinearOperator", smaller_side(operand))
    solving = peak_bytes(small.shape[0], num_vectors=k)
    steps, found = _exact(operand, effort / 2, k, solving)
    job = raising_job(operand, k)
    vectors = job.rehearsed(effort / 2)
    return [*steps, job.step(vectors)], [], (*found, *vectors)


def _trace(options: Options, effort: float) -> Found:
    name = f"trace by {options['method']}"
    return _probing(trace, options, effort, name, has_entries=False)


def _diagonal(options: Options, effort: float) -> Found:
    name = "estimate of the diagonal"
    return _probing(diagonal, options, effort, name, has_entries=True)


def _probing(
    function: Callable[..., object],
    options: Options,
    effort: float,
    name: str,
    *,
    has_entries: bool,
) -> Found:
    operand, count = options["operator_or_matrix"], options["num_matvecs"]
    vectors = probing_vectors(
        options["method"],
        count,
        dim=operand.shape[0],
        itemsize=max(4, itemsize(operand)),
        has_entries=has_entries,
        memory=options["memory"],
    )
    step, found = step_of_products(
        operand,
        effort / 2,
        name=name,
        count=count,
        most=count,
        width=vectors.width,
        basis=vectors.during,
        afterwards=vectors.most,
        beside=seconds_beside(
            function,
            operand,
            {name: options[name] for name in ("method", "memory")},
            sizes="num_matvecs",
            least=min(count, _FEWEST_PROBES),
            total=count,
            effort=effort / 2,
        ),
    )
    return [step], [], found


def _apply_function(options: Options, effort: float) -> Found:
    vectors = options["vectors"]
    width = 1 if vectors.ndim == 1 else vectors.shape[1]
    steps = min(options["max_steps"], options["operator_or_matrix"].shape[0])
    typical = min(_TYPICAL_STEPS, steps)
    step, found = step_of_products(
        options["operator_or_matrix"],
        effort,
        name="Lanczos steps",
        count=width * typical,
        most=width * steps,
        width=width,
        basis=width * typical,
        kept_within=resolve(options["memory"]),
        beside=typical
        * orthogonalizing_seconds(options["operator_or_matrix"], width, typical),
    )
    return [step], [], found


def _verify(options: Options, effort: float) -> Found:
    operand = options["operator_or_matrix"]
    basis = _COPIES_CHECKED * _CHECKED_TOGETHER
    if _is_promised(operand):
        vector_bytes = operand.shape[0] * itemsize(operand)
        space = in_panels(_SIGN_STEPS, vector_bytes)
        basis = max(basis, space + 4 * _CHECKED_TOGETHER)
    step, found = step_of_products(
        operand,
        effort,
        name="products for all checks",
        count=_CHECKING,
        most=_CHECKING + _SIGN_CHECKING,
        width=_CHECKED_TOGETHER,
        basis=basis,
    )
    return [step], [], found


def _is_promised(operand: Operand) -> bool:
    """Return whether a matrix promises to have no negative eigenvalue.

    A Hessian of two samples tells whether it is a Gauss-Newton matrix at less cost.
    """
    promised = isinstance(operand, Gram | StoredGram)
    problem = problem_of(operand) if isinstance(operand, LinearOperator) else None
    if not isinstance(operand, CurvatureOperator) or problem is None:
        return promised
    smaller = cast("CurvatureOperator", on_first(operand, problem.first(2)))
    return smaller.is_positive_semidefinite


def _through_spectrum(options: Options, effort: float) -> Found:
    """Return the steps of a sum over the eigenvalues, whose spectrum may be there."""
    return _of_eigenvalues(spectrum, options, effort)


def _norm(options: Options, effort: float) -> Found:
    if options["kind"] != "spectral":
        return _of_eigenvalues(spectrum, options, effort)
    pairs = {"k": 1, "which": "magnitude"}
    return _of_eigenvalues(top_eigenpairs, options, effort, **pairs)


def _of_eigenvalues(
    function: Callable[..., Any], options: Options, effort: float, **more: Any
) -> Found:
    """Return the steps of the function that gives the eigenvalues, if none does yet."""
    operand = options["operator_or_spectrum"]
    if isinstance(operand, Spectrum):
        size = len(operand.values)
        step = Step(name="sum", method=f"{size} eigenvalues that are there")
        return [step], [], ()
    bound = signature(function).bind(
        operand, **more, memory=options["memory"], **options.get("options", {})
    )
    bound.apply_defaults()
    return ESTIMATES[function](dict(bound.arguments), effort)


ESTIMATES: Final[dict[Callable[..., Any], Callable[[Options, float], Found]]] = {
    spectrum: _spectrum,
    top_eigenpairs: _top_eigenpairs,
    trace: _trace,
    diagonal: _diagonal,
    apply_function: _apply_function,
    verify: _verify,
    spectral_sum: _through_spectrum,
    log_determinant: _through_spectrum,
    norm: _norm,
}


def _exact(
    operand: Operand, effort: float, num_vectors: int, peak: int
) -> tuple[list[Step], tuple[Measurement, ...]]:
    """Return the steps of forming a matrix, on its smaller side, and solving it."""
    source = smaller_side(operand)
    size = source.shape[0]
    steps: list[Step] = []
    found: tuple[Measurement, ...] = ()
    if isinstance(operand, LinearOperator) and problem_of(operand) is not None:
        job = matrix_job(operand)
        found = job.rehearsed(effort)
        steps.append(job.step(found))
    solve = Step(
        name="eigenvalues" if not num_vectors else f"{num_vectors} eigenpairs",
        method=eigenvalue_method(size, num_vectors=num_vectors),
        reason=f"{size} rows fit, and the result is exact",
        flops=eigenvalue_flops(size, num_vectors=num_vectors),
        device_bytes=0 if _is_on_accelerator(source) else peak + extra_bytes(source),
        host_bytes=peak + extra_bytes(source),
        seconds=eigenvalue_seconds(size, num_vectors=num_vectors),
    )
    return [*steps, solve], found


def _sampled(
    operand: Operand, options: Options, method: str, effort: float
) -> tuple[list[Step], tuple[Measurement, ...]]:
    """Return the steps of an estimated density: outer pairs, then probes."""
    dim = operand.shape[0]
    outer = min(options["num_outer"], dim)
    probes, most_steps = options["max_probes"], min(options["max_steps"], dim)
    typical = min(_TYPICAL_STEPS, most_steps)
    count = outer + _TOGETHER * typical
    if options["tolerance"] == 0:
        count = outer + probes * most_steps
    together = min(_TOGETHER, probes)
    steps = most_steps if options["tolerance"] == 0 else typical
    given = {"method": method, "max_probes": together, "num_outer": 0, "tolerance": 0}
    beside = seconds_beside(
        spectrum,
        operand,
        given | {"memory": options["memory"]},
        sizes="max_steps",
        least=2,
        total=steps,
        effort=effort / 2,
    )
    step, found = step_of_products(
        operand,
        effort / 2,
        name="outer eigenpairs and probes",
        count=count,
        most=outer + probes * most_steps,
        width=_TOGETHER,
        basis=_sampled_vectors(dim * itemsize(operand), outer, typical, method),
        kept_within=resolve(options["memory"]),
        beside=beside * (count - outer) / (together * steps)
        + outer / 2 * orthogonalizing_seconds(operand, 2, outer),
    )
    return [step], found


def _sampled_vectors(vector_bytes: int, outer: int, num_steps: int, method: str) -> int:
    """Return the vectors that are held beside a product, in whole panels.

    Outer pairs come first; few of their Krylov space are kept beside the probes.
    """
    kept = outer // _OUTER_PER_PAIR
    if method == "slq":
        probes = _TOGETHER * (1 + in_panels(num_steps, _TOGETHER * vector_bytes))
    else:
        probes = _CHEBYSHEV_VECTORS * _TOGETHER
    return kept + max(in_panels(outer, vector_bytes) - _NARROWER, probes)


def _block_seconds(steps: list[Step]) -> float:
    """Return the seconds of one block of eight products in estimated steps."""
    step = steps[-1]
    return step.seconds / max(1.0, step.passes or 1.0)


def _is_on_accelerator(operand: Operand) -> bool:
    if isinstance(operand, LinearOperator | Tensor):
        return operand.device.type != "cpu"
    return False
