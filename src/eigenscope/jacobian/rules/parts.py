"""Per-sample gradients in the form in which rules find them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import isfinite
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

_BLOCK_BYTES = 4 * 2**20


class PerSample(ABC):
    """Gradients ∂z_c(x_i)/∂W of one weight, for some samples i and outputs c."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(sample, output, *weight)."""

    @abstractmethod
    def is_bounded(self) -> bool:
        """Return whether the factors are finite and too small to overflow."""

    @abstractmethod
    def tensor(self) -> Float[Tensor, "sample output *weight"]:
        """Return the gradients as a new tensor that autograd can differentiate."""

    @abstractmethod
    def write(self, out: Float[Tensor, "sample output *weight"], *, add: bool) -> None:
        """Write the gradients into `out`, or add them to what it holds.

        Args:
            out: Any strides over samples and outputs, C order within a weight.
            add: Whether to add.
        """

    @abstractmethod
    def times(
        self, vectors: Float[Tensor, "vector *weight"]
    ) -> Float[Tensor, "sample output vector"]:
        """Return the inner products of every gradient with every vector."""

    @abstractmethod
    def combined(
        self, weights: Float[Tensor, "sample output vector"]
    ) -> Float[Tensor, "vector *weight"]:
        """Return the sums of the gradients with the given weights."""

    @abstractmethod
    def squared_norms(self) -> Float[Tensor, "sample output"]:
        """Return ‖gradient‖² of every sample and output."""

    @abstractmethod
    def squared_sums(self) -> Float[Tensor, "*weight"]:
        """Return Σ gradient², entry by entry, over samples and outputs."""


def within_range(left: Tensor, right: Tensor) -> bool:
    """Return whether sums of products of entries are sure to be finite: ‖l‖ ‖r‖ is."""
    bound = float(left.detach().norm()) * float(right.detach().norm())
    return bound <= torch.finfo(left.dtype).max


def sample_blocks(num_samples: int, sample_bytes: int) -> Iterator[slice]:
    """Yield blocks of samples whose intermediate results stay in the cache."""
    size = max(8, _BLOCK_BYTES // max(1, sample_bytes))
    for first in range(0, num_samples, size):
        yield slice(first, first + size)


@final
class Plain(PerSample):
    """Gradients that are there as they are.

    Args:
        values: The gradients.
    """

    def __init__(self, values: Float[Tensor, "sample output *weight"]) -> None:
        self.values = values

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @override
    def is_bounded(self) -> bool:
        return isfinite(float(self.values.detach().sum()))

    @override
    def tensor(self) -> Float[Tensor, "sample output *weight"]:
        return self.values

    @override
    def write(self, out: Float[Tensor, "sample output *weight"], *, add: bool) -> None:
        if add:
            out += self.values
        else:
            out.copy_(self.values)

    @override
    def times(
        self, vectors: Float[Tensor, "vector *weight"]
    ) -> Float[Tensor, "sample output vector"]:
        samples, outputs = self.values.shape[:2]
        flat = self.values.reshape(samples * outputs, -1)
        return (flat @ vectors.reshape(len(vectors), -1).T).unflatten(0, (samples, -1))

    @override
    def combined(
        self, weights: Float[Tensor, "sample output vector"]
    ) -> Float[Tensor, "vector *weight"]:
        flat = weights.flatten(0, 1).T @ self.values.reshape(
            weights[..., 0].numel(), -1
        )
        return flat.view(-1, *self.values.shape[2:])

    @override
    def squared_norms(self) -> Float[Tensor, "sample output"]:
        samples, outputs = self.values.shape[:2]
        return self.values.reshape(samples, outputs, -1).square().sum(2)

    @override
    def squared_sums(self) -> Float[Tensor, "*weight"]:
        return self.values.square().sum((0, 1))


@final
class Outer(PerSample):
    """Sums of outer products, Σ_t left[i, c, g, t] ⊗ right[i, c, g, t].

    The weight is (group, left feature, right feature) in C order. A factor that does
    not depend on the output (the layer's inputs) has an output axis of length 1.

    Args:
        left: Rows of the weight.
        right: Columns of the weight.
        weight_shape: Shape of the weight.
    """

    def __init__(
        self,
        left: Float[Tensor, "sample #output group position row"],
        right: Float[Tensor, "sample #output group position column"],
        weight_shape: tuple[int, ...],
    ) -> None:
        self.left = left
        self.right = right
        self.weight_shape = weight_shape

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        outputs = max(self.left.shape[1], self.right.shape[1])
        return (len(self.left), outputs, *self.weight_shape)

    @override
    def is_bounded(self) -> bool:
        return within_range(self.left, self.right)

    @override
    def tensor(self) -> Float[Tensor, "sample output *weight"]:
        return self._product().reshape(self.shape)

    @override
    def write(self, out: Float[Tensor, "sample output *weight"], *, add: bool) -> None:
        samples, outputs = self.shape[:2]
        groups, positions, rows = self.left.shape[2:]
        target = out.view(samples, outputs, groups, rows, self.right.shape[4])
        if positions == 1 and out.dtype == self.left.dtype:
            column, row = self.left.transpose(3, 4), self.right
            if add:
                target.addcmul_(column, row)
            else:
                torch.mul(column, row, out=target)
        elif not add and groups == 1 and outputs == 1 and out.is_contiguous():
            torch.bmm(
                self.left[:, 0, 0].transpose(1, 2),
                self.right[:, 0, 0],
                out=target[:, 0, 0],
            )
        else:
            self._write_in_blocks(target, add=add)

    @override
    def times(
        self, vectors: Float[Tensor, "vector *weight"]
    ) -> Float[Tensor, "sample output vector"]:
        shared, moving, flipped = self._factors()
        matrices = vectors.view(len(vectors), shared.shape[1], self.left.shape[4], -1)
        if flipped:
            matrices = matrices.transpose(2, 3)
        images = torch.einsum("ngts,mgrs->nmgtr", shared, matrices)
        return moving.flatten(2) @ images.flatten(2).transpose(1, 2)

    @override
    def combined(
        self, weights: Float[Tensor, "sample output vector"]
    ) -> Float[Tensor, "vector *weight"]:
        shared, moving, flipped = self._factors()
        mixed = weights.transpose(1, 2) @ moving.flatten(2)
        mixed = mixed.unflatten(2, moving.shape[2:])
        order = "nmgtr,ngts->mgsr" if flipped else "nmgtr,ngts->mgrs"
        return torch.einsum(order, mixed, shared).reshape(-1, *self.weight_shape)

    @override
    def squared_norms(self) -> Float[Tensor, "sample output"]:
        rows, columns = self.left.shape[4], self.right.shape[4]
        positions = self.left.shape[3]
        if positions * (rows + columns) >= rows * columns:
            return self._product().flatten(2).square().sum(2)
        grams = self.left @ self.left.transpose(3, 4)
        return (grams * (self.right @ self.right.transpose(3, 4))).sum((2, 3, 4))

    @override
    def squared_sums(self) -> Float[Tensor, "*weight"]:
        if self.left.shape[3] > 1:
            sums = self._product().square().sum((0, 1))
        else:
            rows, columns = (f.square().sum(1) for f in (self.left, self.right))
            sums = torch.einsum("ngtr,ngts->grs", rows, columns)
        return sums.reshape(self.weight_shape)

    def _factors(self) -> tuple[Tensor, Tensor, bool]:
        """Return the factor all outputs share, the other, and if left is shared."""
        if self.right.shape[1] == 1:
            return self.right[:, 0], self.left, False
        return self.left[:, 0], self.right, True

    def _write_in_blocks(self, target: Tensor, *, add: bool) -> None:
        for rows in sample_blocks(len(target), target[0].nbytes):
            part = Outer(self.left[rows], self.right[rows], self.weight_shape)
            if add:
                target[rows] += part._product()
            else:
                target[rows].copy_(part._product())

    def _product(self) -> Tensor:
        """Return (sample, output, group, row, column) with shared columns in one go."""
        samples, outputs = self.shape[:2]
        groups, positions, rows = self.left.shape[2:]
        if self.right.shape[1] == 1 and outputs > 1:
            left = self.left.permute(0, 2, 1, 4, 3)
            left = left.reshape(samples, groups, outputs * rows, positions)
            product = left @ self.right[:, 0]
            return product.unflatten(2, (outputs, rows)).transpose(1, 2)
        return self.left.transpose(3, 4) @ self.right


@final
class Scattered(PerSample):
    """Rows of a table, Σ_t values[i, c, t] added to row indices[i, t].

    Args:
        indices: Row of the table for each position.
        values: What is added to it.
        num_rows: Rows of the table.
    """

    def __init__(
        self,
        indices: Int[Tensor, "sample position"],
        values: Float[Tensor, "sample output position column"],
        num_rows: int,
    ) -> None:
        self.indices = indices
        self.values = values
        self.num_rows = num_rows

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        samples, outputs, _, columns = self.values.shape
        return samples, outputs, self.num_rows, columns

    @override
    def is_bounded(self) -> bool:
        return isfinite(float(self.values.detach().abs().sum()))

    @override
    def tensor(self) -> Float[Tensor, "sample output *weight"]:
        zeros = self.values.new_zeros(self.shape)
        return zeros.scatter_add(2, self._expanded(), self.values)

    @override
    def write(self, out: Float[Tensor, "sample output *weight"], *, add: bool) -> None:
        if not add:
            out.zero_()
        out.scatter_add_(2, self._expanded(), self.values.to(out.dtype))

    @override
    def times(
        self, vectors: Float[Tensor, "vector *weight"]
    ) -> Float[Tensor, "sample output vector"]:
        read = vectors[:, self.indices].permute(1, 2, 3, 0).flatten(1, 2)
        return self.values.flatten(2) @ read

    @override
    def combined(
        self, weights: Float[Tensor, "sample output vector"]
    ) -> Float[Tensor, "vector *weight"]:
        mixed = weights.transpose(1, 2) @ self.values.flatten(2)
        mixed = mixed.unflatten(2, self.values.shape[2:]).transpose(0, 1)
        zeros = mixed.new_zeros(len(mixed), self.num_rows, mixed.shape[3])
        return zeros.index_add_(1, self.indices.flatten(), mixed.flatten(1, 2))

    @override
    def squared_norms(self) -> Float[Tensor, "sample output"]:
        same = self.indices.unsqueeze(1) == self.indices.unsqueeze(2)
        grams = self.values @ self.values.transpose(2, 3)
        return (grams * same.unsqueeze(1)).sum((2, 3))

    @override
    def squared_sums(self) -> Float[Tensor, "*weight"]:
        return self.tensor().square().sum((0, 1))

    def _expanded(self) -> Tensor:
        return self.indices[:, None, :, None].expand(self.values.shape)
