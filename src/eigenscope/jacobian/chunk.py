"""Per-sample gradients of one chunk of samples, call by call."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from eigenscope.autodiff import cotangents, pull_back
from eigenscope.jacobian.capture import Call, capturing
from eigenscope.jacobian.coverage import Served, serve
from eigenscope.jacobian.generic import Head
from eigenscope.jacobian.graph_trace import trace_graph
from eigenscope.jacobian.layout import Layout
from eigenscope.jacobian.rules import PerSample, Plain, Use
from eigenscope.jacobian.sample_axes import SampleAxes
from eigenscope.problem import Batch, Problem


@final
class Forward:
    """One forward pass, recorded; parameters must require gradients.

    Args:
        problem: The network.
        head: From raw outputs and targets to (sample, output).
        batch: The samples.

    Attributes:
        raw: The raw outputs.
        outputs: What is differentiated, (sample, output).
        calls: Calls that rules apply to, without those whose inputs have changed.
        size: Number of samples.
    """

    def __init__(self, problem: Problem, head: Head, batch: Batch) -> None:
        with capturing(problem.model) as calls:
            self.raw = problem.raw(batch.inputs)
        self.outputs = head(self.raw, batch.targets)
        self.calls = [call for call in calls if call.is_intact()]
        self.size = batch.size


@final
class ChunkPass:
    """A forward pass of a chunk, ready for the backward passes of any outputs.

    Args:
        problem: The network.
        forward: A pass of at least two samples.
        axes: Layouts that earlier chunks have proven; added to.
        create_graph: Whether the gradients are to be differentiated themselves.

    Attributes:
        raw: The raw outputs.
        outputs: What is differentiated, (sample, output).
        by_autograd: Names of the parameters that the rules don't serve.
    """

    def __init__(
        self,
        problem: Problem,
        forward: Forward,
        axes: SampleAxes,
        *,
        create_graph: bool = False,
    ) -> None:
        self._params: Mapping[str, nn.Parameter] = problem.params
        self._create_graph = create_graph
        self.raw = forward.raw
        self.outputs = forward.outputs
        served, layouts = self._settle(forward.calls, axes)
        self.by_autograd = served.by_autograd
        self._served = served
        names = {id(p): name for name, p in problem.params.items()}
        size = forward.size
        self._calls = [
            _Arranged(call, layouts[id(call)], size, self._owners(i, call, names))
            for i, call in enumerate(served.calls)
        ]

    def _settle(
        self, calls: Sequence[Call], axes: SampleAxes
    ) -> tuple[Served, dict[int, Layout]]:
        """Return what the rules serve, with layouts that hold for these samples."""
        trace = trace_graph(self.raw)
        layouts = axes.known(trace, calls)
        if layouts:
            served, placed = self._serve(calls, layouts)
            if not served.rows_may_move:
                return served, placed
        else:
            self._serve([], [])  # before any backward pass: nothing may be hidden
        return self._serve(calls, axes.prove(self.outputs, trace, calls))

    def _serve(
        self, calls: Sequence[Call], layouts: Sequence[Layout | None]
    ) -> tuple[Served, dict[int, Layout]]:
        placed = {
            id(call): layout
            for call, layout in zip(calls, layouts, strict=True)
            if layout is not None
        }
        usable = [call for call in calls if id(call) in placed]
        return serve(self.outputs, usable, self._params), placed

    def _owners(
        self, position: int, call: Call, names: Mapping[int, str]
    ) -> dict[str, list[str]]:
        """Return the parameters behind each weight of a call, by role."""
        owners: dict[str, list[str]] = {}
        for role, weight in call.use.weights.items():
            found = self._served.sources.get((position, role))
            own = names.get(id(weight))
            owners[role] = found if found is not None else [own] if own else []
        return owners

    @property
    def rule_names(self) -> dict[str, list[str]]:
        """Names of the rules that serve each parameter."""
        found: dict[str, list[str]] = {}
        for arranged in self._calls:
            for name in arranged.wanted(self._params, set()).values():
                for own in name:
                    found.setdefault(own, []).append(arranged.call.rule.name)
        return found

    def cotangent_bytes(self) -> int:
        """Return the bytes of the cotangents of one output, of all calls together."""
        sizes = [torch.Size(a.call.output_shape).numel() for a in self._calls]
        return sum(sizes) * self.outputs.element_size()

    def parts(
        self, outputs: range, without: set[str], *, last: bool = False
    ) -> Iterator[tuple[str, PerSample]]:
        """Yield (parameter, per-sample gradients) for every use of every parameter.

        Several parts of the same parameter add up. Parameters in `by_autograd` and
        those that the outputs do not depend on have none.

        Args:
            outputs: Outputs to differentiate.
            without: Parameters to leave out.
            last: Whether no other outputs will follow, so that the memory of what was
                recorded serves for the cotangents.

        Yields:
            Names and gradients (sample, output, *parameter).
        """
        skipped = self.by_autograd | without
        calls = [(a, a.wanted(self._params, skipped)) for a in self._calls]
        calls = [(arranged, wanted) for arranged, wanted in calls if wanted]
        found = self._cotangents([one for one, _ in calls], outputs, last=last)
        for arranged, wanted in calls:
            with torch.set_grad_enabled(self._create_graph):
                gradients = arranged.gradients(next(found), wanted.keys())
            for role, part in gradients.items():
                weight = arranged.call.use.weights[role]
                if self._params.get(wanted[role][0]) is weight:
                    yield wanted[role][0], part
                else:
                    yield from self._pulled_back(weight, wanted[role], part)

    def _cotangents(
        self, arranged: Sequence["_Arranged"], outputs: range, *, last: bool
    ) -> Iterator[Tensor]:
        """Yield (sample, output, repeat, *rest) for each call; then it is forgotten."""
        found: list[list[Tensor]] = [[] for _ in arranged]
        edges = [one.call.edge for one in arranged]
        for output in outputs if arranged else ():
            seed = torch.zeros_like(self.outputs)  # a new one: products may be views
            seed[:, output] = 1
            products = cotangents(
                self.outputs,
                edges,
                seed,
                keep_graph=not last or output != outputs[-1],
                create_graph=self._create_graph,
            )
            for one, product, place in zip(arranged, products, found, strict=True):
                place.append(one.arrange(product, like=self.outputs))
        found.reverse()
        while found:
            several = found.pop()
            yield (
                torch.stack(several, 1) if len(several) > 1 else several[0].unsqueeze(1)
            )

    def _pulled_back(
        self, weight: Tensor, names: Sequence[str], part: PerSample
    ) -> Iterator[tuple[str, PerSample]]:
        values = part.tensor()
        leaves = [self._params[name] for name in names]
        block = values.flatten(0, 1)
        found = pull_back(weight, leaves, block, create_graph=self._create_graph)
        for name, value in zip(names, found, strict=True):
            yield name, Plain(value.unflatten(0, values.shape[:2]))


@final
class _Arranged:
    """A call with its samples in order."""

    def __init__(
        self, call: Call, layout: Layout, size: int, owners: Mapping[str, list[str]]
    ) -> None:
        self.call = call
        self._layout = layout
        self._size = size
        self._owners = owners

    def wanted(
        self, params: Mapping[str, Any], skipped: set[str]
    ) -> dict[str, list[str]]:
        """Return role to the parameters behind it, of those that are asked for."""
        found = {
            role: [name for name in names if name in params and name not in skipped]
            for role, names in self._owners.items()
        }
        return {role: names for role, names in found.items() if names}

    def arrange(self, product: Tensor | None, *, like: Tensor) -> Tensor:
        """Return a cotangent at the output as (sample, repeat, *rest)."""
        if product is None:
            product = like.new_zeros(self.call.output_shape)
        return self._layout.arrange(product, self._size)

    def gradients(self, found: Tensor, roles: Collection[str]) -> dict[str, PerSample]:
        """Return the per-sample gradients of the call's weights, as grad mode says."""
        use = self.call.use
        inputs = [self._layout.arrange(t, self._size) for t in use.inputs]
        weights = use.weights
        if not torch.is_grad_enabled():
            inputs = [tensor.detach() for tensor in inputs]
            weights = {role: weight.detach() for role, weight in weights.items()}
        arranged = Use(
            inputs=tuple(inputs),
            weights=weights,
            options=use.options,
            axis=self._layout.axis,
        )
        return self.call.rule.gradients(arranged, found, roles)
