"""The steps of spectra, eigenpairs and traces of an operator."""

from collections.abc import Callable
from inspect import signature
from typing import Any, Final, cast

import numpy as np
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
from eigenscope.estimators.basis import panel_size
from eigenscope.estimators.dense import pairs_bytes, smaller_side, spectrum_bytes
from eigenscope.estimators.eigenpairs import (
    chosen_pairs_method,
    default_block_size,
    takes_raised_pairs,
)
from eigenscope.estimators.lapack import MOST_ROWS, peak_bytes
from eigenscope.estimators.matrices import Operand, extra_bytes
from eigenscope.estimators.probing_vectors import probing_vectors
from eigenscope.estimators.whole import chosen_method
from eigenscope.operators import CurvatureOperator, LinearOperator
from eigenscope.planning.factorizations import (
    eigenvalue_flops,
    eigenvalue_method,
    eigenvalue_seconds,
    product_seconds,
)
from eigenscope.planning.operators import matrix_job, product_job, raising_job
from eigenscope.planning.plan import Alternative, Step
from eigenscope.planning.rehearsal import Measurement
from eigenscope.planning.smaller import problem_of
from eigenscope.spectra import Spectrum

Options = dict[str, Any]
Found = tuple[list[Step], list[Alternative], tuple[Measurement, ...]]
_TOGETHER: Final = 8
_TYPICAL_STEPS: Final = 48
_PRODUCTS_PER_PAIR: Final = 12
_OUTER_PER_PAIR, _NARROWER = 4, 18  # three copies of blocks of 2 instead of 8
_CHEBYSHEV_VECTORS: Final = 6
_CHECKING, _SIGN_CHECKING, _CHECKED_TOGETHER, _COPIES_CHECKED = 32, 28, 4, 12


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
    step, found = _products(
        operand,
        effort,
        name="block Lanczos",
        count=min(most, _PRODUCTS_PER_PAIR * k + 40),
        most=most,
        width=options["block_size"] or default_block_size(operand),
        basis=2 * k + 20,
        kept_within=resolve(options["memory"]),
    )
    return [step], [], found


def _raised_pairs(operand: CurvatureOperator, k: int, effort: float) -> Found:
    """Return the steps of pairs from the side of the outputs."""
    small = cast("LinearOperator", smaller_side(operand))
    solving = peak_bytes(small.shape[0], num_vectors=k)
    steps, found = _exact(operand, effort / 2, k, solving)
    job = raising_job(operand, k)
    vectors = job.rehearsed(effort / 2)
    return [*steps, job.step(vectors)], [], (*found, *vectors)


def _trace(options: Options, effort: float) -> Found:
    return _probing(options, effort, f"trace by {options['method']}", has_entries=False)


def _diagonal(options: Options, effort: float) -> Found:
    return _probing(options, effort, "estimate of the diagonal", has_entries=True)


def _probing(options: Options, effort: float, name: str, *, has_entries: bool) -> Found:
    operand, count = options["operator_or_matrix"], options["num_matvecs"]
    vectors = probing_vectors(
        options["method"],
        count,
        dim=operand.shape[0],
        itemsize=max(4, _itemsize(operand)),
        has_entries=has_entries,
        memory=options["memory"],
    )
    step, found = _products(
        operand,
        effort,
        name=name,
        count=count,
        most=count,
        width=vectors.width,
        basis=vectors.during,
        afterwards=vectors.most,
    )
    return [step], [], found


def _apply_function(options: Options, effort: float) -> Found:
    vectors = options["vectors"]
    width = 1 if vectors.ndim == 1 else vectors.shape[1]
    steps = min(options["max_steps"], options["operator_or_matrix"].shape[0])
    typical = min(_TYPICAL_STEPS, steps)
    step, found = _products(
        options["operator_or_matrix"],
        effort,
        name="Lanczos steps",
        count=width * typical,
        most=width * steps,
        width=width,
        basis=width * typical,
        kept_within=resolve(options["memory"]),
    )
    return [step], [], found


def _verify(options: Options, effort: float) -> Found:
    step, found = _products(
        options["operator_or_matrix"],
        effort,
        name="products for all checks",
        count=_CHECKING,
        most=_CHECKING + _SIGN_CHECKING,
        width=_CHECKED_TOGETHER,
        basis=_COPIES_CHECKED * _CHECKED_TOGETHER,
    )
    return [step], [], found


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
    step, found = _products(
        operand,
        effort,
        name="outer eigenpairs and probes",
        count=count,
        most=outer + probes * most_steps,
        width=_TOGETHER,
        basis=_sampled_vectors(dim * _itemsize(operand), outer, typical, method),
        kept_within=resolve(options["memory"]),
    )
    return [step], found


def _sampled_vectors(vector_bytes: int, outer: int, num_steps: int, method: str) -> int:
    """Return the vectors that are held beside a product, in whole panels.

    Outer pairs come first; few of their Krylov space are kept beside the probes.
    """
    kept = outer // _OUTER_PER_PAIR
    if method == "slq":
        probes = _TOGETHER * (4 + _in_panels(num_steps, _TOGETHER * vector_bytes))
    else:
        probes = _CHEBYSHEV_VECTORS * _TOGETHER
    return kept + max(_in_panels(outer, vector_bytes) - _NARROWER, probes)


def _in_panels(count: int, vector_bytes: int) -> int:
    rows = panel_size(max(1, vector_bytes))
    return -(-count // rows) * rows


def _products(
    operand: Operand,
    effort: float,
    *,
    name: str,
    count: int,
    most: int,
    width: int,
    basis: int,
    afterwards: int = 0,
    kept_within: int | None = None,
) -> tuple[Step, tuple[Measurement, ...]]:
    """Return a step of products with blocks, and orthogonalization against a basis.

    `basis` vectors are held beside the products, `afterwards` when these are over;
    what exceeds `kept_within` bytes of the basis is on disk.
    """
    dim, width = operand.shape[0], min(width, max(1, count))
    item = _itemsize(operand)
    orthogonal = 4 * dim * basis
    found: tuple[Measurement, ...] = ()
    if isinstance(operand, LinearOperator) and problem_of(operand) is not None:
        job = product_job(operand, width)
        found = job.rehearsed(effort)
        one = job.step(found)
    else:
        flops = 2.0 * dim * dim * width
        one = Step(
            name=name,
            method="matrix products",
            flops=flops,
            seconds=4 * flops * product_seconds(),  # narrow blocks read, hardly compute
        )
    blocks = count / width
    seconds = blocks * (one.seconds + width * orthogonal * 2 * product_seconds())
    recorded = max(0, one.device_bytes - 3 * width * dim * item)
    whole = basis * dim * item
    kept = whole if kept_within is None else min(whole, kept_within)
    held = max(one.device_bytes + kept, recorded + afterwards * dim * item)
    on_host = held if one.host_bytes or not found else 0
    step = Step(
        name=name,
        method=one.method,
        reason=f"{count} products expected, {most} at most",
        passes=blocks * one.passes,
        forward=blocks * one.forward,
        backward=blocks * one.backward,
        flops=blocks * (one.flops + width * orthogonal),
        device_bytes=held,
        host_bytes=on_host,
        disk_bytes=whole - kept,
        seconds=seconds,
        at_most=seconds * most / count,
    )
    return step, found


def _block_seconds(steps: list[Step]) -> float:
    """Return the seconds of one block of eight products in estimated steps."""
    step = steps[-1]
    return step.seconds / max(1.0, step.passes or 1.0)


def _itemsize(operand: Operand) -> int:
    if isinstance(operand, np.ndarray):
        return operand.dtype.itemsize
    return operand.dtype.itemsize


def _is_on_accelerator(operand: Operand) -> bool:
    if isinstance(operand, LinearOperator | Tensor):
        return operand.device.type != "cpu"
    return False
