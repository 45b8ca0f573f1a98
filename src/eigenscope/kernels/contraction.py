"""Inner products of per-sample gradients that are never formed, pair by pair."""

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import KernelOutputs
from eigenscope.kernels.factors import Factor, Features, Labels, Side
from eigenscope.kernels.scratch import Scratch

_SCRATCH_ENTRIES = 2**22


def inner_products(
    a: Factor, b: Factor, outputs: KernelOutputs, scratch: Scratch
) -> Tensor:
    """Σ_{t,t'} ⟨left[i, c, t], left[j, e, t']⟩ ⟨right[i, c, t], right[j, e, t']⟩.

    Args:
        a: Gradients of the samples i and outputs c.
        b: Gradients of the same parameter for the samples j and outputs e.
        outputs: "full" for (i, c, j, e), "trace" for (i, j), summed over c = e.
        scratch: Memory for what comes between.

    Returns:
        The inner products; good until the next call.

    Cost:
        For t positions and features f of the side that moves with the outputs and d of
        the other: t² (d + 2·k·f) operations per pair for a trace, and about that plus
        k² t f for all outputs; memory for the t² numbers of some pairs.
    """
    samples = (a.num_samples, b.num_samples)
    num_a, num_b = a.moving.shape[3], b.moving.shape[3]
    full = outputs == "full"
    shape = (samples[0], num_a, samples[1], num_b) if full else samples
    result = scratch.take("inner", shape, _values(a.moving)).zero_()
    for rows, columns in _pieces(a, b):
        one, other = (
            a.part(rows.start, rows.stop),
            b.part(columns.start, columns.stop),
        )
        target = result[rows, :, columns] if full else result[rows, columns]
        for group in range(a.left.shape[0]):
            if a.moves_right != b.moves_right:
                _add_crossed(target, one, other, group, outputs)
            elif not full:
                _add_traces(target, one, other, group, scratch)
            elif one.left.shape[2] == other.left.shape[2] == 1:
                _add_hadamard(target, one, other, group, scratch)
            else:
                _add_nested(target, one, other, group, scratch)
    return result


def vector_gram(
    a: Side, b: Side, group: int, role: str, scratch: Scratch
) -> Float[Tensor, "left right"]:
    """Return the inner products of all vectors of two sides in one group.

    Args:
        a: Vectors of the rows, in the order (sample, position, output).
        b: Vectors of the columns.
        group: The group.
        role: Memory to use; the result is good until it is used again.
        scratch: Where that memory is.

    Returns:
        The inner products.
    """
    if isinstance(a, Features) and isinstance(b, Features):
        left, right = (s.values[group].flatten(0, 2) for s in (a, b))
        out = scratch.take(role, (len(left), len(right)), left)
        return torch.mm(left, right.T, out=out)
    if isinstance(a, Labels) and isinstance(b, Labels):
        same = a.indices.reshape(-1, 1) == b.indices.reshape(1, -1)
        return same.to(torch.get_default_dtype())
    if isinstance(a, Labels) and isinstance(b, Features):
        return b.values[group].flatten(0, 2)[:, a.indices.flatten()].T
    return vector_gram(b, a, group, role, scratch).T


def scaled_blocks(
    grams: Float[Tensor, "rows columns"], weights: Float[Tensor, "left right"]
) -> Float[Tensor, "left output_l columns"]:
    """Multiply the block of every pair of samples by the pair's own weight, in place.

    Args:
        grams: Blocks (output, output) for all pairs, next to each other.
        weights: One number per pair.

    Returns:
        `grams` with a sample axis of its own.
    """
    left, right = weights.shape
    wide = weights.repeat_interleave(grams.shape[1] // right, 1)
    return grams.view(left, -1, grams.shape[1]).mul_(wide.unsqueeze(1))


def _add_traces(
    out: Float[Tensor, "left right"], a: Factor, b: Factor, group: int, scratch: Scratch
) -> None:
    """Add Σ_t,t' of the products of two Gram matrices, outputs counted as features."""
    left_side, right_side = merged(a.moving), merged(b.moving)
    grams = vector_gram(left_side, right_side, group, "moving", scratch)
    weights = vector_gram(a.shared, b.shared, group, "shared", scratch)
    (left, s), (right, t) = a.shared.shape[1:3], b.shared.shape[1:3]
    grams.mul_(weights.view(grams.shape))
    out += grams.view(left, s, right, t).sum((1, 3))


def _add_nested(
    out: Float[Tensor, "left output_l right output_r"],
    a: Factor,
    b: Factor,
    group: int,
    scratch: Scratch,
) -> None:
    """Add ⟨Σ_t ⟨x_t, x'_t'⟩ g_t, g'_t'⟩ summed over t', output by output."""
    own, others = _values(a.moving)[group], _values(b.moving)[group]
    left, s, outputs, features = own.shape
    right, t = others.shape[:2]
    weights = vector_gram(b.shared, a.shared, group, "shared", scratch)
    ordered = scratch.take("ordered", (left, right * t, s), own)
    ordered.copy_(weights.view(right * t, left, s).transpose(0, 1))
    mixed = scratch.take("mixed", (outputs, left, right * t, features), own)
    for output in range(outputs):
        torch.bmm(ordered, own[:, :, output], out=mixed[output])
    rows = mixed.view(outputs * left, right, t * features)
    columns = others.permute(0, 2, 1, 3).reshape(right, -1, t * features)
    for sample in range(right):
        found = columns[sample] @ rows[:, sample].T
        out[:, :, sample] += found.view(-1, outputs, left).permute(2, 1, 0)


def _add_crossed(
    out: Tensor, a: Factor, b: Factor, group: int, outputs: KernelOutputs
) -> None:
    """Add products of factors of which one moves on the left, the other on the right.

    As the table of an embedding that is the matrix of the decoder, too.
    """
    grams: list[Tensor] = []
    for one, other in ((a.left, b.left), (a.right, b.right)):
        gram = vector_gram(one, other, group, "", Scratch()).to(out.dtype)
        gram = gram.view([n for side in (one, other) for n in side.shape[1:4]])
        # The output axis of the factor that does not move on this side goes.
        moves = a.moves_right == (one is a.right)
        grams.append(gram[..., 0] if moves else gram[:, :, 0])
    order = "atbse,atcbs->acbe" if a.moves_right else "atcbs,atbse->acbe"
    if outputs == "trace":
        order = order.replace("e", "c").replace("acbc", "ab")
    out += torch.einsum(order, grams[0], grams[1])


def _add_hadamard(
    out: Float[Tensor, "left output_l right output_r"],
    a: Factor,
    b: Factor,
    group: int,
    scratch: Scratch,
) -> None:
    """Add the products of two Gram matrices, entry by entry: one position each."""
    grams = vector_gram(a.moving, b.moving, group, "moving", scratch)
    weights = vector_gram(a.shared, b.shared, group, "shared", scratch)
    out += scaled_blocks(grams, weights).view(out.shape)


def _pieces(a: Factor, b: Factor) -> list[tuple[slice, slice]]:
    """Return blocks of pairs whose Gram matrices fit the scratch memory."""
    (s, outputs, features), t = a.moving.shape[2:], b.left.shape[2]
    each = max(s * t, t * outputs * features, outputs**2)
    most = max(1, int((_SCRATCH_ENTRIES / each) ** 0.5))
    if a.moves_right != b.moves_right:
        most = max(1, most // max(a.moving.shape[3], b.moving.shape[3]))
    return [
        (slice(i, min(i + most, a.num_samples)), slice(j, min(j + most, b.num_samples)))
        for i in range(0, a.num_samples, most)
        for j in range(0, b.num_samples, most)
    ]


def _values(side: Side) -> Tensor:
    """Return the vectors of the side that moves, which are always there."""
    assert isinstance(side, Features)
    return side.values


def merged(side: Side) -> Features:
    """Return the vectors of all outputs one after the other, as one vector."""
    return Features(_values(side).flatten(3).unsqueeze(3))
