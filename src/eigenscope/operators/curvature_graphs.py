"""What is recorded of a chunk of samples once, so that products only read it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from eigenscope.autodiff import (
    directional_gradient,
    edge_of,
    gradient_graph,
    graph_products,
    outputs_at,
)
from eigenscope.jacobian.coverage import require_visible_parameters
from eigenscope.losses import OutputMatrix, Risk
from eigenscope.problem import Batch

Parts = Sequence[Tensor]
MatrixRule = Callable[[Tensor, Any], OutputMatrix]


class RecordedChunk(ABC):
    """Products of one chunk's part of a curvature matrix, block by block."""

    @abstractmethod
    def product(
        self, names: Sequence[str], vector: Parts, *, together: int | None = None
    ) -> Parts:
        """Return the diagonal block of some parameters times a vector.

        Args:
            names: The parameters.
            vector: One tensor for each, of its shape.
            together: Number of vectors on the first axis, for one batched pass.

        Returns:
            The same.

        Raises:
            RuntimeError: If several vectors meet a function without a batching rule.
        """


Recorder = Callable[[Batch, Mapping[str, Tensor]], RecordedChunk]


@final
class HessianChunk(RecordedChunk):
    """∇²L v = ∂(∇L · v)/∂θ through the graph of the gradient."""

    def __init__(self, risk: Risk, batch: Batch, leaves: Mapping[str, Tensor]) -> None:
        self._leaves = dict(leaves)
        raw = risk.problem.raw(batch.inputs)
        require_visible_parameters(raw)
        value = risk.numerator(raw, batch.targets)
        found: Sequence[Tensor] = [torch.zeros_like(leaf) for leaf in leaves.values()]
        if value.requires_grad:  # else no parameter has influence
            found = gradient_graph(value, list(leaves.values()))
        self._gradients = {n: edge_of(g) for n, g in zip(leaves, found, strict=True)}

    @override
    def product(
        self, names: Sequence[str], vector: Parts, *, together: int | None = None
    ) -> Parts:
        return graph_products(
            [self._gradients[name] for name in names],
            [self._leaves[name] for name in names],
            vector,
            together=together,
        )


@final
class ForwardChunk(RecordedChunk):
    """∇²L v = d/dt ∇L(θ + t v), which keeps the samples alone."""

    def __init__(self, risk: Risk, batch: Batch, leaves: Mapping[str, Tensor]) -> None:
        self._leaves = dict(leaves)
        self._value = partial(_value, risk, batch)

    @override
    def product(
        self, names: Sequence[str], vector: Parts, *, together: int | None = None
    ) -> Parts:
        point = {name: self._leaves[name] for name in names}
        return directional_gradient(self._value, point, vector, together=together)


def _value(risk: Risk, batch: Batch, params: Mapping[str, Tensor]) -> Tensor:
    """Return a chunk's part of L(θ) at other values of some parameters."""
    raw = outputs_at(risk.problem, params, batch.inputs)
    return risk.numerator(raw, batch.targets)


@final
class OutputChunk(RecordedChunk):
    """Jᵀ M J v: J v = ∂(vᵀ Jᵀ u)/∂u through the graph of a backward pass, Jᵀ as usual.

    Needs nothing but reverse mode, so it holds for whatever a Hessian does.
    """

    def __init__(
        self,
        risk: Risk,
        rule: MatrixRule,
        batch: Batch,
        leaves: Mapping[str, Tensor],
    ) -> None:
        self._leaves = dict(leaves)
        self._outputs = risk.problem.raw(batch.inputs)
        require_visible_parameters(self._outputs)
        with torch.no_grad():
            self._matrix = rule(self._outputs.detach(), batch.targets)
        self._scale = 1 / risk.denominator
        self._seed = torch.zeros_like(self._outputs, requires_grad=True)
        found: Sequence[Tensor] = [torch.zeros_like(leaf) for leaf in leaves.values()]
        if self._outputs.requires_grad:
            found = gradient_graph(self._outputs, list(leaves.values()), self._seed)
        self._pulled = {n: edge_of(g) for n, g in zip(leaves, found, strict=True)}

    @override
    def product(
        self, names: Sequence[str], vector: Parts, *, together: int | None = None
    ) -> Parts:
        pulled = [self._pulled[name] for name in names]
        (images,) = graph_products(pulled, [self._seed], vector, together=together)
        rows = [images] if together is None else list(images)
        with torch.no_grad():
            products = [self._matrix.product(row).mul_(self._scale) for row in rows]
        weighted = products[0] if together is None else torch.stack(products)
        leaves = [self._leaves[name] for name in names]
        return graph_products([self._outputs], leaves, [weighted], together=together)
