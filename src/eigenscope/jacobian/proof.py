"""Rules and `vmap` are compared with autograd on a few samples before they are used."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from eigenscope.autodiff import cotangents
from eigenscope.jacobian.chunk import ChunkPass, Forward
from eigenscope.jacobian.coverage import require_visible_parameters
from eigenscope.jacobian.generic import Head, by_vmap
from eigenscope.jacobian.graph_trace import trace_graph
from eigenscope.jacobian.mixing import require_unmixed_samples, with_leaves
from eigenscope.jacobian.rules import PerSample
from eigenscope.jacobian.sample_axes import SampleAxes
from eigenscope.problem import Batch, Problem

Path = Literal["rules", "vmap", "loop", "unused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How the Jacobian by one parameter is computed.

    Attributes:
        path: "rules" (closed forms from inputs and cotangents of the functions that
            use it), "vmap" (autograd, all samples at a time), "loop" (autograd, sample
            by sample), or "unused" (the output does not depend on it: zeros).
        reason: The rules, or why there are none.
    """

    path: Path
    reason: str


@dataclass(slots=True, kw_only=True)
class Proof:
    """What may be used.

    Attributes:
        distrusted: Parameters whose rules disagree with autograd.
        by_vmap: Parameters that rules don't serve and `vmap` does.
        coverage: Parameter name to how it is served.
        sample_bytes: What the cotangents of one sample and output take.
    """

    distrusted: set[str] = field(default_factory=set[str])
    by_vmap: set[str] = field(default_factory=set[str])
    coverage: dict[str, Coverage] = field(default_factory=dict[str, Coverage])
    sample_bytes: int = 0


def prove(
    problem: Problem, head: Head, num_outputs: int, probe: Batch, axes: SampleAxes
) -> Proof:
    """Check that samples don't mix, and compare rules and `vmap` with autograd.

    What is compared is the gradient of a random mix of the outputs, summed over the
    samples.

    Args:
        problem: The network; its parameters require gradients.
        head: From raw outputs and targets to (sample, output).
        num_outputs: Columns of that.
        probe: At least two samples.
        axes: Filled with the layouts that the calls turn out to have.

    Returns:
        What agrees to rounding.

    Raises:
        ValueError: If the model mixes samples.
    """
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(num_outputs, 1, generator=generator, dtype=torch.float64)

    def mixed(raw: Tensor, targets: Any) -> Tensor:
        z = head(raw, targets)
        return z @ weights.to(z)

    leafed, leaves = with_leaves(probe)
    forward = Forward(problem, mixed, leafed)
    alone = _Alone(problem, forward, leaves)
    require_unmixed_samples(problem, probe, forward.raw, alone.by_inputs)
    trace = trace_graph(forward.raw)
    axes.prove_one_by_one(forward.outputs, trace, forward.calls, alone.by_calls)
    chunk = ChunkPass(problem, forward, axes)
    expected = alone.by_params
    proof = Proof(sample_bytes=chunk.cotangent_bytes() // probe.size)
    sums = _Sums()
    sums.add(chunk.parts(range(1), set()))
    for name, rules in chunk.rule_names.items():
        if name in chunk.by_autograd:
            continue
        listed = ", ".join(sorted(set(rules)))
        proof.coverage[name] = Coverage(path="rules", reason=listed)
        if not sums.agree(name, expected[name]):
            proof.distrusted.add(name)
    rest = sorted(chunk.by_autograd | proof.distrusted)
    proof.by_vmap = _proven_by_vmap(problem, mixed, probe, rest, expected)
    for name in rest:
        path: Path = "vmap" if name in proof.by_vmap else "loop"
        reason = reason_without_rules(name, proof)
        proof.coverage[name] = Coverage(path=path, reason=reason)
    for name in problem.params.keys() - proof.coverage.keys():
        reason = "the output does not depend on it"
        proof.coverage[name] = Coverage(path="unused", reason=reason)
    return proof


def reason_without_rules(name: str, proof: Proof) -> str:
    """Return why no rule serves a parameter."""
    if name in proof.distrusted:
        return "the rule disagrees with autograd"
    return "used by functions without rules, or where samples cannot be told apart"


class _Alone:
    """Derivatives of the outputs of one sample at a time, by all that they depend on.

    Args:
        problem: The network.
        forward: A pass of a few samples and one output.
        leaves: The floating-point inputs that it was given.

    Raises:
        ValueError: If the graph hides parameters inside a reentrant checkpoint.

    Attributes:
        by_calls: For each sample the cotangents at the outputs of the calls.
        by_inputs: For each sample the derivatives by the inputs of all.
        by_params: The gradients of the sum over samples.
    """

    def __init__(
        self, problem: Problem, forward: Forward, leaves: Sequence[Tensor]
    ) -> None:
        require_visible_parameters(forward.outputs)
        params = problem.params
        edges = [call.edge for call in forward.calls]
        self.by_calls: list[Sequence[Tensor | None]] = []
        self.by_inputs: list[Sequence[Tensor | None]] = []
        self.by_params = {name: torch.zeros_like(p) for name, p in params.items()}
        if not forward.outputs.requires_grad:
            self.by_calls = [[] for _ in range(forward.size)]
            self.by_inputs = [[] for _ in range(forward.size)]
            return
        for sample in range(forward.size):
            seed = torch.zeros_like(forward.outputs)
            seed[sample] = 1
            targets = [*edges, *leaves, *params.values()]
            found = cotangents(forward.outputs, targets, seed, keep_graph=True)
            first, last = len(edges), len(edges) + len(leaves)
            self.by_calls.append(found[:first])
            self.by_inputs.append(found[first:last])
            for name, gradient in zip(params, found[last:], strict=True):
                if gradient is not None:
                    self.by_params[name] += gradient


def _proven_by_vmap(
    problem: Problem,
    head: Head,
    probe: Batch,
    names: Sequence[str],
    expected: Mapping[str, Tensor],
) -> set[str]:
    if not names:
        return set()
    try:
        found = by_vmap(problem, head, probe, names, range(1))
    except Exception:  # the user's forward under vmap: anything goes
        return set()
    sums = _Sums()
    sums.add(found.items())
    return {name for name in names if sums.agree(name, expected[name])}


class _Sums:
    """Sums of per-sample gradients over samples and uses, and what rounds in them."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}

    def add(self, parts: Iterable[tuple[str, PerSample]]) -> None:
        for name, part in parts:
            values = part.tensor().detach()
            size = torch.linalg.vector_norm(values, ord=torch.inf)
            self._sums[name] = self._sums.get(name, 0) + values.sum((0, 1))
            self._scales[name] = self._scales.get(name, 0) + size * values.shape[0]

    def agree(self, name: str, expected: Tensor) -> bool:
        if name not in self._sums:
            return not bool(expected.any())
        scale = float(self._scales[name])
        error = float((self._sums[name] - expected).abs().amax())
        return error <= torch.finfo(expected.dtype).eps ** 0.5 * scale
