"""Gradients that are formed, laid out for large matrix products."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from eigenscope.autodiff import writable_empty
from eigenscope.jacobian import Convolved, Outer, PerSample
from eigenscope.jacobian.rows import require_finite_gradients
from eigenscope.jacobian.rules.patches import Geometry, patches

_OWN_ENTRIES = 1024

_Piece = Float[Tensor, "sample output entry"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the entries of parameters are, the same for all samples of a kernel.

    Inner products do not mind the order of the entries. A large parameter has matrices
    of its own; if it is the weight of a convolution in two dimensions, one for each row
    of the kernel, so that none is copied into place. Small ones share a matrix.

    Attributes:
        columns: Small parameters, and their columns of the matrix that they share.
        shapes: Large parameters, and their shapes.
        in_order: Whether all entries stay in their order.
    """

    columns: Mapping[str, slice]
    shapes: Mapping[str, tuple[int, ...]]
    in_order: bool

    @classmethod
    def of(
        cls, shapes: Mapping[str, tuple[int, ...]], *, in_order: bool = False
    ) -> "Layout":
        """Return the layout of some parameters.

        Args:
            shapes: The parameters.
            in_order: Whether the gradients will be needed as such.

        Returns:
            The layout.
        """
        columns: dict[str, slice] = {}
        large: dict[str, tuple[int, ...]] = {}
        stop = 0
        for name, shape in shapes.items():
            entries = torch.Size(shape).numel()
            if entries >= _OWN_ENTRIES:
                large[name] = shape
            else:
                columns[name] = slice(stop, stop + entries)
                stop += entries
        return cls(columns=columns, shapes=large, in_order=in_order)

    @property
    def width(self) -> int:
        """Columns of the matrix that small parameters share."""
        return max((where.stop for where in self.columns.values()), default=0)

    def num_pieces(self, name: str) -> int:
        """Return how many matrices a large parameter has."""
        shape = self.shapes[name]
        return shape[2] if len(shape) == 4 and not self.in_order else 1


@final
class Formed:
    """Gradients of consecutive samples by some parameters.

    Args:
        layout: Where their entries are.
        start: Index of the first sample.
        shape: Samples and outputs.
        like: Their memory, or no entry, which gives dtype and device.

    Attributes:
        layout: As given.
        start: As given.
        flat: All entries.
        num_outputs: k.
        shared: The matrix of the small parameters.
        pieces: The matrices of the large ones.
    """

    def __init__(
        self, layout: Layout, start: int, shape: tuple[int, int], like: Tensor
    ) -> None:
        self.layout = layout
        self.start = start
        self.num_outputs = shape[1]
        entries = {name: torch.Size(s).numel() for name, s in layout.shapes.items()}
        total = layout.width + sum(entries.values())
        numbers = shape[0] * shape[1]
        flat = like
        if not flat.numel():
            size = (numbers * total,)
            # Not in huge pages: new ones for each kernel can take longer to touch than
            # the gradients take to compute.
            flat = writable_empty(size, dtype=like.dtype, device=like.device)
        self.flat = flat
        self._shape = shape
        self.shared: _Piece = flat[: numbers * layout.width].view(*shape, layout.width)
        self.pieces: dict[str, list[_Piece]] = {}
        first = numbers * layout.width
        for name, size in entries.items():
            count = layout.num_pieces(name)
            part = flat[first : first + numbers * size]
            self.pieces[name] = [p.view(*shape, -1) for p in part.chunk(count)]
            first += numbers * size

    @property
    def names(self) -> set[str]:
        """The parameters."""
        return {*self.layout.columns, *self.layout.shapes}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Formed":
        """Return the same gradients in other memory."""
        return Formed(self.layout, self.start, self._shape, change(self.flat))

    def gradients(
        self, name: str, samples: slice
    ) -> Float[Tensor, "sample output entry"]:
        """Return the gradients by one parameter, in order if the layout says so."""
        if name in self.layout.columns:
            return self.shared[samples, :, self.layout.columns[name]]
        (piece,) = self.pieces[name]
        return piece[samples]

    def write(
        self, name: str, part: PerSample, first: int, outputs: slice, *, add: bool
    ) -> None:
        """Write the gradients of some samples and outputs, or add them.

        Args:
            name: The parameter.
            part: Its gradients.
            first: Index of the first sample.
            outputs: The outputs.
            add: Whether to add to what is there.

        Raises:
            ValueError: If an entry is not finite.
        """
        targets = self._targets(name, first, part.shape[0], outputs)
        if len(targets) > 1:
            _write_cut(part, targets, add=add)
        elif isinstance(part, Outer | Convolved):
            _write_product(part, targets[0], add=add)
        else:
            _assign(targets[0], part.tensor(), add=add)
        if not part.is_bounded():
            for target in targets:
                require_finite_gradients(name, target, first)

    def clear(self, name: str, first: int, size: int, outputs: slice) -> None:
        """Write zeros for some samples and outputs."""
        for target in self._targets(name, first, size, outputs):
            target.zero_()

    def _targets(
        self, name: str, first: int, size: int, outputs: slice
    ) -> list[_Piece]:
        samples = slice(first - self.start, first - self.start + size)
        if name in self.layout.columns:
            return [self.shared[samples, outputs, self.layout.columns[name]]]
        return [piece[samples, outputs] for piece in self.pieces[name]]


def _assign(target: _Piece, values: Tensor, *, add: bool) -> None:
    rows = values.reshape(target.shape)
    if add:
        target += rows
    else:
        target.copy_(rows)


def _write_product(part: Outer | Convolved, target: _Piece, *, add: bool) -> None:
    """Write sums of outer products by one matrix product per sample."""
    outer = part.outer() if isinstance(part, Convolved) else part
    samples, outputs = outer.shape[:2]
    groups, positions, rows = outer.left.shape[2:]
    simple = groups == 1 and outer.right.shape[1] == 1 and positions > 1
    if not simple or outer.left.dtype != target.dtype or not _is_matrix(target):
        _assign(target, outer.tensor(), add=add)
        return
    left = outer.left[:, :, 0].transpose(2, 3)
    left = left.reshape(samples, outputs * rows, positions)
    view = target.view(samples, outputs * rows, -1)
    view.baddbmm_(left, outer.right[:, 0, 0], beta=float(add))


def _is_matrix(target: _Piece) -> bool:
    """Return whether the rows of a sample follow each other in memory."""
    return target.stride(2) == 1 and target.stride(1) == target.shape[2]


def _write_cut(part: PerSample, targets: list[_Piece], *, add: bool) -> None:
    """Write the gradients of a convolution's weight, each row of the kernel apart."""
    if isinstance(part, Convolved) and _is_simple(part, targets[0].dtype):
        rights = _patches_by_row(part)
        samples, outputs, _, rows = part.cotangents.shape[:4]
        left = part.cotangents.reshape(samples, outputs * rows, -1)
        for right, target in zip(rights, targets, strict=False):
            view = target.view(samples, outputs * rows, -1)
            view.baddbmm_(left, right, beta=float(add))
        return
    values = part.tensor()
    for number, target in enumerate(targets):
        _assign(target, values[..., number, :], add=add)


def _is_simple(part: Convolved, dtype: torch.dtype) -> bool:
    alone = part.geometry.groups == part.cotangents.shape[2] == 1
    return alone and part.images.dtype == dtype


def _patches_by_row(
    part: Convolved,
) -> Iterator[Float[Tensor, "sample position feature"]]:
    """Yield what each row of the kernel sees."""
    geometry = part.geometry
    height, width = part.cotangents.shape[4:]
    low = Geometry(
        kernel=(1, geometry.kernel[1]),
        stride=(1, geometry.stride[1]),
        dilation=(1, geometry.dilation[1]),
        groups=1,
        padding=[],
    )
    padded = functional.pad(part.images, geometry.padding)
    if geometry.stride[0] == 1:
        strips = patches(padded, (padded.shape[3], width), low)[:, 0]
        for row in range(geometry.kernel[0]):
            first = row * geometry.dilation[0]
            yield strips[:, first * width : (first + height) * width]
        return
    for row in range(geometry.kernel[0]):
        seen = padded[:, :, :, row * geometry.dilation[0] :: geometry.stride[0]]
        yield patches(seen[:, :, :, :height], (height, width), low)[:, 0]
