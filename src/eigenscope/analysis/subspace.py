"""How far two subspaces, such as those of top eigenvectors, agree."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.budget import require_fits
from eigenscope.spectra import Eigenpairs

_ENTRY_BYTES: Final = 32  # float64, scaled, and the factors of QR
Vectors = Eigenpairs | Float[Tensor, "dim vector"]
Others = Eigenpairs | Float[Tensor, "other_dim other_vector"]


def subspace_overlap(
    a: Vectors, b: Others, *, memory: str | int | None = None
) -> float:
    """‖UᵀV‖²_F / min(k, l), the mean squared cosine of the principal angles.

    U (D, k) and V (D, l) are orthonormal bases of the two spans. 1 if one subspace
    contains the other, 0 if they are orthogonal, and about max(k, l)/D for random ones.
    Bases within a subspace, signs and multiplicities play no part.

    Args:
        a: Eigenpairs, or vectors as columns, linearly independent.
        b: The same.
        memory: Budget such as "4GiB"; half of what is available if None.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: If the vectors differ in length, are linearly dependent, or do not
            fit the budget.

    Cost:
        O(D (k + l)²) operations and at most 8 D (4 k + 4 l) bytes.

    References:
        Björck and Golub (1973), Math. Comp. 27, principal angles.

    Example:
        >>> eye = torch.eye(4, dtype=torch.float64)
        >>> subspace_overlap(eye[:, :2], eye[:, 1:3])
        0.5
    """
    return float(torch.cos(principal_angles(a, b, memory=memory)).square().mean())


def principal_angles(
    a: Vectors, b: Others, *, memory: str | int | None = None
) -> Float[Tensor, " angle"]:
    """Angles arccos σ_i between two subspaces, σ the singular values of UᵀV.

    Args:
        a: Eigenpairs, or vectors as columns, linearly independent.
        b: The same.
        memory: Budget such as "4GiB"; half of what is available if None.

    Returns:
        min(k, l) angles in radians, ascending, float64, on the CPU; accurate also
        where they are small.

    Raises:
        ValueError: If the vectors differ in length, are linearly dependent, or do not
            fit the budget.

    Example:
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> turned = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64)
        >>> round(float(principal_angles(eye[:, :1], turned)) / torch.pi, 9)
        0.25
    """
    entries = sum(_columns(vectors).numel() for vectors in (a, b))
    require_fits(
        _ENTRY_BYTES * entries,
        memory,
        what=f"bases of both subspaces, {entries} numbers in float64,",
        way_out="or take fewer vectors",
    )
    first, second = _basis("a", a), _basis("b", b)
    if len(first) != len(second):
        raise ValueError(
            "both subspaces must be of the same space; got vectors of length "
            f"{len(first)} and {len(second)}."
        )
    if first.shape[1] < second.shape[1]:
        first, second = second, first
    inner = first.T @ second
    cosines = torch.linalg.svdvals(inner).clamp(max=1.0)
    # arccos loses half the digits of small angles: their sines are the lengths of
    # what is outside.
    sines = torch.linalg.svdvals(second - first @ inner).flip(0).clamp(max=1.0)
    return torch.where(cosines > 0.7, torch.asin(sines), torch.acos(cosines))


def _columns(vectors: Vectors | Others) -> Tensor:
    return vectors.vectors if isinstance(vectors, Eigenpairs) else vectors


def _basis(name: str, vectors: Vectors | Others) -> Float[Tensor, "dim vector"]:
    """An orthonormal basis of the span, float64, on the CPU."""
    columns = _columns(vectors)
    if columns.ndim != 2 or not columns.shape[1] or columns.shape[1] > len(columns):
        raise ValueError(
            f"{name} must be at most D vectors as columns (D, k); got shape "
            f"{tuple(columns.shape)}. If they are rows, pass vectors.T."
        )
    wide = columns.detach().to("cpu", torch.float64)
    basis, triangle = torch.linalg.qr(wide / torch.linalg.vector_norm(wide, dim=0))
    if float(triangle.diagonal().abs().min()) < 1e-6:
        raise ValueError(
            f"{name} must be linearly independent vectors; one of its "
            f"{columns.shape[1]} is a combination of the others. Leave it out."
        )
    return basis
