"""Where the samples are in a tensor inside the network."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the n samples are spread along one axis of length n · m.

    Attributes:
        axis: The axis, 0 or 1.
        interleaved: Whether position r belongs to sample r mod n, as after
            (position, sample).flatten(0, 1); otherwise to sample r div m.
    """

    axis: int
    interleaved: bool

    def fits(self, shape: tuple[int, ...], num_samples: int) -> bool:
        """Return whether a tensor of this shape can hold the samples this way."""
        if len(shape) <= self.axis or shape[self.axis] == 0:
            return False
        length = shape[self.axis]
        return length == num_samples if self.axis else length % num_samples == 0

    def arrange(self, tensor: Tensor, num_samples: int) -> Tensor:
        """Return the tensor as (sample, repeat, *rest), a view where possible."""
        if self.axis == 1:
            return tensor.transpose(0, 1)
        if self.interleaved:
            return tensor.unflatten(0, (-1, num_samples)).transpose(0, 1)
        return tensor.unflatten(0, (num_samples, -1))


ROWS = Layout(axis=0, interleaved=False)
_LAYOUTS = (
    ROWS,
    Layout(axis=1, interleaved=False),
    Layout(axis=0, interleaved=True),
)


def candidate_layouts(shape: tuple[int, ...], num_samples: int) -> Iterator[Layout]:
    """Yield the layouts that a tensor's shape allows, the usual one first."""
    for layout in _LAYOUTS:
        same_as_rows = layout.interleaved and shape[:1] == (num_samples,)
        if layout.fits(shape, num_samples) and not same_as_rows:
            yield layout


def codes(num_samples: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return two factors per sample whose ratio is another one for every sample.

    They are powers of two, by which scaling is free of rounding, as far as these do
    not come close to the limits of the type: for 128 samples, 41 in float16. More
    differ by further factors from 1 to 2, which types of half precision have no digits
    for: there the ratios repeat.

    Args:
        num_samples: n.
        like: A tensor of the type and on the device that they are to have.

    Returns:
        Two tensors of n factors.
    """
    limits = torch.finfo(like.dtype)
    span = 128 if limits.max > 2.0**40 else 41
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(num_samples, generator=generator)
    exponents = order % span - span // 2
    one = torch.pow(2.0, -(exponents // 2))
    other = torch.pow(2.0, exponents - exponents // 2)
    if limits.eps < 1e-4:
        other *= 1 + (order // span) / -(-num_samples // span)
    return one.to(like), other.to(like)


def obeys(layout: Layout, plain: Tensor, coded: Tensor, code: Tensor) -> bool:
    """Return whether every row of the coded cotangents is its sample's code · plain."""
    num_samples = len(code)
    rows = _by_row(layout.arrange(plain, num_samples))
    found = _by_row(layout.arrange(coded, num_samples)) / code.reshape(-1, 1, 1)
    return bool(((found - rows).abs().amax(2) <= 1e-3 * rows.abs().amax(2)).all())


def _by_row(arranged: Tensor) -> Tensor:
    return arranged.reshape(*arranged.shape[:2], -1)
