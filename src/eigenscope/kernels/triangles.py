"""Products of a matrix with its own transpose: one triangle, in place."""

import torch
from jaxtyping import Float
from scipy.linalg import get_blas_funcs
from torch import Tensor

_BLAS = (torch.float32, torch.float64)
_LEAF = 128
_COLUMNS_AT_ONCE = 4096


def add_lower_product(
    out: Float[Tensor, "row row"], factor: Float[Tensor, "row column"], *, fresh: bool
) -> None:
    """Add A Aᵀ to the lower triangle of `out` (blocks on the diagonal are whole).

    Args:
        out: Where the sum grows; of a wider dtype than A, products are taken in A's
            dtype over some thousand columns at a time and added up in the wider one.
        factor: A.
        fresh: Whether to overwrite `out`, which may then hold anything.

    Cost:
        n² m operations for an n × m factor; (n² + n·128) m for parts of matrices and
        mixed types.
    """
    size = len(factor)
    if _is_for_blas(out, factor):
        _add_by_blas(out, factor, fresh=fresh)
        return
    if size <= _LEAF:
        add_product(out, factor, factor, fresh=fresh)
        return
    half = -(-size // 2 // 64) * 64
    top, bottom = factor[:half], factor[half:]
    add_lower_product(out[:half, :half], top, fresh=fresh)
    add_product(out[half:, :half], bottom, top, fresh=fresh)
    add_lower_product(out[half:, half:], bottom, fresh=fresh)


def _is_for_blas(out: Tensor, factor: Tensor) -> bool:
    """Return whether BLAS has a product of a matrix with itself for these."""
    plain = not out.requires_grad and not factor.requires_grad
    return (
        plain
        and out.dtype == factor.dtype
        and out.dtype in _BLAS
        and out.is_cpu
        and out.is_contiguous()
        and factor.is_contiguous()
        and factor.numel() > 0
    )


def _add_by_blas(out: Tensor, factor: Tensor, *, fresh: bool) -> None:
    """Add A Aᵀ to the lower triangle, which is the upper one in Fortran's order."""
    whole = out.numpy().T
    (product,) = get_blas_funcs(("syrk",), (whole,))
    beta = float(not fresh)
    product(1.0, factor.numpy().T, beta=beta, c=whole, trans=1, overwrite_c=1)


def add_product(
    out: Float[Tensor, "left right"],
    left: Float[Tensor, "left column"],
    right: Float[Tensor, "right column"],
    *,
    fresh: bool,
) -> None:
    """Add L Rᵀ to `out`, or overwrite it if `fresh`; see `add_lower_product`."""
    if out.dtype == left.dtype:
        torch.addmm(out, left, right.T, beta=0 if fresh else 1, out=out)
        return
    if fresh:
        out.zero_()
    for start in range(0, left.shape[1], _COLUMNS_AT_ONCE):
        columns = slice(start, start + _COLUMNS_AT_ONCE)
        out += left[:, columns] @ right[:, columns].T


def mirror_lower(out: Float[Tensor, "row row"]) -> None:
    """Copy the lower triangle of `out` to the upper one, in blocks that fit a cache."""
    size = len(out)
    if size <= 256:
        out.copy_(out.tril() + out.tril(-1).T)
        return
    half = -(-size // 2 // 64) * 64
    mirror_lower(out[:half, :half])
    mirror_lower(out[half:, half:])
    out[:half, half:] = out[half:, :half].T
