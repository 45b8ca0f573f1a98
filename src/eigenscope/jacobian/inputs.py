"""Input-output Jacobians of chunks of samples, several outputs in one pass."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenscope._types import JsonValue, OutputName, OutputSpec
from eigenscope.autodiff import (
    differentiable_copy,
    jacobian_rows,
    recording,
    vector_jacobian_product,
    writable_empty,
)
from eigenscope.budget import require_fits, resolve
from eigenscope.jacobian.acceleration import accelerate
from eigenscope.jacobian.bottleneck import LinearWatch, find_bottleneck, watching
from eigenscope.jacobian.chunks import choose_chunk_size, measure_activations
from eigenscope.jacobian.independence import (
    differentiable_entry,
    leaf_of,
    require_independent_samples,
    require_same_in_parts,
    with_leaf,
)
from eigenscope.jacobian.rows import require_finite, transform_rows
from eigenscope.problem import (
    Batch,
    DataChangedError,
    Halving,
    ModelInputs,
    Problem,
    call_model,
    flatten_outputs,
    left_as_found,
    nearly_equal,
    output_cotangent,
    require_finite_outputs,
    require_no_batch_statistics,
    transform_outputs,
)

_MIN_ROWS_TO_ACCELERATE = 256


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How input Jacobians are computed; a resumed run reuses them.

    Attributes:
        accelerated: Whether a folded, proven copy of the network runs.
        num_folded: BatchNorms folded into the layer before them.
        channels_last: Whether convolutions run in channels-last memory.
        bottleneck: Name of the last linear layer whose inputs are differentiated in
            place of its outputs, since they are fewer; None if the outputs are.
        chunk_size: Samples that go through the network together.
    """

    accelerated: bool
    num_folded: int
    channels_last: bool
    bottleneck: str | None
    chunk_size: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return the settings as plain JSON values."""
        return asdict(self)


@final
class InputJacobianEngine:
    """Computes ∂z_c(x_i)/∂x_i for chunks of samples by at most k backward passes.

    The rows of the logits, or of the features before the last linear layer when
    these are fewer, are differentiated once; logits, probabilities and
    log-probabilities follow by one small matrix product per sample.

    Args:
        problem: The network and its data.
        settings: Settings of an earlier run, to repeat it bit for bit.

    Raises:
        TypeError: If the inputs cannot be differentiated.
        ValueError: If BatchNorm is in training mode, the model mixes samples, its
            output does not depend on the input, or `settings` cannot be repeated.

    Attributes:
        sample_shape: Shape of one input.
        settings: How it computes.
        sample_bytes: Activations and rows of one sample in a chunk.
    """

    def __init__(
        self, problem: Problem, *, settings: EngineSettings | None = None
    ) -> None:
        require_no_batch_statistics(problem.model)
        self._problem = problem
        self._scratch = torch.empty(0)
        self._has_checked_parts = False
        self._probe = probe = problem.batches.first(2)
        self._entry = differentiable_entry(probe.inputs)
        self.sample_shape = tuple(leaf_of(probe.inputs, self._entry).shape[1:])
        with left_as_found(problem.model):
            require_independent_samples(problem, probe, self._entry)
            wanted = settings.accelerated if settings else _is_worth_it(problem)
            fast = (
                accelerate(problem.model, probe.inputs, entry=self._entry)
                if wanted
                else None
            )
            self._module: nn.Module = fast.module if fast else problem.model
            self._channels_last = fast is not None and fast.channels_last
            chosen, self.sample_bytes = self._measured(probe)
            self.settings = EngineSettings(
                accelerated=fast is not None,
                num_folded=fast.num_folded if fast else 0,
                channels_last=self._channels_last,
                bottleneck=self._find_bottleneck(probe),
                chunk_size=settings.chunk_size
                if settings
                else problem.batches.batch_size or chosen,
            )
        if settings is not None and settings != self.settings:
            raise ValueError(
                f"the recorded engine {settings} cannot be set up again; this machine "
                f"and version give {self.settings}. Start a new run."
            )

    def require_current_copy(self) -> None:
        """Raise if the folded copy no longer answers as the model does.

        Raises:
            DataChangedError: If the model has changed since the engine was made, in
                something that is neither weight nor buffer.
        """
        if not self.settings.accelerated:
            return
        with torch.no_grad(), left_as_found(self._problem.model):
            model = self._problem.raw(self._probe.inputs)
            copied = call_model(self._module, self._leaf(self._probe)[1])
        if not nearly_equal(model, copied):
            raise DataChangedError(
                "the model must stay as it is while its Jacobian is in use; it gives "
                "other outputs than when the InputJacobian was made. Make a new one "
                "after every change."
            )

    def fill(
        self,
        batch: Batch,
        outputs: Sequence[OutputSpec],
        results: Sequence[Float[Tensor, "sample output *input"]],
    ) -> Tensor:
        """Write the Jacobians of several outputs of one chunk into given tensors.

        All outputs share one forward pass and, but for callables, the backward ones.

        Args:
            batch: The samples.
            outputs: What is differentiated.
            results: One contiguous tensor for each of `outputs`, overwritten.

        Returns:
            The raw outputs of the chunk.

        Raises:
            ValueError: If an entry is not finite; the message names the sample.
        """
        named: list[tuple[OutputName, Tensor]] = []
        rows = None
        with self._recorded(batch) as (leaf, raw, last):
            for output, result in zip(outputs, results, strict=True):
                if callable(output):
                    _copy_rows(transform_outputs(raw, output), leaf, result)
                else:
                    named.append((output, result))
            if named:
                base = flatten_outputs(raw) if last is None else last.features
                rows = self._base_rows(base, leaf, dict(named).get("logits"))
        raw = raw.detach()
        if rows is not None:
            weight = None if last is None else last.weight
            for output, result in named:
                transform_rows(rows, raw, output, result, weight=weight)
        for result in results:
            require_finite(result, batch.start)
        self._require_same_in_parts(batch, raw)
        return raw

    def fill_part(
        self,
        batch: Batch,
        output: OutputSpec,
        columns: range,
        result: Float[Tensor, "sample column *input"],
    ) -> None:
        """Write the Jacobian of some of an output's k numbers, one pass for each.

        Args:
            batch: The samples.
            output: What is differentiated.
            columns: Which of its numbers.
            result: Overwritten.

        Raises:
            ValueError: If an entry is not finite; the message names the sample.
        """
        with self._recorded(batch) as (leaf, raw, last):
            if callable(output):
                chosen = transform_outputs(raw, output)[:, columns.start : columns.stop]
                _copy_rows(chosen, leaf, result)
            else:
                base = flatten_outputs(raw) if last is None else last.features
                for place, column in enumerate(columns):
                    cotangent = output_cotangent(raw.detach(), output, column)
                    if last is not None:
                        cotangent = cotangent @ last.weight
                    result[:, place] = vector_jacobian_product(
                        base, leaf, cotangent.to(base.dtype), keep_graph=True
                    )
        require_finite(result, batch.start)
        self._require_same_in_parts(batch, raw.detach())

    def _require_same_in_parts(self, batch: Batch, raw: Tensor) -> None:
        """Compare the first chunk's outputs with those of its parts, once.

        Raises:
            ValueError: If a sample's output changes with the size of its batch.
        """
        if not self._has_checked_parts:
            require_same_in_parts(self._problem, batch, raw)
            self._has_checked_parts = True

    @contextmanager
    def _recorded(
        self, batch: Batch
    ) -> Generator[tuple[Tensor, Tensor, LinearWatch | None]]:
        """Run the network; yield the leaf, the raw output and the bottleneck."""
        with (
            left_as_found(self._problem.model),
            recording(),
            watching(self._module, self.settings.bottleneck) as last,
        ):
            leaf, inputs = self._leaf(batch)
            raw = call_model(self._module, inputs)
            require_finite_outputs(raw, batch.start)
            # a branch of the user's may take another way out for these samples
            yield leaf, raw, last if last and last.gave(raw) else None

    def _leaf(self, batch: Batch) -> tuple[Tensor, ModelInputs]:
        """Return the tensor that is differentiated, and the inputs with it."""
        leaf = leaf_of(batch.inputs, self._entry)
        if tuple(leaf.shape[1:]) != self.sample_shape:
            raise ValueError(
                "all samples must have the shape of the first to be columns of one "
                f"Jacobian, {self.sample_shape}; sample {batch.start} has "
                f"{tuple(leaf.shape[1:])}. Pad or crop them, or make a problem of each "
                "shape."
            )
        if self._channels_last:
            leaf = leaf.contiguous(memory_format=torch.channels_last)
        leaf = differentiable_copy(leaf)
        return leaf, with_leaf(batch.inputs, self._entry, leaf)

    def _base_rows(self, base: Tensor, leaf: Tensor, logits: Tensor | None) -> Tensor:
        """Return the base's rows, in the logits' result where they are the same."""
        rows = logits
        if rows is None or self.settings.bottleneck is not None:
            shape = (base.shape[1], *self.sample_shape)
            if len(self._scratch) < len(leaf) or self._scratch.shape[1:] != shape:
                dtype, device = self._problem.dtype, self._problem.device
                self._scratch = torch.empty(
                    (len(leaf), *shape), dtype=dtype, device=device
                )
            rows = self._scratch[: len(leaf)]
        _copy_rows(base, leaf, rows, keep_graph=False)
        return rows

    def _find_bottleneck(self, probe: Batch) -> str | None:
        with recording():
            return find_bottleneck(self._module, self._leaf(probe)[1])

    def _measured(self, probe: Batch) -> tuple[int, int]:
        """Return the samples of a chunk, and the bytes that one of them takes."""
        problem = self._problem
        row_bytes = problem.num_outputs * prod(self.sample_shape)
        with recording():
            inputs = self._leaf(probe)[1]
            found = measure_activations(
                self._module,
                lambda: call_model(self._module, inputs),
                num_probes=probe.size,
            )
        each = max(1, found.total + 2 * row_bytes * problem.dtype.itemsize)
        size = choose_chunk_size(found, is_on_cpu=problem.device.type == "cpu")
        return max(1, min(size, resolve(None) // 4 // each)), each

    def within(self, room: int) -> EngineSettings:
        """Return the same settings with chunks that take so many bytes at most.

        Args:
            room: The bytes; a single sample is always taken.

        Returns:
            The settings.
        """
        fitting = max(1, room // (2 * self.sample_bytes))  # as much in a backward pass
        return replace(self.settings, chunk_size=min(self.settings.chunk_size, fitting))


def input_jacobian(
    model: nn.Module,
    x: Float[Tensor, "sample *input"],
    *,
    output: OutputSpec = "logits",
    memory: str | int | None = None,
) -> Float[Tensor, "sample output *input"]:
    """J[i, c] = ∂z_c(x_i)/∂x_i, the Jacobian of every sample's outputs by its input.

    Exact to rounding. At kinks (ReLU at 0, tied maxima) it is the derivative that
    PyTorch's autograd takes.

    Args:
        model: Any module whose samples do not influence each other.
        x: Inputs.
        output: "logits" (the raw output, flattened), "probabilities" or
            "log_probabilities" (softmax over axis 1), or a callable of the raw output.
        memory: Budget for the result and for the samples that go through the network
            together, one at least; half of what is available if None.

    Returns:
        The Jacobian, in units of output per input, in the model's dtype and device.

    Raises:
        TypeError: If the inputs are not floating-point.
        ValueError: If `output` is unknown, the model mixes samples, is random, or
            ignores its input, something is not finite, or the result does not fit
            the budget.

    Cost:
        One forward and min(k, features before the last linear layer) backward passes;
        memory for the result and one chunk.

    Example:
        >>> linear = nn.Linear(3, 2, bias=False)
        >>> J = input_jacobian(linear, torch.ones(4, 3))
        >>> torch.equal(J[0], linear.weight)
        True
    """
    problem = Problem(model, x, output=output, ranks="own")
    engine = InputJacobianEngine(problem)
    shape = (problem.num_samples, problem.num_outputs, *engine.sample_shape)
    needed = prod(shape) * problem.dtype.itemsize
    budget = require_fits(
        needed,
        memory,
        what=f"the {' × '.join(map(str, shape))} Jacobian",
        way_out="or write it to a run: es.InputJacobian(problem).write(run)",
    )
    result = writable_empty(shape, dtype=problem.dtype, device=problem.device)
    halving = Halving("input Jacobian")

    def work(own: Batch) -> None:
        rows = result[own.start : own.start + own.size]
        engine.fill(own, [output], [rows])

    for batch in problem.batches.chunks(engine.within(budget - needed).chunk_size):
        halving.run(work, batch)
    return result


def _is_worth_it(problem: Problem) -> bool:
    return problem.num_samples * problem.num_outputs >= _MIN_ROWS_TO_ACCELERATE


def _copy_rows(
    outputs: Tensor, leaf: Tensor, result: Tensor, *, keep_graph: bool = True
) -> None:
    rows = jacobian_rows(outputs, leaf, keep_graph=keep_graph)
    for column, row in enumerate(rows):
        result[:, column] = row
