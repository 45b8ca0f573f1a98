"""What every linear operator is: a shape, products both ways, a dense form."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator
from torch import Tensor
from typing_extensions import override

from eigenscope._types import JsonValue
from eigenscope.distributed import ALONE, Ranks


class LinearOperator(ABC):
    """A linear map A ∈ ℝᴹˣᴺ that is known by its products.

    `op @ x` takes a vector (N,) or a block (N, m); `op.T` is Aᵀ.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Type of the entries, of vectors that go in and of those that come out."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where products are computed."""

    @property
    def ranks(self) -> Ranks:
        """Who shares the work of a product, all of whom must ask for it."""
        return ALONE

    @abstractmethod
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        """Return A X for a block of columns X."""

    @abstractmethod
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        """Return Aᵀ Y for a block of columns Y."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "row column"]:
        """Return A as a tensor."""

    @property
    def T(self) -> "LinearOperator":  # noqa: N802 - the name that NumPy and torch use
        """The transposed operator Aᵀ."""
        return Transpose(self)

    @final
    def __matmul__(self, x: Tensor) -> Tensor:
        """Return A x for a vector (N,) or a block (N, m); nothing is recorded.

        Raises:
            TypeError: If x is no tensor.
            ValueError: If the shape, dtype or device of x is not the operator's.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"vectors must be a torch tensor; got {type(x).__name__}. Use "
                "torch.from_numpy(x), op.to_scipy() for NumPy vectors, or A @ (B @ x) "
                "for a product of operators."
            )
        rows, columns = self.shape
        if x.ndim not in {1, 2} or len(x) != columns:
            raise ValueError(
                f"the operator is {rows} × {columns} and takes a vector ({columns},) "
                f"or a block ({columns}, m); got shape {tuple(x.shape)}. If the "
                "vectors are rows, pass vectors.T."
            )
        if x.dtype != self.dtype or x.device != self.device:
            raise ValueError(
                f"vectors must be {self.dtype} on {self.device}, as the operator is; "
                f"got {x.dtype} on {x.device}. Use x.to(op.device, op.dtype)."
            )
        x = x.detach()
        if x.ndim == 2:
            return self.multiply(x)
        return self.multiply(x.unsqueeze(1)).squeeze(1)

    def to_scipy(self) -> ScipyLinearOperator:
        """Return the operator for SciPy: NumPy vectors in and out, through the CPU.

        NumPy has no bfloat16; such an operator takes and gives float32.
        """
        outside = torch.float32 if self.dtype == torch.bfloat16 else self.dtype
        numpy_dtype = torch.empty(0, dtype=outside).numpy().dtype

        def wrapped(
            product: Callable[[Tensor], Tensor],
        ) -> Callable[[np.ndarray], np.ndarray]:
            def apply(x: np.ndarray) -> np.ndarray:
                block = torch.from_numpy(np.array(x.reshape(len(x), -1), order="C"))
                result = product(block.to(self.device, self.dtype))
                return result.to("cpu", outside).numpy()

            return apply

        forward, backward = wrapped(self.multiply), wrapped(self.multiply_transpose)
        products: dict[str, Any] = {
            "matvec": forward,
            "rmatvec": backward,
            "matmat": forward,
            "rmatmat": backward,
        }
        return ScipyLinearOperator(shape=self.shape, dtype=numpy_dtype, **products)


class SymmetricOperator(LinearOperator):
    """A square operator with A = Aᵀ."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " row"]:
        """Return the exact diagonal."""

    def smaller_side(self) -> "SymmetricOperator | None":
        """Return an operator with fewer rows and the same non-zero eigenvalues.

        None where no factorization gives one.
        """
        return None

    def remarks(self) -> dict[str, JsonValue]:
        """Return what results that were made with the operator should record."""
        return {}

    def shifted(self, shift: float) -> "SymmetricOperator":
        """Return A + σ I."""
        return Combination([(1.0, self)], shift=_number(shift))

    @final
    def __add__(self, other: "SymmetricOperator") -> "SymmetricOperator":
        """Return A + B."""
        return Combination([(1.0, self), (1.0, other)])

    @final
    def __radd__(self, other: object) -> "SymmetricOperator":
        """Return 0 + A, with which `sum(operators)` begins."""
        if isinstance(other, Real) and other == 0:
            return self
        raise TypeError(_addends(other))

    @final
    def __rsub__(self, other: object) -> "SymmetricOperator":
        """Refuse c - A.

        Raises:
            TypeError: Always: nothing that is no operator has operators subtracted.
        """
        raise TypeError(_addends(other))

    @final
    def __sub__(self, other: "SymmetricOperator") -> "SymmetricOperator":
        """Return A - B."""
        return Combination([(1.0, self), (-1.0, other)])

    @final
    def __mul__(self, factor: float | Tensor) -> "SymmetricOperator":
        """Return c A."""
        return Combination([(_number(factor), self)])

    @final
    def __truediv__(self, divisor: float | Tensor) -> "SymmetricOperator":
        """Return A / c."""
        number = _number(divisor)
        if number == 0:
            raise ValueError("an operator can be divided by any number but 0.")
        return Combination([(1 / number, self)])

    @final
    def __rmul__(self, factor: float | Tensor) -> "SymmetricOperator":
        """Return c A."""
        return self * factor

    @final
    def __neg__(self) -> "SymmetricOperator":
        """Return -A."""
        return Combination([(-1.0, self)])

    @property
    @final
    @override
    def T(self) -> LinearOperator:
        """The operator itself."""
        return self

    @final
    @override
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        """Return A Y, since A is symmetric."""
        return self.multiply(block)


@final
class Combination(SymmetricOperator):
    """Σ_i c_i A_i + σ I of symmetric operators A_i.

    Made by `A + B`, `A - B`, `c * A`, `-A` and `A.shifted(σ)`.

    Args:
        terms: Pairs (c_i, A_i), at least one.
        shift: σ.

    Raises:
        TypeError: If an A_i is no symmetric operator.
        ValueError: If they differ in shape, dtype or device.

    Attributes:
        terms: Pairs (c_i, A_i), none of which is a combination itself.
        shift: σ.
    """

    def __init__(
        self,
        terms: Sequence[tuple[float, SymmetricOperator]],
        *,
        shift: float = 0.0,
    ) -> None:
        self.terms: list[tuple[float, SymmetricOperator]] = []
        self.shift = float(shift)
        for factor, operator in terms:
            if isinstance(operator, Combination):
                self.terms += [(factor * c, part) for c, part in operator.terms]
                self.shift += factor * operator.shift
            else:
                self.terms.append((float(factor), operator))
        for _, operator in self.terms:
            _require_same_space(self.terms[0][1], operator)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.terms[0][1].shape

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self.terms[0][1].dtype

    @property
    @override
    def device(self) -> torch.device:
        return self.terms[0][1].device

    @property
    @override
    def ranks(self) -> Ranks:
        return self.terms[0][1].ranks

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        result = block * self.shift
        for factor, operator in self.terms:
            result.add_(operator.multiply(block), alpha=factor)
        return result

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        parts = (factor * operator.diagonal() for factor, operator in self.terms)
        total = torch.full(
            self.shape[:1], self.shift, dtype=self.dtype, device=self.device
        )
        return sum(parts, total)

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        result = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        for factor, operator in self.terms:
            result.add_(operator.dense(), alpha=factor)
        result.diagonal().add_(self.shift)
        return result

    @override
    def smaller_side(self) -> SymmetricOperator | None:
        if len(self.terms) > 1 or self.shift:
            return None
        factor, operator = self.terms[0]
        smaller = operator.smaller_side()
        return None if smaller is None else factor * smaller


@final
class Transpose(LinearOperator):
    """Aᵀ of an operator A."""

    def __init__(self, operator: LinearOperator) -> None:
        self._operator = operator

    @property
    @override
    def shape(self) -> tuple[int, int]:
        rows, columns = self._operator.shape
        return columns, rows

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._operator.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self._operator.device

    @property
    @override
    def ranks(self) -> Ranks:
        return self._operator.ranks

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return self._operator.multiply_transpose(block)

    @override
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        return self._operator.multiply(block)

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        return self._operator.dense().T

    @property
    @override
    def T(self) -> LinearOperator:
        return self._operator


def _require_same_space(first: SymmetricOperator, other: SymmetricOperator) -> None:
    if not isinstance(other, SymmetricOperator):
        raise TypeError(_addends(other))
    spaces = [(op.shape, op.dtype, op.device) for op in (first, other)]
    if spaces[0] != spaces[1]:
        texts = [
            f"{op.shape[0]} × {op.shape[1]}, {op.dtype} on {op.device}"
            for op in (first, other)
        ]
        raise ValueError(
            "operators that are added must have the same shape, dtype and device; got "
            f"{texts[0]} and {texts[1]}. Were they made with the same parameters?"
        )


def _addends(given: object) -> str:
    return (
        "sums and multiples are made of symmetric operators and numbers; got "
        f"{type(given).__name__}. Use A.shifted(c) for A + c I, A @ X for a product."
    )


def _number(factor: Any) -> float:
    """Return a factor as a finite number."""
    if isinstance(factor, Tensor | np.ndarray) and not factor.ndim:
        factor = factor.item()
    if not isinstance(factor, Real) or isinstance(factor, bool):
        raise TypeError(_addends(factor))
    if not math.isfinite(factor):
        raise ValueError(f"factors and shifts must be finite; got {float(factor)}.")
    return float(factor)
