"""Diagonals from products with random vectors."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import require_choice
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.long_vectors import inner_products
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.probing import MeanOfTerms, Probing
from eigenscope.precision import widened
from eigenscope.spectra import Estimate
from eigenscope.store import Run

DiagonalMethod = Literal["hutch++", "hutchinson"]


def diagonal(
    operator_or_matrix: Operand,
    *,
    method: DiagonalMethod = "hutchinson",
    num_matvecs: int = 100,
    generator: torch.Generator | None = None,
    memory: str | int | None = None,
    run: Run | None = None,
    name: str = "diagonal",
) -> Estimate:
    """Estimate diag(A) = E[v ∘ Av] over random v with independent entries ±1.

    Unbiased; entry i has variance Σ_{j≠i} A_ij² per probe, so a diagonal matrix is
    exact. "hutch++" first takes out the range of a sketch A S, whose part of the
    diagonal is exact: better where few eigenvalues dominate. With at least D
    products it is exact. `operator.diagonal()` is always exact, and often cheap.

    Args:
        operator_or_matrix: A symmetric operator, tensor or NumPy array.
        method: "hutchinson" or "hutch++".
        num_matvecs: Products to take, at least 2 ("hutch++": 6).
        generator: Source of all randomness; a fresh one with a fixed seed if None.
        memory: Budget such as "4GiB" for the vectors; half of what is available if
            None. Fewer are multiplied together where it is small.
        run: A run that is open for writing: every product is left there, and taken
            from there again.
        name: Name of this estimate within the run.

    Returns:
        The diagonal and the standard error of each entry, float64, on the CPU.

    Raises:
        ValueError: If the matrix is not square or a product not finite; if there are
            too few products, the vectors do not fit the budget, or an option is
            unknown.
        TypeError: If it is no matrix of real floating-point numbers.
        Interrupted: On Ctrl-C, with the plain mean over the probes there are.

    Cost:
        `num_matvecs` products; with "hutch++" memory for 4/3 as many vectors, and
        for those multiplied together.

    References:
        Bekas, Kokiopoulou, Saad (2007), Appl. Numer. Math. 57; Baston, Nakatsukasa
        (2022), Stochastic diagonal estimation.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
        >>> diagonal(A, num_matvecs=2).value.tolist()
        [1.0, 2.0, 3.0]
    """
    require_choice("method", method, DiagonalMethod)
    least = {"hutch++": 6, "hutchinson": 2}[method]
    work = Probing(
        operator_or_matrix,
        num_matvecs=num_matvecs,
        least=least,
        law="sign",
        method=method,
        term=torch.mul,
        has_entries=True,
        generator=generator,
        memory=memory,
        run=run,
        name=name,
    )
    try:
        if num_matvecs >= work.products.dim and method != "hutchinson":
            exact = work.exact_diagonal()
            return work.finished(exact, torch.zeros_like(exact))
        return work.finished(*_estimated(work))
    except KeyboardInterrupt:
        raise Interrupted(work.partial()) from None


def _estimated(
    work: Probing,
) -> tuple[Float[Tensor, "dim"], Float[Tensor, "dim"], int]:
    """diag(QQᵀA), the mean and its error of v ∘ (I - QQᵀ)Av, and how many these are."""
    known = torch.zeros(work.products.dim, dtype=torch.float64)
    basis, count = None, work.num_matvecs
    if work.method == "hutch++":
        third = count // 3
        basis = work.range_of_sketch(third)
        for rows, images in work.parts("range", basis):
            known += widened((rows * images).sum(0)).cpu()
        count -= third + len(basis)
    mean = MeanOfTerms()
    for probes, images in work.groups("probes", count):
        if basis is not None:
            inside = inner_products(images, basis).to(images)
            images.addmm_(inside, basis, alpha=-1)
        mean.add(probes * images)
    value, stderr, seen = mean.result()
    return known + value, stderr, seen
