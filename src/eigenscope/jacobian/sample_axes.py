"""Finding which axis of a layer's output holds the samples, by scaling each of them."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from eigenscope.autodiff import cotangents
from eigenscope.jacobian.capture import Call
from eigenscope.jacobian.graph_trace import GraphTrace
from eigenscope.jacobian.layout import Layout, candidate_layouts, codes, obeys

_Layouts = list[Layout | None]
_REMEMBERED = 8


@final
class SampleAxes:
    """The layouts of a network's calls, proven on some samples and then remembered.

    The cotangents at a call's output are linear in those at the network's outputs.
    Scaling the latter by a power of two per sample scales every row of the former by
    the power of the sample that it belongs to, without rounding, or else the call does
    not keep the samples apart. One more backward pass so finds and proves the layouts
    of all calls. They hold for other batches whose graph does the same; a network that
    arranges rows otherwise, as by the number of samples, has another graph and is
    proven anew.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], list[tuple[GraphTrace, _Layouts]]] = {}

    def known(self, trace: GraphTrace, calls: Sequence[Call]) -> list[Layout | None]:
        """Return the layouts proven before; empty if there are none for such a graph.

        Args:
            trace: Of the raw outputs.
            calls: The calls of that pass.

        Returns:
            A layout for each call, or nothing.
        """
        for earlier, layouts in self._known.get(_signature(calls), []):
            if earlier.matches(trace) and all(
                layout is None or layout.fits(call.output_shape, trace.num_samples)
                for call, layout in zip(calls, layouts, strict=True)
            ):
                return layouts
        return []

    def prove(
        self, outputs: Tensor, trace: GraphTrace, calls: Sequence[Call]
    ) -> list[Layout | None]:
        """Return the layout of each call, None where samples cannot be told apart.

        Args:
            outputs: Recorded outputs (sample, output), of at least two samples.
            trace: Of the raw outputs that these were made of.
            calls: The calls of that pass.

        Returns:
            The layouts; those of calls whose cotangents are zero, or leave several
            possible, are looked for again in the next chunk.

        Cost:
            Two backward passes.
        """
        if not calls or not outputs.requires_grad:
            return [None] * len(calls)
        both = codes(trace.num_samples, outputs)
        generator = torch.Generator().manual_seed(1)
        seed = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        seed = seed.to(outputs)
        edges = [call.edge for call in calls]
        one, other = (
            cotangents(outputs, edges, seed * code.unsqueeze(1), keep_graph=True)
            for code in both
        )
        return self._learn(trace, calls, one, other, both[1] / both[0])

    def prove_one_by_one(
        self,
        outputs: Tensor,
        trace: GraphTrace,
        calls: Sequence[Call],
        alone: Sequence[Sequence[Tensor | None]],
    ) -> None:
        """Remember the layouts that show in cotangents of one sample at a time.

        Args:
            outputs: Recorded outputs (sample, output).
            trace: Of the raw outputs that these were made of.
            calls: The calls of that pass.
            alone: For each sample the cotangents of its own outputs, by call.
        """
        if not calls or not outputs.requires_grad:
            return
        both = codes(len(alone), outputs)
        by_call = [list(found) for found in zip(*alone, strict=True)]
        one, other = ([_weighted(found, code) for found in by_call] for code in both)
        self._learn(trace, calls, one, other, both[1] / both[0])

    def _learn(
        self,
        trace: GraphTrace,
        calls: Sequence[Call],
        plain: Sequence[Tensor | None],
        coded: Sequence[Tensor | None],
        code: Tensor,
    ) -> list[Layout | None]:
        layouts: list[Layout | None] = []
        is_open = False
        for call, one, other in zip(calls, plain, coded, strict=True):
            possible = _possible(call, one, other, code)
            is_open |= one is not None and (len(possible) > 1 or not bool(one.any()))
            layouts.append(possible[0] if possible else None)
        if not is_open:
            proven = self._known.setdefault(_signature(calls), [])
            proven.insert(0, (trace, layouts))
            del proven[_REMEMBERED:]
        return layouts


def _weighted(found: Sequence[Tensor | None], weights: Tensor) -> Tensor | None:
    """Return the sum of one call's cotangents with a weight for each sample."""
    terms = [w * g for w, g in zip(weights, found, strict=True) if g is not None]
    return torch.stack(terms).sum(0) if terms else None


def _possible(
    call: Call, plain: Tensor | None, coded: Tensor | None, code: Tensor
) -> list[Layout]:
    if plain is None or coded is None:
        return []
    return [
        layout
        for layout in candidate_layouts(call.output_shape, len(code))
        if call.rule.accepts(call.use, call.output_shape, layout)
        and obeys(layout, plain, coded, code)
    ]


def _signature(calls: Sequence[Call]) -> tuple[object, ...]:
    return tuple(call.signature() for call in calls)
