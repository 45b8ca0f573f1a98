"""Finding which axis of a layer's output holds the samples, by scaling each of them."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from eigenscope.autodiff import cotangents
from eigenscope.jacobian.capture import Call
from eigenscope.jacobian.layout import Layout, candidate_layouts, codes, obeys


@final
class SampleAxes:
    """The layouts of a network's calls, proven on some samples and then remembered.

    The cotangents at a call's output are linear in those at the network's outputs.
    Scaling the latter by a power of two per sample scales every row of the former by
    the power of the sample that it belongs to, without rounding, or else the call does
    not keep the samples apart. One more backward pass so finds and proves the layouts
    of all calls.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], list[Layout | None]] = {}
        self._open: set[tuple[object, ...]] = set()

    def known(self, calls: Sequence[Call], num_samples: int) -> list[Layout | None]:
        """Return the layouts proven before; empty if there are none for such calls."""
        signature = _signature(calls)
        if signature in self._open:
            return []
        layouts = self._known.get(signature, [])
        for call, layout in zip(calls, layouts, strict=False):
            if layout is not None and not layout.fits(call.output_shape, num_samples):
                return []
        return layouts

    def prove(
        self, outputs: Tensor, calls: Sequence[Call], num_samples: int
    ) -> list[Layout | None]:
        """Return the layout of each call, None where samples cannot be told apart.

        Args:
            outputs: Recorded outputs (sample, output).
            calls: The calls of that pass.
            num_samples: n, at least 2.

        Returns:
            The layouts; those of calls whose cotangents are zero, or leave several
            possible, are looked for again in the next chunk.

        Cost:
            Two backward passes.
        """
        if not calls or not outputs.requires_grad:
            return [None] * len(calls)
        code = codes(num_samples, outputs)
        generator = torch.Generator().manual_seed(1)
        seed = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
        seed = seed.to(outputs)
        edges = [call.edge for call in calls]
        plain = cotangents(outputs, edges, seed, keep_graph=True)
        coded = cotangents(outputs, edges, seed * code.unsqueeze(1), keep_graph=True)
        return self._learn(calls, plain, coded, code)

    def prove_one_by_one(
        self,
        outputs: Tensor,
        calls: Sequence[Call],
        alone: Sequence[Sequence[Tensor | None]],
    ) -> None:
        """Remember the layouts that show in cotangents of one sample at a time.

        Args:
            outputs: Recorded outputs (sample, output).
            calls: The calls of that pass.
            alone: For each sample the cotangents of its own outputs, by call.
        """
        if not calls or not outputs.requires_grad:
            return
        code = codes(len(alone), outputs)
        both = [list(found) for found in zip(*alone, strict=True)]
        plain = [_weighted(found, torch.ones_like(code)) for found in both]
        coded = [_weighted(found, code) for found in both]
        self._learn(calls, plain, coded, code)

    def _learn(
        self,
        calls: Sequence[Call],
        plain: Sequence[Tensor | None],
        coded: Sequence[Tensor | None],
        code: Tensor,
    ) -> list[Layout | None]:
        signature = _signature(calls)
        layouts: list[Layout | None] = []
        self._open.discard(signature)
        for call, one, other in zip(calls, plain, coded, strict=True):
            possible = _possible(call, one, other, code)
            if one is not None and (len(possible) > 1 or not bool(one.any())):
                self._open.add(signature)
            layouts.append(possible[0] if possible else None)
        self._known[signature] = layouts
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
