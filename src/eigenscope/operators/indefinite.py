"""The small side of a difference of two Gram matrices."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.operators.base import Jacobian, SymmetricOperator


@final
class IndefiniteSide(SymmetricOperator):
    """K^½ D K^½ with K = F Fᵀ, F = [F₊; F₋] and D = diag(1, -1).

    It has the non-zero eigenvalues of Fᵀ D F = F₊ᵀF₊ - F₋ᵀF₋.

    Args:
        positive: F₊.
        negative: F₋, with as many columns.
    """

    def __init__(self, positive: Jacobian, negative: Jacobian) -> None:
        self._positive = positive
        self._negative = negative

    @property
    @override
    def shape(self) -> tuple[int, int]:
        size = self._positive.shape[0] + self._negative.shape[0]
        return size, size

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._positive.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self._positive.device

    @override
    def multiply(
        self, block: Float[Tensor, "column vector"]
    ) -> Float[Tensor, "row vector"]:
        return self.dense() @ block

    @override
    def diagonal(self) -> Float[Tensor, " row"]:
        return self.dense().diagonal()

    @override
    def dense(self) -> Float[Tensor, "row column"]:
        rows = torch.cat([self._positive.dense(), self._negative.dense()])
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        signs = rows.new_ones(len(rows))
        signs[self._positive.shape[0] :] = -1
        return (root * signs) @ root
