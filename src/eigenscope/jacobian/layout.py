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


def codes(num_samples: int, like: Tensor) -> Tensor:
    """Return one power of two per sample, by which scaling is free of rounding."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(num_samples) % 21 - 10
    exponents = spread[torch.randperm(num_samples, generator=generator)]
    return torch.pow(2.0, exponents).to(like)


def obeys(layout: Layout, plain: Tensor, coded: Tensor, code: Tensor) -> bool:
    """Return whether every row of the coded cotangents is its sample's code · plain."""
    num_samples = len(code)
    rows = _by_row(layout.arrange(plain, num_samples))
    found = _by_row(layout.arrange(coded, num_samples)) / code.reshape(-1, 1, 1)
    return bool(((found - rows).abs().amax(2) <= 1e-3 * rows.abs().amax(2)).all())


def _by_row(arranged: Tensor) -> Tensor:
    return arranged.reshape(*arranged.shape[:2], -1)
