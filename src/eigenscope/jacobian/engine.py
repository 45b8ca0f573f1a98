"""The engine behind parameter Jacobians: rules where they are proven, else autograd."""

import copy
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from eigenscope.autodiff import (
    cotangents,
    differentiable_tables,
    exactly_requiring_grad,
    recordable_batch,
    recording,
    twice_differentiable,
)
from eigenscope.jacobian.chunk import ChunkPass, Forward
from eigenscope.jacobian.chunks import COTANGENT_BYTES, choose_parameter_chunk
from eigenscope.jacobian.generic import Head, by_loop, by_vmap
from eigenscope.jacobian.independence import require_same_in_parts
from eigenscope.jacobian.mixing import at_least_two
from eigenscope.jacobian.pieces import pieces
from eigenscope.jacobian.proof import Coverage, Path, prove, reason_without_rules
from eigenscope.jacobian.rows import require_finite_gradients
from eigenscope.jacobian.rules import PerSample
from eigenscope.jacobian.sample_axes import SampleAxes
from eigenscope.problem import (
    Batch,
    Halving,
    Problem,
    left_as_found,
    require_finite_outputs,
    require_no_batch_statistics,
    transform_outputs,
)

_PROBE_SAMPLES = 2


@final
class ParameterEngine:
    """Computes ∂z_c(x_i)/∂θ for chunks of samples, without a pass per sample.

    Every chunk runs forward once and backward once per output. Autograd forms only the
    cotangents at the outputs of the functions in which data meets weights; rules make
    per-sample gradients of these. A walk over the graph of every chunk decides which
    parameters are served by rules alone; the rest is left to autograd, which is exact
    for anything. Rules and `vmap` are compared with autograd on the first samples.

    Args:
        problem: The network and its data.
        head: What is differentiated, from raw outputs and targets to (sample,
            output); the problem's output if None.
        num_outputs: Columns of what `head` returns; the problem's if None.
        room: Bytes for the activations and cotangents of a chunk, which has one
            sample at least; None for as many samples as are fast.

    Raises:
        ValueError: If BatchNorm is in training mode, the model mixes samples, or a
            reentrant checkpoint hides its parameters.

    Attributes:
        problem: The problem.
        num_outputs: k.
        chunk_size: Samples that go through the network together.
        cotangent_room: Bytes for cotangents, None if they have no bound of their own.
        halving: Makes chunks smaller where the device runs out of memory.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        head: Head | None = None,
        num_outputs: int | None = None,
        room: int | None = None,
    ) -> None:
        require_no_batch_statistics(problem.model)
        self.problem = problem
        self.num_outputs = num_outputs or problem.num_outputs
        self._head, self._room = head or self._transform, room
        self._axes = SampleAxes()
        self._has_checked_parts = False
        self.halving = Halving("gradients by the parameters")
        with self._recording():
            first = recordable_batch(problem.batches.first(_PROBE_SAMPLES))
            probe = at_least_two(first)
            self._proof = prove(
                problem, self._head, self.num_outputs, probe, self._axes
            )
            chosen, self.cotangent_room = choose_parameter_chunk(
                problem, first, cotangent_bytes=self.cotangent_bytes, room=room
            )
        wanted = problem.batches.batch_size or chosen
        self.chunk_size = wanted if room is None else min(wanted, chosen)

    @property
    def cotangent_bytes(self) -> int:
        """Bytes of the cotangents of one sample and output, of all calls together."""
        return self._proof.sample_bytes

    @property
    def coverage(self) -> dict[str, Coverage]:
        """How each parameter is served, in `named_parameters()` order."""
        return {name: self._proof.coverage[name] for name in self.problem.params}

    def with_params(self, names: Sequence[str]) -> "ParameterEngine":
        """Return an engine for some of the parameters and the same numbers.

        Args:
            names: The parameters.

        Returns:
            A new engine, proven anew.
        """
        return ParameterEngine(
            self.problem.with_params(names),
            head=self._head,
            num_outputs=self.num_outputs,
            room=self._room,
        )

    def bounded(self, room: int) -> "ParameterEngine":
        """Return an engine for the same numbers whose chunks take so many bytes.

        Args:
            room: The bytes, as for the class.

        Returns:
            A new engine, proven anew; this one, if it is bounded so already.
        """
        if self._room is not None and self._room <= room:
            return self
        return ParameterEngine(
            self.problem, head=self._head, num_outputs=self.num_outputs, room=room
        )

    def whole(self) -> "ParameterEngine":
        """Return the same engine for all samples, whoever shares them."""
        other = copy.copy(self)
        other.problem = self.problem.whole()
        return other

    def chunks(
        self, size: int | None = None, *, boundary: int | None = None
    ) -> Iterator[Batch]:
        """Return the samples in chunks; see `pieces`.

        Args:
            size: Most samples of a chunk; at most `chunk_size`, which is the default.
            boundary: No chunk crosses a multiple of this.

        Returns:
            Consecutive samples of one shape at a time.
        """
        most = self.chunk_size if size is None else min(size, self.chunk_size)
        most = self.halving.within(most)
        return pieces(self.problem.batches, most, boundary=boundary)

    @contextmanager
    def open(
        self, batch: Batch, *, create_graph: bool = False
    ) -> Generator["OpenChunk"]:
        """Run one chunk forward and hold it for backward passes.

        Args:
            batch: The samples.
            create_graph: Whether gradients are to be differentiated themselves.

        Yields:
            The chunk, of use inside the context only.
        """
        with self._recording(create_graph=create_graph):
            batch = recordable_batch(batch)
            chunk = None
            if batch.size > 1:
                chunk = ChunkPass(
                    self.problem,
                    Forward(self.problem, self._head, batch),
                    self._axes,
                    create_graph=create_graph,
                )
                self._check(batch, chunk.raw)
            yield OpenChunk(self, self._head, batch, chunk, create_graph=create_graph)

    def _check(self, batch: Batch, raw: Tensor) -> None:
        require_finite_outputs(raw, batch.start)
        if not self._has_checked_parts:
            require_same_in_parts(self.problem, batch, raw.detach())
            self._has_checked_parts = True

    def fill(
        self, batch: Batch, results: Mapping[str, Float[Tensor, "sample output *param"]]
    ) -> None:
        """Write the Jacobians of one chunk into given tensors, one per parameter.

        Args:
            batch: The samples.
            results: Name to a tensor that is overwritten; any strides over samples
                and outputs.

        Raises:
            ValueError: If an entry is not finite; the message names sample and
                parameter.
        """
        self.halving.run(partial(self._fill, batch.start, results), batch)

    def _fill(self, start: int, rows: Mapping[str, Tensor], batch: Batch) -> None:
        """Write the Jacobians of some samples of a chunk that begins at `start`."""
        own = slice(batch.start - start, batch.start - start + batch.size)
        results = {name: row[own] for name, row in rows.items()}
        with self.open(batch) as chunk:
            block = chunk.outputs_at_once()
            for first in range(0, self.num_outputs, block):
                outputs = range(first, min(first + block, self.num_outputs))
                columns = slice(outputs.start, outputs.stop)
                written: set[str] = set()
                last = outputs.stop == self.num_outputs
                for name, part in chunk.parts(outputs, last=last):
                    result = results[name][:, columns]
                    part.write(result, add=name in written)
                    written.add(name)
                    if not part.is_bounded():
                        require_finite_gradients(name, result, batch.start)
                for name in results.keys() - written:
                    results[name][:, columns].zero_()

    def paths_beside_rules(self, chunk: ChunkPass) -> dict[str, Path]:
        """Return the parameters that rules don't serve in a chunk, and what does."""
        proof = self._proof
        paths: dict[str, Path] = {}
        for name in self.problem.params:
            if name in chunk.by_autograd or name in proof.distrusted:
                paths[name] = "vmap" if name in proof.by_vmap else "loop"
                if proof.coverage[name].path != paths[name]:
                    reason = reason_without_rules(name, proof)
                    served = Coverage(path=paths[name], reason=reason)
                    proof.coverage[name] = served
        return paths

    def _transform(self, raw: Tensor, targets: Any) -> Tensor:
        del targets
        return transform_outputs(raw, self.problem.output)

    @contextmanager
    def _recording(self, *, create_graph: bool = False) -> Generator[None]:
        """Record what the chosen parameters need; leave the model as it was found."""
        model, params = self.problem.model, self.problem.params
        chosen = {id(p) for p in params.values()}
        others = [p for p in model.parameters() if id(p) not in chosen]
        with ExitStack() as stack:
            stack.enter_context(left_as_found(model))
            stack.enter_context(differentiable_tables(model))
            idle = [] if create_graph else others
            stack.enter_context(exactly_requiring_grad(list(params.values()), idle))
            stack.enter_context(recording())
            if create_graph:
                stack.enter_context(twice_differentiable(model))
            yield


@final
class OpenChunk:
    """A chunk after its forward pass.

    Args:
        engine: The engine.
        head: From raw outputs and targets to (sample, output).
        batch: The samples.
        chunk: Its forward pass; None for a single sample, which needs no rules.
        create_graph: Whether gradients are to be differentiated themselves.

    Raises:
        ValueError: If the chunk has another number of outputs than the first one.
    """

    def __init__(
        self,
        engine: ParameterEngine,
        head: Head,
        batch: Batch,
        chunk: ChunkPass | None,
        *,
        create_graph: bool,
    ) -> None:
        self._problem = engine.problem
        self._num_outputs = engine.num_outputs
        self._room = engine.cotangent_room
        self._head = head
        self._batch = batch
        self._chunk = chunk
        self._create_graph = create_graph
        if chunk is not None and chunk.outputs.shape[1] != engine.num_outputs:
            raise ValueError(
                "all samples must have the same number of outputs; the first have "
                f"{engine.num_outputs}, those from sample {batch.start} on "
                f"{chunk.outputs.shape[1]}. Choose some of them by a callable output."
            )
        self._beside: dict[str, Path] = (
            dict.fromkeys(engine.problem.params, "loop")
            if chunk is None
            else engine.paths_beside_rules(chunk)
        )

    def outputs_at_once(self, room: int | None = None) -> int:
        """Return how many outputs' cotangents fit so many bytes, by default a cache."""
        if self._chunk is None:
            return self._num_outputs
        each = max(1, self._chunk.cotangent_bytes())
        most = COTANGENT_BYTES if room is None else room
        fitting = (most if self._room is None else min(most, self._room)) // each
        return max(1, min(self._num_outputs, fitting))

    def products(self, weights: Tensor) -> Iterator[tuple[int, str, Tensor]]:
        """Yield Σ weights[i, c, v] ∂z_c(x_i)/∂θ over the chunk, without its rows.

        Args:
            weights: (sample, output, vector).

        Yields:
            Number of the vector, name of the parameter, and the sum; nothing for
            parameters that the outputs do not depend on.
        """
        if self._chunk is None:
            raw = self._problem.raw(self._batch.inputs)
            outputs = self._head(raw, self._batch.targets)
        else:
            outputs = self._chunk.outputs
        params = self._problem.params
        for vector in range(weights.shape[2] if outputs.requires_grad else 0):
            seed = weights[:, :, vector].to(outputs)
            leaves = list(params.values())
            found = cotangents(outputs, leaves, seed, keep_graph=True)
            for name, product in zip(params, found, strict=True):
                if product is not None:
                    yield vector, name, product

    def parts(
        self, outputs: range | None = None, *, last: bool = False
    ) -> Iterator[tuple[str, PerSample]]:
        """Yield the per-sample gradients in the form in which they are found.

        A parameter that is used several times has several parts, which add up; an
        unused one has none. The parts of linear maps, convolutions and tables
        (`Outer`, `Scattered`) hold the inputs and cotangents whose products are the
        gradients, so kernels can be contracted without forming these. All backward
        passes run before the first part; the work of a part is done when it is
        reached.

        Args:
            outputs: Outputs to differentiate; all if None.
            last: Whether the chunk is not needed for any other outputs.

        Yields:
            Names and gradients (sample, output, *parameter).
        """
        wanted = range(self._num_outputs) if outputs is None else outputs
        if self._chunk is not None:
            yield from self._chunk.parts(wanted, set(self._beside), last=last)
        for path, compute in (("vmap", by_vmap), ("loop", by_loop)):
            names = [name for name, own in self._beside.items() if own == path]
            if names:
                yield from compute(
                    self._problem,
                    self._head,
                    self._batch,
                    names,
                    wanted,
                    create_graph=self._create_graph,
                ).items()


def require_finite_rows(engine: ParameterEngine, batch: Batch) -> None:
    """Raise if the Jacobian of a sample is not finite: what spoils a sum over them.

    Args:
        engine: What differentiates.
        batch: The samples.

    Raises:
        ValueError: Naming the first such sample and the parameter.

    Cost:
        The samples' Jacobians, one at a time.
    """
    results = {
        name: parameter.new_empty(1, engine.num_outputs, *parameter.shape)
        for name, parameter in engine.problem.params.items()
    }
    for sample in batch.parts(1):
        engine.fill(sample, results)
