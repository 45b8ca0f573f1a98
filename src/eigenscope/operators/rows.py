"""Jacobians whose rows come a block at a time."""

from abc import abstractmethod
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from eigenscope.budget import format_bytes
from eigenscope.operators.base import LinearOperator
from eigenscope.operators.panels import gathered

_ROWS_TOGETHER = 2048


class Jacobian(LinearOperator):
    """A Jacobian whose rows come a block at a time."""

    @abstractmethod
    def row_blocks(self) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        """Yield (first row, block of own rows) in order; a block is reused later."""

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

    def row_panels(self, max_bytes: int) -> Iterator[Float[Tensor, "row column"]]:
        """Yield this rank's rows in panels of at most `max_bytes`, or of one block.

        Args:
            max_bytes: Memory for one panel.

        Yields:
            Panels from top to bottom; their memory is used again.
        """
        row_bytes = self.shape[1] * self.dtype.itemsize
        if self.ranks.size == 1 and self.shape[0] * row_bytes <= max_bytes:
            yield self.dense()
            return
        together = max_bytes // (4 * row_bytes)  # blocks need memory, too
        yield from gathered(self.row_blocks(), min(_ROWS_TOGETHER, together))

    @abstractmethod
    def squared_row_norms(self) -> Float[Tensor, " row"]:
        """Return the diagonal of A Aᵀ without the matrix."""

    @abstractmethod
    def squared_column_norms(self) -> Float[Tensor, " column"]:
        """Return the diagonal of AᵀA without the matrix."""
