"""Top eigenvectors of a run's Gram matrices: computed once, saved, read again."""

import math
from pathlib import Path
from typing import Literal

import numpy as np

from eigenscope.estimators import top_eigenpairs
from eigenscope.operators import InputJacobian, StoredGram, SymmetricOperator, gram
from eigenscope.spectra import Eigenpairs, Spectrum
from eigenscope.store import Run

VectorSide = Literal["rows", "columns"]


def write_eigenpairs(
    run: Run,
    name: str,
    *,
    jacobian: InputJacobian,
    stored: StoredGram,
    found: Spectrum,
    num_vectors: int,
    memory: str | int | None,
) -> None:
    """Save top eigenvectors, unless they are there.

    Of layout "outputs" they are those of 𝒥ᵀ𝒥, which have the shape of an input, also
    where 𝒥𝒥ᵀ is the smaller one (then v = 𝒥ᵀw/√λ); of layout "samples" those of the
    matrix that was diagonalized. Directions within rounding of zero are left out.

    Args:
        run: A run that is open for writing.
        name: Of the result.
        jacobian: 𝒥, read from the run.
        stored: Its Gram matrix on disk.
        found: The eigenvalues.
        num_vectors: How many to keep, at most.
        memory: The budget.
    """
    path = _path(run, name)
    if run.has(path):
        return
    side = vector_side(jacobian.layout, str(stored.array.attributes["side"]))
    matrix: SymmetricOperator = stored
    floor = found.noise_floor
    if side != stored.array.attributes["side"]:
        matrix = gram(jacobian, side=side, memory=memory)
        floor *= math.sqrt(max(jacobian.shape) / min(jacobian.shape))
    count = min(num_vectors, int(np.sum(found.values > floor)))
    if count:

        def save(target: Path) -> None:
            pairs = top_eigenpairs(matrix, count, memory=memory)
            pairs.save(target, wall_time=False)

        run.keep(path, save)


def read_eigenpairs(run: Run, name: str) -> Eigenpairs | None:
    """Return the eigenvectors of a result, or None if the run has none.

    Args:
        run: The run.
        name: Of the result.

    Returns:
        The pairs.
    """
    path = _path(run, name)
    return Eigenpairs.load(path) if path.exists() else None


def vector_side(layout: str, side: str) -> VectorSide:
    """Whose eigenvectors are kept: "columns" for 𝒥ᵀ𝒥, "rows" for 𝒥𝒥ᵀ.

    Args:
        layout: Of the Jacobian.
        side: The Gram matrix that was diagonalized.

    Returns:
        "columns" for layout "outputs", else that matrix's side.
    """
    return "columns" if layout == "outputs" or side == "columns" else "rows"


def _path(run: Run, name: str) -> Path:
    return run.results_path(f"eigenpairs_{name}.npz")
