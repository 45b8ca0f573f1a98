"""The smaller of F Fᵀ and FᵀF for many groups of parameters, from shared passes.

F is the parameter Jacobian of some rows of every sample. The kernel engine gives F Fᵀ
of all groups of more parameters than rows from one set of backward passes and forms no
gradient that it need not; FᵀF of all others comes from a second set.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope._types import JsonValue
from eigenscope.budget import format_bytes, resolve
from eigenscope.distributed import Ranks
from eigenscope.jacobian import ParameterEngine
from eigenscope.kernels import KernelEngine
from eigenscope.kernels.matrices import engine_matrices
from eigenscope.kernels.triangles import add_lower_product, mirror_lower
from eigenscope.operators.base import SymmetricOperator
from eigenscope.operators.parameter_jacobian import ParameterJacobian
from eigenscope.operators.streams import sum_dtype

EngineOf = Callable[[Sequence[str]], ParameterEngine]


@final
class SmallSides:
    """F Fᵀ or FᵀF of groups of parameters, all computed when one is asked for.

    A matrix is given away once, so that those of many layers are not all kept; asked
    for again, it is computed again.

    Args:
        engine_of: From names of parameters to what differentiates the rows of F.
        groups: Names of the parameters of each group; no two share one.
        num_entries: Entries of every parameter.
        num_rows: Rows of F.
        signs: ±1 for each row of a sample, D in Fᵀ D F; None for all +1.
        dtype: Of the parameters.
        memory: Budget for the matrices and what is kept to compute them.
        ranks: Who shares the work.

    Attributes:
        ranks: The same.
    """

    def __init__(
        self,
        engine_of: EngineOf,
        groups: Sequence[Sequence[str]],
        *,
        num_entries: Mapping[str, int],
        num_rows: int,
        signs: Float[Tensor, " row"] | None,
        dtype: torch.dtype,
        memory: str | int | None,
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self._engine_of = engine_of
        self._groups = [tuple(names) for names in groups]
        self._num_rows = num_rows
        self._signs = signs
        self._dtype = sum_dtype(dtype)
        self._memory = memory
        self._sizes = [sum(num_entries[name] for name in names) for names in groups]
        self._found: dict[int, Tensor] = {}

    @property
    def num_groups(self) -> int:
        """Groups that share the passes."""
        return len(self._groups)

    def has_few_rows(self, place: int) -> bool:
        """Whether F has fewer rows than a group has parameters."""
        return self._num_rows < self._sizes[place]

    def take(self, place: int) -> Tensor:
        """Return the matrix of one group: F Fᵀ, or FᵀF (with signs Fᵀ D F).

        Args:
            place: Number of the group.

        Returns:
            The matrix, which is not kept.

        Raises:
            ValueError: If it does not fit the budget.
        """
        if place not in self._found:
            self._compute(place)
        return self._found.pop(place)

    def column_side(self, place: int) -> Tensor:
        """Return FᵀF (with signs Fᵀ D F) of one group, whichever side is smaller.

        Args:
            place: Number of the group.

        Returns:
            The matrix.

        Raises:
            ValueError: If it does not fit the budget.
        """
        free = self._free_bytes([self._sizes[place]])
        return self._column_sides([place], free)[place]

    def _compute(self, place: int) -> None:
        """Compute all matrices of the kind of one, or that one if all are too many."""
        few = self.has_few_rows(place)
        alike = range(self.num_groups)
        together = [i for i in alike if self.has_few_rows(i) == few]
        sizes = [min(self._num_rows, self._sizes[i]) for i in together]
        if self._bytes(sizes) > resolve(self._memory) // 2:
            together, sizes = [place], [min(self._num_rows, self._sizes[place])]
        compute = self._row_sides if few else self._column_sides
        self._found.update(compute(together, self._free_bytes(sizes)))

    def _bytes(self, sizes: Sequence[int]) -> int:
        return sum(size * size for size in sizes) * self._dtype.itemsize

    def _free_bytes(self, sizes: Sequence[int]) -> int:
        """Return what square matrices leave of the budget.

        Raises:
            ValueError: If it is nothing.
        """
        budget, needed = resolve(self._memory), self._bytes(sizes)
        if needed >= budget:
            raise ValueError(
                f"the {sizes[0]} × {sizes[0]} matrix takes {format_bytes(needed)} and "
                "must fit the memory budget of the operator, "
                f"{format_bytes(budget)}. Give more with memory=, take fewer samples, "
                "or estimate the spectrum: method='slq'."
            )
        return budget - needed

    def _engine(self, places: Sequence[int]) -> ParameterEngine:
        return self._engine_of([name for i in places for name in self._groups[i]])

    def _row_sides(self, places: Sequence[int], free_bytes: int) -> dict[int, Tensor]:
        engine = self._engine(places)
        kernels = KernelEngine(
            engine.problem,
            outputs="full",
            method="auto",
            free_bytes=free_bytes,
            source=engine,
        )
        groups = {name: str(i) for i in places for name in self._groups[i]}
        return {int(i): m for i, m in engine_matrices(kernels, groups).items()}

    def _column_sides(
        self, places: Sequence[int], free_bytes: int
    ) -> dict[int, Tensor]:
        engine = self._engine(places)
        jacobian = ParameterJacobian(engine.problem, engine=engine)
        found = {
            i: torch.zeros(self._sizes[i], self._sizes[i], dtype=self._dtype).to(
                engine.problem.device
            )
            for i in places
        }
        with self.ranks.together():
            for panel in jacobian.row_panels(free_bytes):
                for i in places:
                    names = self._groups[i]
                    columns = [panel[:, jacobian.columns[name]] for name in names]
                    self._add_rows(found[i], columns)
        for matrix in found.values():
            with self.ranks.sum_over_ranks(matrix):
                pass
            if self._signs is None:
                mirror_lower(matrix)
        return found

    def _add_rows(self, total: Tensor, columns: Sequence[Tensor]) -> None:
        """Add FᵀF, or Fᵀ D F, for some rows of F, its columns in parts."""
        rows = columns[0] if len(columns) == 1 else torch.cat(list(columns), 1)
        if self._signs is None:
            add_lower_product(total, rows.T, fresh=False)
        else:
            signs = self._signs.repeat(len(rows) // len(self._signs))
            total += (rows.T * signs.to(rows)) @ rows


@final
class RowSide(SymmetricOperator):
    """F Fᵀ, or with signs D on the rows K^½ D K^½ for K = F Fᵀ.

    It has the non-zero eigenvalues of FᵀF, or Fᵀ D F.

    Args:
        sides: What computes F Fᵀ.
        place: Number of the group of parameters.
        num_rows: Rows of F.
        signs: ±1 for each row of a sample; None for all +1.
        device: Where.
        dtype: Of products.
    """

    def __init__(
        self,
        sides: SmallSides,
        place: int,
        *,
        num_rows: int,
        signs: Float[Tensor, " row"] | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._sides, self._place = sides, place
        self._num_rows, self._signs = num_rows, signs
        self._device, self._dtype = device, dtype

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self._num_rows, self._num_rows

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    @override
    def device(self) -> torch.device:
        return self._device

    @property
    @override
    def ranks(self) -> Ranks:
        return self._sides.ranks

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return self.dense().to(block.dtype) @ block

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        return self.dense().diagonal()

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        kernel = self._sides.take(self._place)
        if self._signs is None:
            return kernel
        values, vectors = torch.linalg.eigh(kernel)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        signs = self._signs.repeat(len(kernel) // len(self._signs)).to(kernel)
        return (root * signs) @ root

    @override
    def remarks(self) -> dict[str, JsonValue]:
        side = "samples × outputs"
        if self._signs is not None:
            side += ", both signs"
        return {"side": side, "blocks_together": self._sides.num_groups}
