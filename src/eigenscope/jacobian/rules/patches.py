"""Patches of padded images, and the sums of outer products that convolutions need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.autodiff import convolution_weight_gradient
from eigenscope.jacobian.rules.parts import (
    Outer,
    PerSample,
    Plain,
    sample_blocks,
    within_range,
)

_FEWEST_POSITIONS = 64
_VECTOR = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How a kernel moves over an image.

    Attributes:
        kernel: Its size along each axis.
        stride: Steps from one position to the next.
        dilation: Steps between its entries.
        groups: Groups of channels that don't meet.
        padding: Padding in the order of `torch.nn.functional.pad`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: list[int]


def patches(
    padded: Float[Tensor, "sample repeat channel *image"],
    positions: Sequence[int],
    geometry: Geometry,
) -> Float[Tensor, "sample group position feature"]:
    """Return what the kernel sees at each position, one row per position.

    Args:
        padded: Padded images.
        positions: Number of positions along each axis.
        geometry: The kernel's; a feature is (channel of the group, *kernel).

    Returns:
        A copy; positions of repeats follow each other.
    """
    num_axes = len(geometry.kernel)
    windows = padded
    for axis in range(num_axes):
        windows = _windows(windows, axis, positions[axis], geometry)
    order = [*range(3), *range(3 + num_axes, 3 + 2 * num_axes)]
    windows = windows.permute(*order, *range(3, 3 + num_axes))
    samples, repeats = windows.shape[:2]
    features = windows.shape[2 : 3 + num_axes].numel() // geometry.groups
    flat = windows.reshape(samples, repeats, geometry.groups, features, -1)
    return flat.permute(0, 2, 1, 4, 3).flatten(2, 3)


def _windows(images: Tensor, axis: int, count: int, geometry: Geometry) -> Tensor:
    """Slide along one axis; the entries of the window become the last axis."""
    step = geometry.dilation[axis]
    window = step * (geometry.kernel[axis] - 1) + 1
    unfolded = images.unfold(axis + 3, window, geometry.stride[axis])
    return unfolded.narrow(axis + 3, 0, count)[..., ::step]


@final
class Convolved(PerSample):
    """Gradients of a convolution's weight, Σ over positions of cotangent ⊗ patch.

    The patches are made when they are needed, for a few samples at a time. Where a
    convolution with one group per sample has a fast kernel, its weight gradient is
    taken instead, and nothing is copied.

    Args:
        images: Inputs without padding.
        cotangents: Cotangents at the outputs, without bias.
        geometry: The kernel's.
        weight_shape: Shape of the weight.
    """

    def __init__(
        self,
        images: Float[Tensor, "sample repeat channel *image"],
        cotangents: Float[Tensor, "sample output repeat row *position"],
        geometry: Geometry,
        weight_shape: tuple[int, ...],
    ) -> None:
        self.images = images
        self.cotangents = cotangents
        self.geometry = geometry
        self.weight_shape = weight_shape

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return (*self.cotangents.shape[:2], *self.weight_shape)

    def outer(self) -> Outer:
        """Return the cotangents and all patches as two factors."""
        geometry = self.geometry
        left = self.cotangents.flatten(4).unflatten(3, (geometry.groups, -1))
        left = left.permute(0, 1, 3, 2, 5, 4).flatten(3, 4)
        padded = self.images
        if any(geometry.padding):
            padded = F.pad(padded, geometry.padding)
        right = patches(padded, self.cotangents.shape[4:], geometry).unsqueeze(1)
        return Outer(left, right, self.weight_shape)

    @override
    def is_bounded(self) -> bool:
        return within_range(self.images, self.cotangents)

    @override
    def tensor(self) -> Float[Tensor, "sample output *weight"]:
        if self.images.requires_grad or self.cotangents.requires_grad:
            return self.outer().tensor()
        values = self.cotangents.new_empty(self.shape)
        self.write(values, add=False)
        return values

    @override
    def write(self, out: Float[Tensor, "sample output *weight"], *, add: bool) -> None:
        weights = self.cotangents.shape[1] * torch.Size(self.weight_shape).numel()
        if self._samples_can_be_groups():
            for block, target in self._blocks(out, weights):
                Plain(block.as_groups()).write(target, add=add)
            return
        features = torch.Size(self.weight_shape[1:]).numel() * self.geometry.groups
        positions = self.cotangents.shape[2] * self.cotangents.shape[4:].numel()
        for block, target in self._blocks(out, features * positions):
            block.outer().write(target, add=add)

    @override
    def times(
        self, vectors: Float[Tensor, "vector *weight"]
    ) -> Float[Tensor, "sample output vector"]:
        return self.outer().times(vectors)

    @override
    def combined(
        self, weights: Float[Tensor, "sample output vector"]
    ) -> Float[Tensor, "vector *weight"]:
        return self.outer().combined(weights)

    @override
    def squared_norms(self) -> Float[Tensor, "sample output"]:
        return self.outer().squared_norms()

    @override
    def squared_sums(self) -> Float[Tensor, "*weight"]:
        return self.outer().squared_sums()

    def as_groups(self) -> Float[Tensor, "sample output *weight"]:
        """Return the gradients as those of one convolution, every sample a group."""
        geometry = self.geometry
        samples, outputs, _, rows = self.cotangents.shape[:4]
        images = self.images.reshape(1, -1, *self.images.shape[3:])
        cotangents = self.cotangents.reshape(1, -1, *self.cotangents.shape[4:])
        weight = images.new_empty(samples * outputs * rows, *self.weight_shape[1:])
        values = convolution_weight_gradient(
            cotangents,
            images,
            weight,
            stride=geometry.stride,
            padding=geometry.padding[-2::-2],
            dilation=geometry.dilation,
            groups=samples * geometry.groups,
        )
        return values.view(self.shape)

    def _samples_can_be_groups(self) -> bool:
        """Return whether a convolution of that many groups has a fast kernel."""
        geometry, sizes = self.geometry, self.cotangents.shape
        columns = self.weight_shape[1]
        rows = sizes[3] // geometry.groups
        fills_vectors = columns % _VECTOR == 0 and rows % _VECTOR == 0
        return (
            self.images.dtype == torch.float32
            and self.images.device.type == "cpu"
            and torch.backends.mkldnn.is_available()
            and geometry.padding[::2] == geometry.padding[1::2]
            and sizes[2] == 1
            and min(sizes[1], geometry.groups) == 1
            and torch.Size(geometry.kernel).numel() > 1
            and sizes[4:].numel() >= _FEWEST_POSITIONS
            and (fills_vectors or columns == rows == 1)
        )

    def _blocks(
        self, out: Tensor, entries: int
    ) -> Iterator[tuple["Convolved", Tensor]]:
        """Yield the gradients of a few samples and their place in the result.

        Args:
            out: The result.
            entries: Numbers that one sample takes on the way.

        Yields:
            Gradients and a part of `out`.
        """
        sizes = self.geometry, self.weight_shape
        for rows in sample_blocks(len(self.images), entries * out.element_size()):
            images, cotangents = self.images[rows], self.cotangents[rows]
            yield Convolved(images, cotangents, *sizes), out[rows]
