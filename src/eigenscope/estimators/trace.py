"""Traces from products with random vectors."""

from collections.abc import Iterable
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import require_choice
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.long_vectors import (
    inner,
    orthonormal_rows,
    pieces,
    wide_products,
)
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.probes import ProbeLaw
from eigenscope.estimators.probing import MeanOfTerms, Probing, require_products
from eigenscope.precision import widened
from eigenscope.spectra import Estimate
from eigenscope.store import Run

TraceMethod = Literal["xtrace", "hutch++", "hutchinson"]

# The terms of XTrace share their sketch: the error of their mean was 1.1 to 1.65 times
# that of independent terms, most where eigenvalues decay (four spectra, 60 seeds each).
_SHARED: Final = 1.5
_RANK: Final = 100.0  # roundings, below which a direction of a sketch is none


def require_num_matvecs(method: TraceMethod, num_matvecs: int) -> int:
    """Return the least number of products of a method, once there are as many.

    Args:
        method: As for `trace`.
        num_matvecs: Products to take.

    Returns:
        The least number.

    Raises:
        ValueError: If the method is unknown, or has too few products.
    """
    require_choice("method", method, TraceMethod)
    least = {"xtrace": 4, "hutch++": 6, "hutchinson": 2}[method]
    require_products(num_matvecs, least, method)
    return least


def trace(
    operator_or_matrix: Operand,
    *,
    method: TraceMethod = "xtrace",
    num_matvecs: int = 100,
    law: ProbeLaw | None = None,
    generator: torch.Generator | None = None,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str = "trace",
) -> Estimate:
    """Estimate tr(A) = E[vᵀAv] over random v with E[vvᵀ] = I.

    Unbiased. "hutchinson" is the plain mean over probes; with sign probes its
    variance is 2 Σ_{i≠j} A_ij² per probe, so a diagonal matrix is exact. "hutch++"
    takes the trace on the range of a sketch A S exactly and estimates the rest.
    "xtrace" uses every product for both, leaving one vector out at a time. The latter
    two are exact for matrices of low rank, and far better where eigenvalues decay.
    With at least D products the trace is exact.

    Args:
        operator_or_matrix: A symmetric operator, tensor or NumPy array.
        method: "xtrace", "hutch++" or "hutchinson".
        num_matvecs: Products to take, at least 2 ("xtrace": 4, "hutch++": 6).
        law: Distribution of the probes; None for "sphere" with "xtrace", which takes
            no other, else "sign".
        generator: Source of all randomness; a fresh one with a fixed seed if None.
        memory: Budget such as "4GiB" for the vectors; half of what is available if
            None. Fewer are multiplied together where it is small.
        run: A run that is open for writing: every product is left there, and taken
            from there again.
        name: Name of this estimate within the run.

    Returns:
        The trace and its standard error, in units of A's entries.

    Raises:
        ValueError: If the matrix is not square or a product not finite; if there are
            too few products, the vectors do not fit the budget, or an option is
            unknown.
        TypeError: If it is no matrix of real floating-point numbers.
        Interrupted: On Ctrl-C, with the estimate from the products there are.

    Cost:
        `num_matvecs` products; memory for 2.5 ("xtrace"), 4/3 ("hutch++") or none
        ("hutchinson") times as many vectors, and for those multiplied together.

    References:
        Hutchinson (1989), Commun. Stat. Simul. Comput. 18; Meyer, Musco, Musco,
        Woodruff (2021), Hutch++; Epperly, Tropp, Webber (2024), XTrace, SIAM J. Matrix
        Anal. Appl. 45(1).

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
        >>> trace(A, method="hutchinson", num_matvecs=2).value
        6.0
    """
    least = require_num_matvecs(method, num_matvecs)
    law = law or ("sphere" if method == "xtrace" else "sign")
    if method == "xtrace" and law != "sphere":
        require_choice("law", law, ProbeLaw)
        raise ValueError(
            f"law must be 'sphere' (or None) with method='xtrace'; got {law!r}, under "
            "which its standard error would be too small. Use 'hutch++'."
        )
    work = Probing(
        operator_or_matrix,
        num_matvecs=num_matvecs,
        least=least,
        law=law,
        method=method,
        term=inner,
        has_entries=False,
        generator=generator,
        memory=memory,
        run=run,
        name=name,
    )
    try:
        if num_matvecs >= work.products.dim and method != "hutchinson":
            return work.finished(float(work.exact_diagonal().sum()), 0.0)
        estimators = {
            "xtrace": _xtrace,
            "hutch++": _hutch_plus_plus,
            "hutchinson": _hutchinson,
        }
        return work.finished(*estimators[method](work))
    except KeyboardInterrupt:
        raise Interrupted(work.partial()) from None


def _hutchinson(work: Probing) -> tuple[float, float, int]:
    """The mean of vᵀAv."""
    groups = work.groups("probes", work.num_matvecs)
    return _mean(inner(v, image) for v, image in groups)


def _hutch_plus_plus(work: Probing) -> tuple[float, float, int]:
    """tr(QᵀAQ) and the mean of vᵀ(I - QQᵀ)A(I - QQᵀ)v."""
    third = work.num_matvecs // 3
    basis = work.range_of_sketch(third)
    known = sum(
        float(inner(rows, images).sum()) for rows, images in work.parts("range", basis)
    )
    rest = work.num_matvecs - third - len(basis)
    groups = work.groups("probes", rest, without=basis)
    mean, stderr, count = _mean(inner(v, image) for v, image in groups)
    return known + mean, stderr, count


def _xtrace(work: Probing) -> tuple[float, float, int]:
    """Each probe in turn estimates what the sketch by all others leaves."""
    count = work.num_matvecs // 2
    probes, sketch = work.sketch(count)
    basis, triangle = orthonormal_rows(sketch)
    images = work.images("range", basis)
    inside = wide_products(basis, images)  # H = QᵀAQ
    sizes = torch.linalg.svdvals(triangle)
    if float(sizes[-1]) <= _RANK * work.products.epsilon * float(sizes[0]):
        # The sketch spans the whole range: nothing is left for a probe to see.
        return float(inside.trace()), 0.0, count
    left_out = torch.linalg.inv(triangle).T  # column i is normal to all but sketch i
    left_out /= torch.linalg.vector_norm(left_out, dim=0)
    coefficients = wide_products(basis, probes)  # column i is Qᵀv_i
    along = (left_out * coefficients).sum(0)
    # v_i less its part in the range of the other vectors' sketch, and its image.
    taken = (coefficients - left_out * along).T
    squares, crossed = torch.zeros_like(along), torch.zeros_like(along)
    for part in pieces(work.products.dim):
        rest = widened(probes[:, part]) - taken @ widened(basis[:, part])
        rest_images = widened(sketch[:, part]) - taken @ widened(images[:, part])
        squares += (rest * rest).sum(1)
        crossed += (rest * rest_images).sum(1)
    # Given the other probes, the rest is uniform on a sphere: its length is known.
    scale = (work.products.dim - count + 1) / squares
    terms = inside.trace() - ((inside @ left_out) * left_out).sum(0)
    mean, stderr, _ = _mean([terms + scale * crossed])
    return mean, _SHARED * stderr, count


def _mean(groups: Iterable[Float[Tensor, "probe"]]) -> tuple[float, float, int]:
    """Mean of the terms of all groups, its standard error, and their number."""
    mean = MeanOfTerms()
    for terms in groups:
        mean.add(terms)
    return mean.result()
