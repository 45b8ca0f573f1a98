"""The parameter Jacobian of a data set as an operator."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.autodiff import large_empty, writable_empty
from eigenscope.budget import parse_bytes, resolve, rows_within
from eigenscope.distributed import Ranks
from eigenscope.jacobian import (
    Coverage,
    ParameterEngine,
    PerSample,
    Plain,
    require_finite_rows,
)
from eigenscope.operators.overflow import require_no_overflow
from eigenscope.operators.room import require_room
from eigenscope.operators.rows import Jacobian
from eigenscope.operators.stored_rows import StoredRows
from eigenscope.operators.streams import COLUMN_NORMS, ROW_NORMS, sum_dtype
from eigenscope.precision import is_finite
from eigenscope.problem import (
    Batch,
    ModelState,
    ParameterLayout,
    Problem,
)
from eigenscope.progress import progress
from eigenscope.store import Run, TiledArray

_ROW_BYTES = 64 * 2**20
_VECTORS_AT_ONCE = 32


@final
class ParameterJacobian(Jacobian):
    """J, the Jacobian of n samples' k outputs by the P parameters: n·k × P.

    Row i·k + c is ∂z_c(x_i)/∂θ; columns are the problem's parameters in
    `named_parameters()` order, each flattened in C order. Exact for any module, see
    `es.parameter_jacobian`. Products and norms never form J: linear maps, convolutions
    and tables enter by their inputs and cotangents alone. Nothing is kept between
    products, so for many products of a Jacobian that fits in memory use
    `Dense(jacobian.dense())`, or `write` it to a run.

    Args:
        problem: The network, the data, the output and the parameters.
        engine: What differentiates other numbers than the problem's output; None for
            that.
        memory: Budget such as "4GiB" for the dense form; in products a quarter of it
            is for the activations and cotangents of the samples that go through the
            network together, the rest for what becomes of them, as the patches of a
            convolution. None for what is free.

    Raises:
        ValueError: If the problem has no parameters, BatchNorm is in training mode,
            or the model mixes samples.

    Cost:
        One pass over the data with k backward passes per product, dense form or norm;
        as many as there are vectors, if fewer, for products with Jᵀ.

    Example:
        >>> net = torch.nn.Linear(3, 2)
        >>> J = ParameterJacobian(Problem(net, torch.ones(5, 3)))
        >>> J.shape, (J @ torch.ones(8)).tolist()[:2]
        ((10, 8), [4.0, 4.0])
    """

    def __init__(
        self,
        problem: Problem,
        *,
        engine: ParameterEngine | None = None,
        memory: str | int | None = None,
    ) -> None:
        if not problem.params:
            raise ValueError(
                "a parameter Jacobian needs parameters; the model has none that "
                "requires gradients. Name frozen ones: params='*' takes them all."
            )
        if memory is not None:
            parse_bytes(memory)
        self.problem, self.memory = problem, memory
        room = None if memory is None else resolve(memory) // 4
        self._engine = engine or ParameterEngine(problem, room=room)
        layout = ParameterLayout(problem.params)
        self.columns: dict[str, slice] = layout.columns
        self._num_columns = layout.size
        self._state = ModelState(problem.model)

    @property
    def chunk_size(self) -> int:
        """Samples that go through the network together."""
        return self._engine.chunk_size

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.problem.num_samples * self._engine.num_outputs, self._num_columns

    @property
    @override
    def dtype(self) -> torch.dtype:
        return next(iter(self.problem.params.values())).dtype

    @property
    @override
    def device(self) -> torch.device:
        return next(iter(self.problem.params.values())).device

    @property
    @override
    def ranks(self) -> Ranks:
        return self.problem.ranks

    @property
    def coverage(self) -> dict[str, Coverage]:
        """How each parameter is served; kept up to date as chunks are computed."""
        return self._engine.coverage

    @override
    def row_blocks(self) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        size = self._rows_at_once()
        k = self._engine.num_outputs
        shape = (min(size, self.problem.num_samples), k, self._num_columns)
        buffer = writable_empty(shape, dtype=self.dtype, device=self.device)
        for batch in self._chunks(size):
            block = buffer[: batch.size]
            self._engine.fill(batch, self._by_name(block))
            yield batch.start * k, block.view(-1, self._num_columns)

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        left = require_room(self, self.memory)
        engine = self._engine if left is None else self._engine.bounded(left)
        k = engine.num_outputs
        result = large_empty(self.shape, dtype=self.dtype, device=self.device)
        blocks = result.view(-1, k, self._num_columns)
        if self.ranks.size > 1:
            result.zero_()
        with self.ranks.sum_over_ranks(result):
            for batch in self._chunks(engine.chunk_size):
                rows = slice(batch.start, batch.start + batch.size)
                engine.fill(batch, self._by_name(blocks[rows]))
        return result

    @override
    def column_panels(self, max_bytes: int) -> Iterator[Float[Tensor, "row column"]]:
        fitting = max_bytes // max(1, self.shape[0] * self.dtype.itemsize)
        sizes = {name: c.stop - c.start for name, c in self.columns.items()}
        if self._num_columns <= fitting or max(sizes.values()) > fitting:
            yield from super().column_panels(max_bytes)
            return
        names: list[str] = []
        for name, size in sizes.items():
            if names and size + sum(sizes[own] for own in names) > fitting:
                yield self._of(names).dense()
                names = []
            names.append(name)
        yield self._of(names).dense()

    def _of(self, names: Sequence[str]) -> "ParameterJacobian":
        engine = self._engine.with_params(names)
        return ParameterJacobian(engine.problem, engine=engine)

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        k = self._engine.num_outputs
        result = self._zeros(self.problem.num_samples, k, block.shape[1])
        with self.ranks.sum_over_ranks(result, same=block):
            self._sum(partial(self._add_products, block), result)
        return result.flatten(0, 1)

    def _add_products(self, block: Tensor, batch: Batch, result: Tensor) -> None:
        """Add J X for the samples of a chunk."""
        rows = result[batch.start : batch.start + batch.size]
        with self._engine.open(batch) as chunk:
            for name, part in chunk.parts():
                for some in _groups(block.shape[1]):
                    vectors = block[self.columns[name], some].T
                    shape = self.problem.params[name].shape
                    rows[:, :, some] += part.times(vectors.reshape(-1, *shape))
        self._require_finite(batch, rows)

    @override
    def multiply_transpose(
        self, block: Float[Tensor, "row vector"]
    ) -> Float[Tensor, "column vector"]:
        k = self._engine.num_outputs
        weights = block.view(-1, k, block.shape[1])
        wide = sum_dtype(self.dtype)
        result = self._zeros(block.shape[1], self._num_columns, dtype=wide)
        with self.ranks.sum_over_ranks(result, same=block):
            self._sum(partial(self._add_transposed, weights), result)
        return result.T.to(self.dtype, memory_format=torch.contiguous_format)

    def _add_transposed(self, weights: Tensor, batch: Batch, result: Tensor) -> None:
        """Add JᵀY for the samples of a chunk to rows, one for each column of Y."""
        own = weights[batch.start : batch.start + batch.size]
        with self._engine.open(batch) as chunk:
            if own.shape[2] <= self._engine.num_outputs:
                for vector, name, product in chunk.products(own):
                    result[vector, self.columns[name]] += product.flatten()
            else:
                for name, part in chunk.parts():
                    for some in _groups(own.shape[2]):
                        sums = part.combined(own[:, :, some])
                        columns = result[some, self.columns[name]]
                        columns += sums.reshape(columns.shape)
        self._require_finite(batch, result)

    @override
    def squared_row_norms(self) -> Float[Tensor, " row"]:
        k = self._engine.num_outputs
        result = self._zeros(self.shape[0] // k, k)
        with self.ranks.sum_over_ranks(result):
            self._sum(self._add_row_norms, result)
        return require_no_overflow(result.flatten(), ROW_NORMS)

    @override
    def squared_column_norms(self) -> Float[Tensor, " column"]:
        wide = sum_dtype(self.dtype)
        result = self._zeros(self._num_columns, dtype=wide)
        with self.ranks.sum_over_ranks(result):
            self._sum(self._add_column_norms, result)
        return require_no_overflow(result.to(self.dtype), COLUMN_NORMS)

    def _add_row_norms(self, batch: Batch, result: Tensor) -> None:
        rows = result[batch.start : batch.start + batch.size]
        with self._engine.open(batch) as chunk:
            for _, part in _merged(chunk.parts()):
                rows += part.squared_norms()
        self._require_finite(batch, rows)

    def _add_column_norms(self, batch: Batch, result: Tensor) -> None:
        with self._engine.open(batch) as chunk:
            for name, part in _merged(chunk.parts()):
                result[self.columns[name]] += part.squared_sums().flatten()
        self._require_finite(batch, result)

    def _sum(self, add: Callable[[Batch, Tensor], None], result: Tensor) -> None:
        """Add up what the chunks of one pass give."""
        halving, own = self._engine.halving, len(self.problem.batches.samples)

        def added() -> None:
            result.zero_()
            for batch in self._chunks():
                add(batch, result)

        halving.repeat(added, lambda: halving.within(min(own, self._engine.chunk_size)))

    def write(
        self,
        run: Run,
        *,
        name: str = "parameter_jacobian",
        memory: str | int | None = None,
    ) -> StoredRows:
        """Write J into a run, some rows at a time; what is there is not redone.

        Args:
            run: A run that is open for writing.
            name: The array's name.
            memory: Budget of which the rows in memory take at most a third, and the
                activations and cotangents of the samples that go through the network
                together a quarter; half of what is free if None.

        Returns:
            The same matrix, read from disk.

        Raises:
            ValueError: If the k rows of one sample do not fit the budget.
            OSError: If the disk is too small; before work starts where that is known.

        Cost:
            One pass over the data for the missing tiles; n·k·P numbers on disk.
        """
        if memory is not None:
            engine = self._engine.bounded(resolve(memory) // 4)
            if engine is not self._engine:
                bounded = ParameterJacobian(self.problem, engine=engine)
                return bounded.write(run, name=name, memory=memory)
        array = self._array(run, name, resolve(memory))
        missing = [index[0] for index in run.ranks.from_first(array.missing)]
        run.require_space(len(missing) * array.tile_bytes)
        steps = self._write_tiles(array, set(self.ranks.deal(missing)))
        self.ranks.in_step(steps, rounds=-(-len(missing) // self.ranks.size))
        return StoredRows(array)

    def _write_tiles(self, array: TiledArray, mine: set[int]) -> Iterator[None]:
        """Write some tiles, one whenever the iterator is advanced."""
        k = self._engine.num_outputs
        tile = array.tile_shape[0] // k
        shape = (tile, k, self._num_columns)
        buffer = writable_empty(shape, dtype=self.dtype, device=self.device)
        self._state.require_same("ParameterJacobian")
        for batch in self._engine.whole().chunks(tile, boundary=tile):
            if batch.start // tile not in mine:
                continue
            first = batch.start % tile
            stop = first + batch.size
            self._engine.fill(batch, self._by_name(buffer[first:stop]))
            if stop == tile or batch.start + batch.size == self.problem.num_samples:
                block = buffer[:stop].flatten(0, 1).cpu().numpy()
                array.write((batch.start // tile, 0), block)
                yield

    def _require_finite(self, batch: Batch, found: Tensor) -> None:
        """Raise, naming sample and parameter, if J has spoilt what a chunk added to."""
        if not is_finite(found):
            require_finite_rows(self._engine, batch)

    def _zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return zeros that may be added to in any mode."""
        made = writable_empty(shape, dtype=dtype or self.dtype, device=self.device)
        return made.zero_()

    def _array(self, run: Run, name: str, budget: int) -> TiledArray:
        k, itemsize = self._engine.num_outputs, self.dtype.itemsize
        if name in run.array_names:
            samples = run.open_array(name).tile_shape[0] // k
        else:
            # A parameter's rows are there twice while they are computed.
            fitting = rows_within(budget, 3 * k * self._num_columns * itemsize)
            samples = min(fitting, self._rows_at_once())
        output = self.problem.output
        attributes: dict[str, Any] = {
            "output": "callable" if callable(output) else output,
            "parameters": {n: list(p.shape) for n, p in self.problem.params.items()},
            **self.problem.fingerprint(),
        }
        return run.array(
            name,
            shape=self.shape,
            dtype=str(self.dtype).removeprefix("torch."),
            tile_shape=(samples * k, self._num_columns),
            attributes=attributes,
        )

    def _rows_at_once(self) -> int:
        """Return the samples whose rows together take some tens of MiB."""
        row_bytes = self._engine.num_outputs * self._num_columns * self.dtype.itemsize
        return max(1, min(self._engine.chunk_size, _ROW_BYTES // row_bytes))

    def _chunks(
        self, size: int | None = None, *, boundary: int | None = None
    ) -> Iterator[Batch]:
        """Return the chunks of one pass.

        Returns:
            Batches of samples, in order.

        Raises:
            DataChangedError: If the model is not what it was.
        """
        self._state.require_same("ParameterJacobian")
        most = size or self._engine.chunk_size
        return progress(
            self._engine.chunks(size, boundary=boundary),
            label="Jacobian",
            total=-(-len(self.problem.batches.samples) // most),
        )

    def _by_name(self, rows: Tensor) -> dict[str, Tensor]:
        """Return views (sample, output, *parameter) of (sample, output, column)."""
        return {
            name: rows[:, :, columns].unflatten(2, self.problem.params[name].shape)
            if self.problem.params[name].ndim
            else rows[:, :, columns.start]
            for name, columns in self.columns.items()
        }


def _groups(num_vectors: int) -> Iterator[slice]:
    """Yield slices of vectors that are multiplied together."""
    for first in range(0, num_vectors, _VECTORS_AT_ONCE):
        yield slice(first, first + _VECTORS_AT_ONCE)


def _merged(
    parts: Iterable[tuple[str, PerSample]],
) -> Iterator[tuple[str, PerSample]]:
    """Yield one part per parameter: squares of sums are no sums of squares."""
    waiting: dict[str, PerSample] = {}
    for name, part in parts:
        before = waiting.get(name)
        together = part if before is None else Plain(before.tensor() + part.tensor())
        waiting[name] = together
    yield from waiting.items()
