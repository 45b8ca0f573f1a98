"""Per-sample gradients as sums of outer products of two sides."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from eigenscope.jacobian import Convolved, Outer, PerSample, Plain, Scattered


class Side(ABC):
    """A vector for every sample, position and output, or one for all outputs."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int, int]:
        """(group, sample, position, output or 1, feature)."""

    @property
    @abstractmethod
    def tensor(self) -> Tensor:
        """What it is made of."""

    @abstractmethod
    def part(self, first: int, stop: int) -> "Side":
        """Return the samples first … stop - 1."""

    @abstractmethod
    def made_of(self, tensor: Tensor) -> "Side":
        """Return the same side with another tensor."""

    @property
    @final
    def is_shared(self) -> bool:
        """Whether all outputs have the same vectors."""
        return self.shape[3] == 1

    @property
    @final
    def num_bytes(self) -> int:
        """Bytes that it takes."""
        return self.tensor.numel() * self.tensor.element_size()


@final
class Features(Side):
    """Vectors that are there.

    Args:
        values: The vectors; contiguous within a group.
    """

    def __init__(
        self, values: Float[Tensor, "group sample position #output feature"]
    ) -> None:
        self.values = values

    @property
    @override
    def shape(self) -> tuple[int, int, int, int, int]:
        group, sample, position, output, feature = self.values.shape
        return group, sample, position, output, feature

    @property
    @override
    def tensor(self) -> Tensor:
        return self.values

    @override
    def part(self, first: int, stop: int) -> "Features":
        return Features(self.values[:, first:stop])

    @override
    def made_of(self, tensor: Tensor) -> "Features":
        return Features(tensor)


@final
class Labels(Side):
    """Unit vectors, known by the place of their one: which row of a table was read.

    Args:
        indices: The places.
        num_features: Length of the vectors.
    """

    def __init__(
        self, indices: Int[Tensor, "sample position"], num_features: int
    ) -> None:
        self.indices = indices
        self.num_features = num_features

    @property
    @override
    def shape(self) -> tuple[int, int, int, int, int]:
        samples, positions = self.indices.shape
        return 1, samples, positions, 1, self.num_features

    @property
    @override
    def tensor(self) -> Tensor:
        return self.indices

    @override
    def part(self, first: int, stop: int) -> "Labels":
        return Labels(self.indices[first:stop], self.num_features)

    @override
    def made_of(self, tensor: Tensor) -> "Labels":
        return Labels(tensor, self.num_features)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """Gradients Σ_t left[i, c, t] ⊗ right[i, c, t] of one use of one parameter.

    Attributes:
        left: Rows of the weight.
        right: Columns of the weight.
        weight_shape: Shape of the parameter.
    """

    left: Side
    right: Side
    weight_shape: tuple[int, ...]

    @property
    def moves_right(self) -> bool:
        """Whether it is the right side that differs between outputs."""
        if isinstance(self.left, Labels):
            return True
        return self.left.is_shared and not self.right.is_shared

    @property
    def moving(self) -> Side:
        """The side that differs between outputs."""
        return self.right if self.moves_right else self.left

    @property
    def shared(self) -> Side:
        """The other side."""
        return self.left if self.moves_right else self.right

    @property
    def num_samples(self) -> int:
        """Samples."""
        return self.left.shape[1]

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes."""
        return self.left.num_bytes + self.right.num_bytes

    def part(self, first: int, stop: int) -> "Factor":
        """Return the samples first … stop - 1."""
        return Factor(
            left=self.left.part(first, stop),
            right=self.right.part(first, stop),
            weight_shape=self.weight_shape,
        )

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Factor":
        """Return the factor with other tensors in place of its own."""
        return Factor(
            left=self.left.made_of(change(self.left.tensor)),
            right=self.right.made_of(change(self.right.tensor)),
            weight_shape=self.weight_shape,
        )

    def gradients(self) -> PerSample:
        """Return the same gradients in the form of a rule, in the same memory."""
        right = self.right.tensor.permute(1, 3, 0, 2, 4)
        if isinstance(self.left, Labels):
            rows = self.left.num_features
            return Scattered(self.left.indices, right.squeeze(2), rows)
        left = self.left.tensor.permute(1, 3, 0, 2, 4)
        return Outer(left, right, self.weight_shape)


def factor_of(part: PerSample, dtype: torch.dtype) -> Factor | None:
    """Return the two sides of a part; None if it has none.

    Args:
        part: Gradients of some samples by one parameter.
        dtype: Type to compute in.

    Returns:
        The factors.
    """
    if isinstance(part, Convolved):
        part = part.outer()
    if isinstance(part, Outer):
        left, right = (_features(side, dtype) for side in (part.left, part.right))
        return Factor(left=left, right=right, weight_shape=part.shape[2:])
    if isinstance(part, Scattered):
        rows = Labels(part.indices, part.num_rows)
        columns = _features(part.values.unsqueeze(2), dtype)
        return Factor(left=rows, right=columns, weight_shape=part.shape[2:])
    return None


def joined(parts: list[PerSample]) -> PerSample:
    """Return the gradients of several groups of outputs as those of all outputs.

    Args:
        parts: Of the same kind, in the order of the outputs; the first of two outputs
            or more if there are so many.

    Returns:
        One part of that kind.

    Raises:
        TypeError: If it is of another kind than the rules give.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first, Outer):
        sides = [
            _joined_side([getattr(part, name) for part in parts])
            for name in ("left", "right")
        ]
        return Outer(sides[0], sides[1], first.weight_shape)
    if isinstance(first, Convolved):
        cotangents = [part.cotangents for part in parts if isinstance(part, Convolved)]
        several = torch.cat(cotangents, 1)
        return Convolved(first.images, several, first.geometry, first.weight_shape)
    if isinstance(first, Scattered):
        values = [part.values for part in parts if isinstance(part, Scattered)]
        return Scattered(first.indices, torch.cat(values, 1), first.num_rows)
    if isinstance(first, Plain):
        return Plain(torch.cat([part.tensor() for part in parts], 1))
    raise TypeError(f"no way to join {type(first).__name__}")


def _joined_side(sides: list[Tensor]) -> Tensor:
    return sides[0] if sides[0].shape[1] == 1 else torch.cat(sides, 1)


def _features(
    side: Float[Tensor, "sample output group position feature"], dtype: torch.dtype
) -> Features:
    return Features(side.permute(2, 0, 3, 1, 4).to(dtype).contiguous())
