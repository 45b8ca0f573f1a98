"""What every linear operator is: a shape, products both ways, a dense form."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator
from torch import Tensor
from typing_extensions import override

from eigenscope.budget import format_bytes


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

    def __matmul__(self, x: Tensor) -> Tensor:
        """Return A x for a vector (N,) or a block (N, m)."""
        return self._checked_product(x)

    @final
    def _checked_product(self, x: Tensor) -> Tensor:
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
        if x.ndim == 2:
            return self.multiply(x)
        return self.multiply(x.unsqueeze(1)).squeeze(1)

    def to_scipy(self) -> ScipyLinearOperator:
        """Return the operator for SciPy: NumPy vectors in and out, through the CPU."""

        def forward(x: np.ndarray) -> np.ndarray:
            block = torch.from_numpy(np.ascontiguousarray(x.reshape(len(x), -1)))
            return self.multiply(block.to(self.device, self.dtype)).cpu().numpy()

        def backward(y: np.ndarray) -> np.ndarray:
            block = torch.from_numpy(np.ascontiguousarray(y.reshape(len(y), -1)))
            return (
                self.multiply_transpose(block.to(self.device, self.dtype)).cpu().numpy()
            )

        products: dict[str, Any] = {
            "matvec": forward,
            "rmatvec": backward,
            "matmat": forward,
            "rmatmat": backward,
        }
        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyLinearOperator(shape=self.shape, dtype=numpy_dtype, **products)


class Jacobian(LinearOperator):
    """A Jacobian whose rows come a block at a time."""

    @abstractmethod
    def row_blocks(self) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        """Yield (first row, block of whole rows) in order; a block is reused later."""

    def column_panels(self, max_bytes: int) -> Iterator[Float[Tensor, "row column"]]:
        """Yield all columns in panels of whole columns of at most `max_bytes` each.

        Args:
            max_bytes: Memory for one panel.

        Yields:
            Panels from left to right.

        Raises:
            ValueError: If the matrix does not fit and cannot be cut into columns.
        """
        rows, columns = self.shape
        needed = rows * columns * self.dtype.itemsize
        if needed > max_bytes:
            raise ValueError(
                f"the {rows} × {columns} matrix takes {format_bytes(needed)} and must "
                f"fit in memory for this side; the budget leaves "
                f"{format_bytes(max_bytes)}. Give more memory, take side='columns', "
                "or write it to a run: es.gram(jacobian).write(run)."
            )
        yield self.dense()

    @abstractmethod
    def squared_row_norms(self) -> Float[Tensor, " row"]:
        """Return the diagonal of A Aᵀ without the matrix."""

    @abstractmethod
    def squared_column_norms(self) -> Float[Tensor, " column"]:
        """Return the diagonal of AᵀA without the matrix."""


class SymmetricOperator(LinearOperator):
    """A square operator with A = Aᵀ."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " row"]:
        """Return the exact diagonal."""


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


@final
class Dense(Jacobian):
    """A matrix in memory as an operator.

    Args:
        matrix: The matrix; kept, not copied.

    Raises:
        ValueError: If it is not two-dimensional.

    Example:
        >>> A = Dense(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        >>> (A.T @ torch.tensor([1.0, 1.0])).tolist()
        [1.0, 5.0]
    """

    def __init__(self, matrix: Float[Tensor, "row column"]) -> None:
        if matrix.ndim != 2:
            raise ValueError(
                f"matrix must have two axes; got shape {tuple(matrix.shape)}."
            )
        self._matrix = matrix

    @property
    @override
    def shape(self) -> tuple[int, int]:
        rows, columns = self._matrix.shape
        return rows, columns

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._matrix.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self._matrix.device

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return self._matrix @ block

    @override
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        return self._matrix.T @ block

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        return self._matrix

    @override
    def row_blocks(self) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        yield 0, self._matrix

    @override
    def squared_row_norms(self) -> Float[Tensor, " row"]:
        return self._matrix.square().sum(1)

    @override
    def squared_column_norms(self) -> Float[Tensor, " column"]:
        return self._matrix.square().sum(0)
