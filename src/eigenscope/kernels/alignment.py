"""How alike two kernels are, and how well conditioned one is."""

from dataclasses import dataclass
from typing import Final, cast, final

import torch
from jaxtyping import Float, Num
from torch import Tensor

from eigenscope.budget import require_fits
from eigenscope.precision import wide_device, widened

_WIDE: Final = 8  # bytes of a number in float64
_CONDITION_BYTES: Final = 3 * _WIDE  # matrix, mirror image and the gaps between them
_ALIGNED_BYTES: Final = 5 * _WIDE  # two matrices, centered anew, and their product
_MATRIX = (
    "{} must be a square matrix (n, n) or a full kernel (n, n, k, k) of one set of "
    "samples; got shape {}. Leave out x2."
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionNumber:
    """κ = λ_max / λ_min of a symmetric matrix, and whether λ_min could be resolved.

    Attributes:
        value: κ; infinite if λ_min is zero or below.
        largest: λ_max.
        smallest: λ_min.
        noise_floor: ε · λ_max · √D of the matrix's own precision.
        is_resolved: Whether λ_min is above the noise floor; if not, κ is only known
            to be at least about λ_max / noise_floor.
    """

    value: float
    largest: float
    smallest: float
    noise_floor: float
    is_resolved: bool


def condition_number(
    kernel: Num[Tensor, "..."], *, memory: str | int | None = None
) -> ConditionNumber:
    """κ = λ_max / λ_min of a kernel matrix, computed in float64.

    Args:
        kernel: (n, n), or (n, n, k, k), which is taken as the (n·k) × (n·k) matrix.
        memory: Budget such as "4GiB"; half of what is available if None.

    Returns:
        The number with the two eigenvalues and what is rounding.

    Raises:
        ValueError: If the kernel is no square matrix, not symmetric, not finite, has
            no positive eigenvalue, or does not fit the budget.

    Cost:
        About 4/3 D³ operations and 24 D² bytes.

    Example:
        >>> condition_number(torch.diag(torch.tensor([4.0, 1.0]))).value
        4.0
    """
    _require_room(kernel, memory, each=_CONDITION_BYTES)
    matrix = _as_matrix(kernel, "kernel")
    dtype = kernel.dtype if kernel.is_floating_point() else matrix.dtype
    epsilon = torch.finfo(dtype).eps
    _require_symmetric(matrix, epsilon)
    values = torch.linalg.eigvalsh(matrix)
    smallest, largest = float(values[0]), float(values[-1])
    if largest <= 0:
        raise ValueError(
            "a condition number needs a kernel with a positive eigenvalue; the largest "
            f"is {largest:g}. Is its sign right, and does it depend on the samples?"
        )
    floor = epsilon * largest * len(matrix) ** 0.5
    return ConditionNumber(
        value=largest / smallest if smallest > 0 else float("inf"),
        largest=largest,
        smallest=smallest,
        noise_floor=floor,
        is_resolved=smallest > floor,
    )


def kernel_alignment(
    a: Float[Tensor, "..."],
    b: Float[Tensor, "..."],
    *,
    centered: bool = False,
    memory: str | int | None = None,
) -> float:
    """⟨A, B⟩ / (‖A‖ ‖B‖) in the Frobenius inner product: the cosine of two kernels.

    As between a trace NTK and the conjugate kernel, or one kernel at two times.

    Args:
        a: (n, n), or (n, n, k, k).
        b: A kernel of the same shape.
        centered: Whether to take H A H and H B H, H = I - 11ᵀ/n, first.
        memory: Budget such as "4GiB"; half of what is available if None.

    Returns:
        A number between -1 and 1, at least 0 for positive semi-definite kernels.

    Raises:
        ValueError: If the shapes differ or are no kernels', or a kernel is zero, not
            finite, or does not fit the budget.

    Cost:
        40 bytes for each entry of a kernel.

    References:
        Cristianini, Shawe-Taylor, Elisseeff, Kandola (2001), NIPS 14; centered: Cortes,
        Mohri, Rostamizadeh (2012), JMLR 13, eq. 3.

    Example:
        >>> round(kernel_alignment(torch.eye(2), torch.ones(2, 2)), 4)
        0.7071
    """
    if a.shape != b.shape:
        raise ValueError(
            f"two kernels must have the same shape; got {tuple(a.shape)} and "
            f"{tuple(b.shape)}. Take outputs='trace' to compare with a conjugate "
            "kernel."
        )
    _require_room(a, memory, each=_ALIGNED_BYTES)
    matrices = [_scaled(_as_matrix(a, "a")), _scaled(_as_matrix(b, "b"))]
    if centered:
        matrices = [_centered(matrix) for matrix in matrices]
    norms = [float(matrix.norm()) for matrix in matrices]
    if not all(norms):
        raise ValueError(
            "alignment needs kernels that are not zero; "
            f"{'a' if norms[0] == 0 else 'b'} is"
            f"{', once centered' if centered else ''}. Take other samples."
        )
    return float((matrices[0] * matrices[1]).sum()) / norms[0] / norms[1]


def kernel_target_alignment(
    kernel: Num[Tensor, "sample sample"],
    targets: Num[Tensor, "..."],
    *,
    centered: bool = False,
    memory: str | int | None = None,
) -> float:
    """⟨K, YYᵀ⟩ / (‖K‖ ‖YYᵀ‖): the cosine between a kernel and the ideal one.

    Args:
        kernel: (n, n), such as a trace NTK or a conjugate kernel.
        targets: Classes as integers (n,) or (n, 1), for which Y is one-hot, or numbers
            (n,) or (n, m) that are Y themselves, one-hot integers (n, m) among them.
        centered: As for `kernel_alignment`.
        memory: Budget such as "4GiB"; half of what is available if None.

    Returns:
        A number between 0 and 1 for a positive semi-definite kernel.

    Raises:
        TypeError: If targets are no tensor.
        ValueError: If there is not one target per row, or the kernel does not fit the
            budget.

    Cost:
        48 bytes for each entry of the kernel.

    Example:
        >>> round(kernel_target_alignment(torch.eye(2), torch.tensor([0, 1])), 12)
        1.0
    """
    if not isinstance(cast("object", targets), Tensor):
        raise TypeError(
            "targets must be a tensor of classes or numbers; got "
            f"{type(targets).__name__}. Pass torch.tensor(targets)."
        )
    if kernel.ndim != 2 or targets.ndim not in {1, 2} or len(targets) != len(kernel):
        raise ValueError(
            "target alignment needs a kernel (n, n) and n targets; got shapes "
            f"{tuple(kernel.shape)} and {tuple(targets.shape)}. Take outputs='trace'."
        )
    _require_room(kernel, memory, each=_ALIGNED_BYTES + _WIDE)
    if targets.is_floating_point() or (targets.ndim == 2 and targets.shape[1] > 1):
        y = _scaled(widened(targets))
        y = y.unsqueeze(1) if y.ndim == 1 else y
    else:
        _, classes = targets.flatten().unique(return_inverse=True)
        y = widened(torch.nn.functional.one_hot(classes))
    return kernel_alignment(
        kernel,
        (y @ y.T).to(wide_device(kernel.device)),
        centered=centered,
        memory=memory,
    )


def _require_room(kernel: Tensor, memory: str | int | None, *, each: int) -> None:
    require_fits(
        each * kernel.numel(),
        memory,
        what=f"the kernel's {kernel.numel()} entries in float64 and what they are "
        "compared with",
        way_out="or take some of the samples",
    )


def _as_matrix(kernel: Tensor, name: str) -> Float[Tensor, "row row"]:
    if kernel.ndim == 4:
        n, k = kernel.shape[0], kernel.shape[2]
        if kernel.shape == (n, n, k, k):
            kernel = kernel.transpose(1, 2).reshape(n * k, n * k)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not len(kernel):
        raise ValueError(_MATRIX.format(name, tuple(kernel.shape)))
    matrix = widened(kernel.detach())
    if not bool(matrix.isfinite().all()):
        raise ValueError(
            f"{name} must be finite; it holds NaN or infinity. Look for samples whose "
            "kernel overflows, or compute it in float64."
        )
    return matrix


def _require_symmetric(matrix: Tensor, epsilon: float) -> None:
    """Raise if an entry differs from its mirror image by more than √ε of the largest.

    Raises:
        ValueError: Naming the two entries.
    """
    gap = (matrix - matrix.T).abs()
    if bool(gap.max() > epsilon**0.5 * matrix.abs().max()):
        i, j = divmod(int(gap.argmax()), len(matrix))
        raise ValueError(
            f"kernel must be symmetric; entry ({i}, {j}) is {float(matrix[i, j]):g} "
            f"and ({j}, {i}) is {float(matrix[j, i]):g}. Take the kernel of one "
            "set of samples: leave out x2."
        )


def _scaled(matrix: Tensor) -> Tensor:
    """Return the matrix over its largest entry, whose squares are numbers."""
    return matrix / matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)


def _centered(matrix: Tensor) -> Tensor:
    rows = matrix - matrix.mean(0, keepdim=True)
    return rows - rows.mean(1, keepdim=True)
