"""Kernels of two blocks of samples, added into matrices."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from eigenscope._types import KernelOutputs
from eigenscope.kernels.blocks import Block
from eigenscope.kernels.contraction import (
    inner_products,
    merged,
    scaled_blocks,
    vector_gram,
)
from eigenscope.kernels.factors import Factor
from eigenscope.kernels.formed import Formed
from eigenscope.kernels.scratch import Scratch
from eigenscope.kernels.triangles import add_lower_product, add_product

Targets = Mapping[str, Tensor]

_ROWS_TOGETHER = 512
_VECTORS_AT_ONCE = 32


def add_pair(
    targets: Targets,
    a: Block,
    b: Block,
    outputs: KernelOutputs,
    scratch: Scratch,
) -> None:
    """Add the inner products of gradients that are not formed in both blocks.

    Of a block with itself the lower triangle is added, and some of the upper one.

    Args:
        targets: For each parameter the matrix that its products are added to, one row
            per sample of `a` ("trace") or per sample and output ("full"), columns
            for `b` likewise. Parameters may share a matrix.
        a: Left samples.
        b: Right samples.
        outputs: "full" or "trace".
        scratch: Memory that is used again.
    """
    formed = a.formed.names & b.formed.names
    unformed = a.factors.keys() & b.factors.keys()
    riders = {n: h for n, h in a.riders.items() if b.riders.get(n) == h}
    each = a.formed.num_outputs if outputs == "full" else 2
    for rows, columns in _tiles(a, b, max(1, _ROWS_TOGETHER // each)):
        for name in a.factors:
            if name not in unformed:
                continue
            own = [n for n, host in riders.items() if host == name]
            left = [f.part(rows.start, rows.stop) for f in a.factors[name]]
            right = [f.part(columns.start, columns.stop) for f in b.factors[name]]
            spots = {
                n: _spot(targets[n], rows, columns, a, b, outputs) for n in (name, *own)
            }
            _add_factors(spots, name, left, right, outputs, scratch)
    for name in sorted((a.names & b.names) - formed - unformed - riders.keys()):
        _add_mixed(targets[name], name, a, b, outputs)


def add_formed(
    targets: Targets, a: Formed, b: Formed, outputs: KernelOutputs, *, is_same: bool
) -> None:
    """Add the inner products of gradients that are formed in both ranges.

    Args:
        targets: As for `add_pair`.
        a: Gradients of the left samples.
        b: Gradients of the right samples.
        outputs: "full" or "trace".
        is_same: Whether both are the same, so that the lower triangle is enough.
    """
    common = a.names & b.names
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    small = [name for name in a.layout.columns if name in common]
    for mine, other, target in _runs(
        a.layout.columns, b.layout.columns, targets, small
    ):
        products.append((target, a.shared[:, :, mine], b.shared[:, :, other]))
    for name, pieces in a.pieces.items():
        if name in common:
            pairs = zip(pieces, b.pieces[name], strict=True)
            products += [(targets[name], *pair) for pair in pairs]
    for target, left, right in products:
        for one, two in _factor_pairs(left, right, outputs):
            if is_same:
                add_lower_product(target, one, fresh=False)
            else:
                add_product(target, one, two, fresh=False)


def _factor_pairs(
    left: Tensor, right: Tensor, outputs: KernelOutputs
) -> list[tuple[Tensor, Tensor]]:
    """Return the matrices whose products add up to the kernel."""
    if outputs == "full":
        return [(left.flatten(0, 1), right.flatten(0, 1))]
    if left.is_contiguous() and right.is_contiguous():
        return [(left.flatten(1), right.flatten(1))]
    return [(left[:, c], right[:, c]) for c in range(left.shape[1])]


def _runs(
    a: Mapping[str, slice],
    b: Mapping[str, slice],
    targets: Targets,
    names: Sequence[str],
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield ranges of columns of both sides that are added to the same matrix."""
    runs: list[tuple[slice, slice, Tensor]] = []
    for name in names:
        left, right, target = a[name], b[name], targets[name]
        if runs:
            before, beside, last = runs[-1]
            follows = (before.stop, beside.stop) == (left.start, right.start)
            if follows and last is target:
                left = slice(before.start, left.stop)
                right = slice(beside.start, right.stop)
                runs.pop()
        runs.append((left, right, target))
    yield from runs


def _tiles(a: Block, b: Block, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield pairs of ranges of samples, of a block with itself the lower ones only."""
    for i in range(0, a.size, size):
        for j in range(0, i + 1 if a is b else b.size, size):
            yield slice(i, min(i + size, a.size)), slice(j, min(j + size, b.size))


def _spot(
    target: Tensor,
    rows: slice,
    columns: slice,
    a: Block,
    b: Block,
    outputs: KernelOutputs,
) -> Tensor:
    """Return the part of a matrix that belongs to some samples."""
    full = outputs == "full"
    left, right = (s.formed.num_outputs if full else 1 for s in (a, b))
    return target[
        rows.start * left : rows.stop * left,
        columns.start * right : columns.stop * right,
    ]


def _add_factors(
    spots: Targets,
    name: str,
    left: Sequence[Factor],
    right: Sequence[Factor],
    outputs: KernelOutputs,
    scratch: Scratch,
) -> None:
    """Add the products of one parameter, and of the biases that ride on it."""
    if len(left) == len(right) == 1 and _are_single(left[0], right[0]):
        _add_hadamard(spots, name, left[0], right[0], outputs, scratch)
        return
    for one in left:
        for other in right:
            found = inner_products(one, other, outputs, scratch)
            spots[name].add_(found.view(spots[name].shape))


def _are_single(a: Factor, b: Factor) -> bool:
    """Return whether each gradient is one outer product, formed alike on both sides."""
    same_side = a.moves_right == b.moves_right
    return same_side and all(f.left.shape[:3:2] == (1, 1) for f in (a, b))


def _add_hadamard(
    spots: Targets,
    name: str,
    a: Factor,
    b: Factor,
    outputs: KernelOutputs,
    scratch: Scratch,
) -> None:
    """Add K_W = (SᵀS) ∘ (XᵀX), and K_b = SᵀS for biases that ride on the weight."""
    sides = [f.moving for f in (a, b)]
    if outputs == "trace":
        sides = [merged(side) for side in sides]
    grams = vector_gram(sides[0], sides[1], 0, "moving", scratch)
    weights = vector_gram(a.shared, b.shared, 0, "shared", scratch)
    for rider, target in spots.items():
        if rider == name:
            continue
        if target.data_ptr() == spots[name].data_ptr():
            weights.add_(1)
        else:
            target.add_(grams)
    if outputs == "trace":
        spots[name].addcmul_(grams, weights.to(grams.dtype))
    else:
        spots[name].add_(scaled_blocks(grams, weights).view(grams.shape))


def _add_mixed(
    target: Tensor, name: str, a: Block, b: Block, outputs: KernelOutputs
) -> None:
    """Add products where at least one side has its gradients formed."""
    left, right = a.gradients(name), b.gradients(name)
    if left is not None and right is not None:
        found = torch.einsum("acp,bep->acbe", left, right)
    elif right is not None:
        found = _times(a.factors[name], right)
    elif left is not None:
        found = _times(b.factors[name], left).permute(2, 3, 0, 1)
    else:
        raise AssertionError(f"{name} has no gradients in one of the blocks")
    if outputs == "trace":
        target += torch.einsum("acbc->ab", found)
    else:
        target += found.reshape(target.shape)


def _times(factors: Sequence[Factor], rows: Tensor) -> Tensor:
    """Return the inner products (sample, output, sample, output) with formed ones."""
    samples, outputs = rows.shape[:2]
    parts = [factor.gradients() for factor in factors]
    vectors = rows.flatten(0, 1)
    found: list[Tensor] = []
    for first in range(0, len(vectors), _VECTORS_AT_ONCE):
        some = vectors[first : first + _VECTORS_AT_ONCE]
        products = [p.times(some.reshape(-1, *p.shape[2:])) for p in parts]
        found.append(torch.stack(products).sum(0))
    return torch.cat(found, 2).unflatten(2, (samples, outputs))
