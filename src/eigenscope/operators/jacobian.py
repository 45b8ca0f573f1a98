"""The input-output Jacobian of a data set as an operator."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope._types import Layout, OutputName, require_choice
from eigenscope.autodiff import writable_empty
from eigenscope.budget import parse_bytes, resolve
from eigenscope.distributed import Ranks
from eigenscope.jacobian import EngineSettings
from eigenscope.operators.computed_blocks import ComputedBlocks
from eigenscope.operators.room import require_room
from eigenscope.operators.sample_blocks import RAW_OUTPUTS, SampleBlocks
from eigenscope.operators.stored_blocks import StoredBlocks
from eigenscope.operators.streams import StreamedJacobian, sum_dtype
from eigenscope.problem import Problem
from eigenscope.store import Run


@final
class InputJacobian(StreamedJacobian):
    """𝒥, the input-output Jacobian of a data set of n samples in ℝᵈ with k outputs.

    Layout "samples": n × k·d, row i is ∂z(x_i)/∂x_i flattened, column c·d + j.
    Layout "outputs": n·k × d, row i·k + c is ∇z_c(x_i).
    Nothing is kept between products: each runs the network over the data, so for many
    products of a Jacobian that fits in memory use `Dense(jacobian.dense())`, a Gram
    matrix (`es.gram`), or `write` it to a run.

    Args:
        problem: The network, the data and the output.
        layout: "samples" or "outputs".
        engine: Engine of an earlier run, to repeat it bit for bit; None chooses.
        memory: Budget such as "4GiB" for the dense form, and half of it for the samples
            that go through the network together; None for what is free.

    Raises:
        TypeError: If the inputs cannot be differentiated.
        ValueError: If `layout` is unknown, BatchNorm is in training mode, the model
            mixes samples, or its output does not depend on its input.

    Cost:
        One pass over the data with min(k, features before the last linear layer)
        backward passes per product, dense form or norm; memory for one chunk.

    Example:
        >>> net = torch.nn.Linear(3, 2)
        >>> J = InputJacobian(Problem(net, torch.ones(5, 3)), layout="outputs")
        >>> J.shape, torch.equal((J @ torch.ones(3))[:2], net.weight.detach().sum(1))
        ((10, 3), True)
    """

    def __init__(
        self,
        problem: Problem,
        *,
        layout: Layout = "samples",
        engine: EngineSettings | None = None,
        memory: str | int | None = None,
    ) -> None:
        require_choice("layout", layout, Layout)
        if memory is not None:
            parse_bytes(memory)
        self.layout: Layout = layout
        self.memory = memory
        source = ComputedBlocks(problem, settings=engine)
        if memory is not None and engine is None:
            source = source.bounded(resolve(memory) // 2)
        self.source: SampleBlocks = source

    @classmethod
    def open(
        cls,
        run: Run,
        *,
        output: OutputName | None = None,
        layout: Layout = "samples",
        name: str = "jacobian",
    ) -> "InputJacobian":
        """Return the Jacobian that `write` stored in a run.

        Args:
            run: The run.
            output: A named output, which follows from stored logits; None takes what
                is stored, logits or a callable's numbers.
            layout: "samples" or "outputs".
            name: The array's name.

        Returns:
            An operator that reads from disk.

        Raises:
            ValueError: If an option is unknown, or a callable's Jacobian is stored
                and a named output is wanted.
            KeyError: If the run has no such array.
        """
        if output is not None:
            require_choice("output", output, OutputName)
        array, raw = run.open_array(name), run.open_array(f"{name}_{RAW_OUTPUTS}")
        return _over(StoredBlocks(array, raw, output=output), layout)

    def write(
        self, run: Run, *, name: str = "jacobian", memory: str | int | None = None
    ) -> "InputJacobian":
        """Write the Jacobian into a run, tile by tile; what is there is not redone.

        Stored are the logits' Jacobians (n, k, d) and the raw outputs, from which both
        layouts and all named outputs are read.

        Args:
            run: A run that is open for writing.
            name: The array's name.
            memory: Budget such as "4GiB", of which a tile takes at most a quarter, and
                never more than 64 MiB if that holds a chunk, and the samples that go
                through the network together half; None for half of what is
                available. A resumed run keeps its tiles and chunks.

        Returns:
            The same operator, reading from disk.

        Raises:
            ValueError: If the array that is there is of another model or data set, or
                the budget does not hold four samples' Jacobians.
            OSError: If the disk cannot take what is missing.

        Cost:
            One pass over the data for the missing tiles, n·k·d numbers on disk.
        """
        if isinstance(self.source, ComputedBlocks):
            stored = self.source.write(run, name, memory=memory)
            return _over(stored, self.layout, self.memory)
        return self

    def with_layout(self, layout: Layout) -> "InputJacobian":
        """Return the same Jacobian in another layout, without any work."""
        require_choice("layout", layout, Layout)
        return _over(self.source, layout, self.memory)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        n, k, d = self.source.shape
        return (n, k * d) if self.layout == "samples" else (n * k, d)

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self.source.device

    @property
    @override
    def ranks(self) -> Ranks:
        return self.source.ranks

    @property
    def engine(self) -> EngineSettings | None:
        """How the Jacobians are computed; None if they are read from a run."""
        if not isinstance(self.source, ComputedBlocks):
            return None
        return self.source.engine.settings

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input; its entries are the d of the layout, in C order."""
        return self.source.sample_shape

    def raw_outputs(self) -> Float[Tensor, "sample *output"]:
        """Return the network's raw outputs for all samples, in one forward pass.

        Returns:
            The outputs before any softmax; read from the run if that has them.
        """
        return self.source.raw_outputs()

    @property
    def rows_per_sample(self) -> int:
        """Rows that belong to one sample: 1, or k in layout "outputs"."""
        return 1 if self.layout == "samples" else self.source.num_outputs

    @override
    def row_blocks(self) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        columns = self.shape[1]
        for start, block in self.source.blocks():
            yield start * self.rows_per_sample, block.reshape(-1, columns)

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        left = require_room(self, self.memory)
        source = self.source if left is None else self.source.bounded(left)
        result = self._empty(self.source.shape)
        source.fill(result)
        return result.view(self.shape)

    @override
    def column_panels(self, max_bytes: int) -> Iterator[Float[Tensor, "row column"]]:
        n, k, d = self.source.shape
        outputs = max_bytes // (n * d * self.dtype.itemsize)
        if self.layout != "samples" or outputs < 1:
            yield from super().column_panels(max_bytes)
            return
        for start in range(0, k, outputs):
            part = self.source.with_outputs(start, min(start + outputs, k))
            panel = self._empty(part.shape)
            part.fill(panel)
            yield panel.flatten(1)

    def sketch(
        self, num_rows: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "row column"]:
        """S𝒥 with S ∈ {±1/√m}^{m × rows}, a Johnson-Lindenstrauss sketch: E[SᵀS] = I.

        E[(S𝒥)ᵀ(S𝒥)] = 𝒥ᵀ𝒥; ‖S𝒥v‖² has a relative standard error of at most √(2/m),
        whatever v. The non-zero eigenvalues of (S𝒥)(S𝒥)ᵀ estimate those of 𝒥𝒥ᵀ.

        Args:
            num_rows: m, at least 1.
            generator: Source of the signs, on the CPU; a fresh one with a fixed seed
                if None.

        Returns:
            The sketch.

        Raises:
            ValueError: If `num_rows` is less than 1.

        Cost:
            One pass over the data and memory for m rows.

        References:
            Achlioptas (2003), J. Comput. Syst. Sci. 66.
        """
        if num_rows < 1:
            raise ValueError(
                f"num_rows must be at least 1; got {num_rows}. Take 100 or more for "
                "a standard error of 14 %."
            )
        source = generator or torch.Generator().manual_seed(0)
        wide = sum_dtype(self.dtype)
        result = torch.zeros(num_rows, self.shape[1], dtype=wide, device=self.device)
        drawn = 0
        with self.ranks.sum_over_ranks(result):
            for start, rows in self.row_blocks():
                _signs(start - drawn, num_rows, source)  # of other ranks' rows
                signs = _signs(len(rows), num_rows, source)
                drawn = start + len(rows)
                result.addmm_(signs.to(result).T, rows.to(wide), alpha=num_rows**-0.5)
        _signs(self.shape[0] - drawn, num_rows, source)
        return result.to(self.dtype)

    def _empty(self, shape: tuple[int, int, int]) -> Tensor:
        return writable_empty(shape, dtype=self.dtype, device=self.device)


def _signs(count: int, num_rows: int, source: torch.Generator) -> Tensor:
    """Draw the signs of the next rows of a Jacobian."""
    return 2 * torch.randint(0, 2, (count, num_rows), generator=source) - 1


def _over(
    source: SampleBlocks, layout: Layout, memory: str | int | None = None
) -> InputJacobian:
    require_choice("layout", layout, Layout)
    jacobian = object.__new__(InputJacobian)
    jacobian.layout, jacobian.source, jacobian.memory = layout, source, memory
    return jacobian
