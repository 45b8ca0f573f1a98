"""Input-output Jacobians of chunks of samples, several outputs in one pass."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from eigenscope._types import JsonValue, OutputSpec
from eigenscope.autodiff import differentiable_copy, jacobian_rows, recording
from eigenscope.budget import resolve
from eigenscope.jacobian.acceleration import Acceleration, accelerate
from eigenscope.jacobian.independence import (
    differentiable_entry,
    leaf_of,
    require_independent_samples,
    with_leaf,
)
from eigenscope.problem import (
    Batch,
    Problem,
    call_model,
    flatten_outputs,
    output_derivative,
    require_no_batch_statistics,
    transform_outputs,
)

_MIN_ROWS_TO_ACCELERATE = 256
_CACHE_BYTES = 2 * 2**20
_MAX_CHUNK = 256


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
    """

    def __init__(
        self, problem: Problem, *, settings: EngineSettings | None = None
    ) -> None:
        require_no_batch_statistics(problem.model)
        probe = problem.batches.first(2)
        self._entry = differentiable_entry(probe.inputs)
        require_independent_samples(problem, probe, self._entry)
        self.sample_shape = tuple(leaf_of(probe.inputs, self._entry).shape[1:])
        self.raw_shape = problem.raw_shape
        self._scratch = torch.empty(0)
        wanted = settings.accelerated if settings else _is_worth_it(problem)
        self._acceleration: Acceleration | None = (
            accelerate(problem.model, probe.inputs, entry=self._entry)
            if wanted
            else None
        )
        fast = self._acceleration
        self._module = fast.module if fast else problem.model
        self.settings = EngineSettings(
            accelerated=fast is not None,
            num_folded=fast.num_folded if fast else 0,
            channels_last=fast is not None and fast.channels_last,
            bottleneck=self._find_bottleneck(probe),
            chunk_size=settings.chunk_size
            if settings
            else problem.batches.batch_size or self._chunk_size(probe),
        )
        if settings is not None and settings != self.settings:
            raise ValueError(
                f"the recorded engine {settings} cannot be set up again; this machine "
                f"and version give {self.settings}. Start a new run."
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
        named: list[tuple[OutputSpec, Tensor]] = [
            (output, result)
            for output, result in zip(outputs, results, strict=True)
            if not callable(output)
        ]
        with recording(), self._last_linear() as last:
            leaf = self._leaf(batch)
            raw = call_model(self._module, with_leaf(batch.inputs, self._entry, leaf))
            for output, result in zip(outputs, results, strict=True):
                if callable(output):
                    _copy_rows(transform_outputs(raw, output), leaf, result)
            rows = leaf
            if named:
                base = flatten_outputs(raw) if last is None else last.features
                rows = self._base_rows(base, leaf, dict(named).get("logits"))
        raw = raw.detach()
        weight = None if last is None else last.weight
        for output, result in named:
            transform_rows(rows, raw, output, result, weight=weight)
        for result in results:
            _require_finite(result, batch.start)
        return raw

    def _leaf(self, batch: Batch) -> Tensor:
        leaf = leaf_of(batch.inputs, self._entry)
        if self.settings.channels_last:
            leaf = leaf.contiguous(memory_format=torch.channels_last)
        return differentiable_copy(leaf)

    def _base_rows(self, base: Tensor, leaf: Tensor, logits: Tensor | None) -> Tensor:
        """Return the base's rows, in the logits' result where they are the same."""
        if logits is None or self.settings.bottleneck is not None:
            shape = (base.shape[1], *self.sample_shape)
            if len(self._scratch) < len(leaf) or self._scratch.shape[1:] != shape:
                self._scratch = leaf.new_empty((len(leaf), *shape)).contiguous()
            rows = self._scratch[: len(leaf)]
        else:
            rows = logits
        _copy_rows(base, leaf, rows, keep_graph=False)
        return rows

    @contextmanager
    def _last_linear(self) -> Generator["_LastLinear | None"]:
        """Watch the inputs of the bottleneck layer during one forward pass."""
        name = self.settings.bottleneck
        if name is None:
            yield None
            return
        layer = cast("nn.Linear", self._module.get_submodule(name))
        watched = _LastLinear(layer.weight.detach())
        handle = layer.register_forward_hook(watched.note)
        try:
            yield watched
        finally:
            handle.remove()

    def _find_bottleneck(self, probe: Batch) -> str | None:
        """Return the linear layer that gives the raw output from fewer features."""
        layers = {
            name: module
            for name, module in self._module.named_modules()
            if type(module) is nn.Linear and module.in_features < module.out_features
        }
        watched = {name: _LastLinear(m.weight.detach()) for name, m in layers.items()}
        handles = [
            module.register_forward_hook(watched[name].note)
            for name, module in layers.items()
        ]
        try:
            with torch.no_grad():
                raw = call_model(self._module, probe.inputs)
        finally:
            for handle in handles:
                handle.remove()
        for name, seen in watched.items():
            if seen.output is raw and raw.ndim == 2:
                return name
        return None

    def _chunk_size(self, probe: Batch) -> int:
        """Return how many samples keep the largest activation in the CPU's cache.

        All activations must fit a quarter of the memory; on an accelerator only
        that counts.
        """
        largest, total = 1, 1

        def note(saved: Tensor) -> Tensor:
            nonlocal largest, total
            if saved.ndim > 1 and len(saved) == probe.size:
                num_bytes = saved.numel() * saved.element_size() // probe.size
                largest, total = max(largest, num_bytes), total + num_bytes
            return saved

        with recording(), saved_tensors_hooks(note, lambda saved: saved):
            leaf = differentiable_copy(leaf_of(probe.inputs, self._entry))
            call_model(self._module, with_leaf(probe.inputs, self._entry, leaf))
        in_cache = max(8, _CACHE_BYTES // largest // 8 * 8)
        fitting = resolve(None) // 4 // total
        limit = min(in_cache, _MAX_CHUNK) if leaf.device.type == "cpu" else _MAX_CHUNK
        return max(1, min(limit, fitting))


@final
class _LastLinear:
    """The inputs and output of a linear layer in the pass that is under way."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.features = weight
        self.output = weight

    def note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        del module
        self.features, self.output = inputs[0], output


def input_jacobian(
    model: nn.Module,
    x: Float[Tensor, "sample *input"],
    *,
    output: OutputSpec = "logits",
) -> Float[Tensor, "sample output *input"]:
    """J[i, c] = ∂z_c(x_i)/∂x_i, the Jacobian of every sample's outputs by its input.

    Exact to rounding. At kinks (ReLU at 0, tied maxima) it is the derivative that
    PyTorch's autograd takes.

    Args:
        model: Any module whose samples do not influence each other.
        x: Inputs.
        output: "logits" (the raw output, flattened), "probabilities" or
            "log_probabilities" (softmax over axis 1), or a callable of the raw output.

    Returns:
        The Jacobian, in units of output per input, in the model's dtype and device.

    Raises:
        TypeError: If the inputs are not floating-point.
        ValueError: If `output` is unknown, the model mixes samples, is random, or
            ignores its input, or something is not finite.

    Cost:
        One forward and min(k, features before the last linear layer) backward passes;
        memory for the result and one chunk.

    Example:
        >>> linear = nn.Linear(3, 2, bias=False)
        >>> J = input_jacobian(linear, torch.ones(4, 3))
        >>> torch.equal(J[0], linear.weight)
        True
    """
    problem = Problem(model, x, output=output)
    engine = InputJacobianEngine(problem)
    shape = (problem.num_samples, problem.num_outputs, *engine.sample_shape)
    result = torch.empty(shape, dtype=problem.dtype, device=problem.device)
    for batch in problem.batches.chunks(engine.settings.chunk_size):
        part = result[batch.start : batch.start + batch.size]
        engine.fill(batch, [output], [part])
    return result


def _is_worth_it(problem: Problem) -> bool:
    return problem.num_samples * problem.num_outputs >= _MIN_ROWS_TO_ACCELERATE


def _copy_rows(
    outputs: Tensor, leaf: Tensor, result: Tensor, *, keep_graph: bool = True
) -> None:
    rows = jacobian_rows(outputs, leaf, keep_graph=keep_graph)
    for column, row in enumerate(rows):
        result[:, column] = row


def transform_rows(
    rows: Float[Tensor, "sample row *input"],
    raw: Tensor,
    output: OutputSpec,
    result: Float[Tensor, "sample output *input"],
    *,
    weight: Float[Tensor, "output row"] | None = None,
) -> None:
    """Write the Jacobian of a named output, T · W · rows, into `result`.

    T is the derivative of the output by the logits, W the last linear layer if the
    rows are those of its inputs.

    Args:
        rows: Jacobians of the logits or of the features before W.
        raw: Raw outputs of the same samples.
        output: "logits", "probabilities" or "log_probabilities".
        result: Overwritten; may be `rows` itself for logits without W.
        weight: W, or None if the rows are the logits'.
    """
    num_samples = len(rows)
    flat, target = rows.flatten(2), result.view(num_samples, result.shape[1], -1)
    if output == "logits":
        if weight is not None:
            torch.bmm(weight.expand(num_samples, *weight.shape), flat, out=target)
        elif target.data_ptr() != flat.data_ptr():
            target.copy_(flat)
        return
    derivative = output_derivative(raw, cast("Any", output))
    num_positions, num_classes = derivative.shape[1], derivative.shape[2]
    if num_positions == 1:
        matrix = derivative[:, 0] if weight is None else derivative[:, 0] @ weight
        torch.bmm(matrix, flat, out=target)
        return
    by_position = (num_samples, num_classes, num_positions, flat.shape[-1])
    product = derivative @ flat.view(by_position).transpose(1, 2)
    target.view(by_position).copy_(product.transpose(1, 2))


def _require_finite(result: Tensor, start: int) -> None:
    if bool(result.sum().isfinite()):
        return
    bad = (~result.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        raise ValueError(
            "the input Jacobian must be finite; that of sample "
            f"{start + int(bad.nonzero()[0, 0])} holds NaN or infinity. Look at the "
            "scale of this input and of the weights, or compute in float64."
        )
