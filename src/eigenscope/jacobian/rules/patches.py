"""Patches of padded images, and the sums of outer products that convolutions need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from eigenscope.jacobian.rules.parts import Outer, PerSample, within_range

_STRIPS_PAY_OFF = 500


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

    The patches are made when they are needed. For large images only strips, patches
    that are one row of the kernel high, are copied, and each row of the kernel is one
    product with the same strips, shifted.

    Args:
        padded: Padded inputs.
        cotangents: Cotangents at the outputs, without bias.
        geometry: The kernel's.
        weight_shape: Shape of the weight.
    """

    def __init__(
        self,
        padded: Float[Tensor, "sample repeat channel *image"],
        cotangents: Float[Tensor, "sample output repeat row *position"],
        geometry: Geometry,
        weight_shape: tuple[int, ...],
    ) -> None:
        self.padded = padded
        self.cotangents = cotangents
        self.geometry = geometry
        self.weight_shape = weight_shape

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return (*self.cotangents.shape[:2], *self.weight_shape)

    def outer(self) -> Outer:
        """Return the cotangents and all patches as two factors."""
        left = self.cotangents.flatten(4).unflatten(3, (self.geometry.groups, -1))
        left = left.permute(0, 1, 3, 2, 5, 4).flatten(3, 4)
        positions = self.cotangents.shape[4:]
        right = patches(self.padded, positions, self.geometry).unsqueeze(1)
        return Outer(left, right, self.weight_shape)

    @override
    def is_bounded(self) -> bool:
        return within_range(self.padded, self.cotangents)

    @override
    def tensor(self) -> Float[Tensor, "sample output *weight"]:
        return self.outer().tensor()

    @override
    def write(self, out: Float[Tensor, "sample output *weight"], *, add: bool) -> None:
        if self._strips_pay_off():
            self._write_by_strips(out, add=add)
        else:
            self.outer().write(out, add=add)

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

    def _strips_pay_off(self) -> bool:
        geometry, sizes = self.geometry, self.cotangents.shape
        simple = len(geometry.kernel) == 2 and geometry.groups == 1 and sizes[2] == 1
        long = sizes[4:].numel() * geometry.kernel[0] >= _STRIPS_PAY_OFF
        return simple and long and geometry.stride[0] == 1

    def _write_by_strips(self, out: Tensor, *, add: bool) -> None:
        samples, outputs, _, rows, height, width = self.cotangents.shape
        geometry = self.geometry
        windows = _windows(self.padded, 1, width, geometry)[:, 0]
        strips = windows.permute(0, 1, 4, 2, 3).reshape(
            samples, windows.shape[1] * geometry.kernel[1], -1
        )
        left = self.cotangents.reshape(samples, outputs * rows, height * width)
        for row in range(geometry.kernel[0]):
            start = row * geometry.dilation[0] * width
            strip = strips.narrow(2, start, height * width)
            product = left @ strip.transpose(1, 2)
            product = product.view(samples, outputs, rows, -1, geometry.kernel[1])
            target = out[..., row, :]
            if add:
                target += product
            else:
                target.copy_(product)
