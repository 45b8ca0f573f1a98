"""Gradients of consecutive samples in the forms that their kernels are taken from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.jacobian import OpenChunk, ParameterEngine, PerSample
from eigenscope.jacobian.rows import require_finite_gradients
from eigenscope.kernels.choices import riders_of
from eigenscope.kernels.factors import Factor, factor_of, joined
from eigenscope.kernels.formed import Formed
from eigenscope.problem import Batch

# All outputs of a block together, so that their gradients are next to each other.
COTANGENT_BYTES = 256 * 2**20

_Parts = dict[str, list[PerSample]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Gradients of some samples by all parameters; what is zero is left out.

    Attributes:
        start: Index of the first sample.
        size: Samples.
        formed: Gradients that were formed; those of these samples and others.
        factors: Gradients that were not, one entry for each use of the parameter.
        riders: Parameters whose gradients are the moving side of another's factor.
        loose: Gradients that should not have been formed but had to be.
    """

    start: int
    size: int
    formed: Formed
    factors: Mapping[str, list[Factor]]
    riders: Mapping[str, str]
    loose: Mapping[str, Float[Tensor, "sample output entry"]]

    @property
    def stop(self) -> int:
        """Index after the last sample."""
        return self.start + self.size

    def gradients(self, name: str) -> Float[Tensor, "sample output entry"] | None:
        """Return the gradients by one parameter if they are there as such."""
        if name in self.formed.names:
            first = self.start - self.formed.start
            return self.formed.gradients(name, slice(first, first + self.size))
        if name in self.riders:
            return self.factors[self.riders[name]][0].moving.tensor[0, :, 0]
        return self.loose.get(name)

    def mapped(self, change: Callable[[Tensor], Tensor], formed: Formed) -> "Block":
        """Return the block with other tensors, and with gradients formed elsewhere."""
        return Block(
            start=self.start,
            size=self.size,
            formed=formed,
            factors={
                name: [factor.mapped(change) for factor in own]
                for name, own in self.factors.items()
            },
            riders=self.riders,
            loose={name: change(tensor) for name, tensor in self.loose.items()},
        )

    @property
    def names(self) -> set[str]:
        """Parameters that the outputs depend on."""
        return {*self.formed.names, *self.factors, *self.riders, *self.loose}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Consecutive samples whose formed gradients are multiplied together.

    Attributes:
        start: Index of the first sample.
        stop: Index after the last.
        formed: Gradients that were formed.
        blocks: The same samples in the parts that went through the network together.
    """

    start: int
    stop: int
    formed: Formed
    blocks: Sequence[Block]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Range":
        """Return the range with other tensors in place of its own, in a fixed order."""
        formed = self.formed.mapped(change)
        return Range(
            start=self.start,
            stop=self.stop,
            formed=formed,
            blocks=[block.mapped(change, formed) for block in self.blocks],
        )


def make_block(
    engine: ParameterEngine, batch: Batch, formed: Formed, dtype: torch.dtype
) -> Block:
    """Run one chunk forward and backward and keep its gradients.

    Args:
        engine: The engine.
        batch: The samples.
        formed: Where gradients are to be formed; these samples are among its own.
        dtype: Type to compute in.

    Returns:
        The gradients.

    Raises:
        ValueError: If an entry is not finite; the message names sample and parameter.
    """
    found: list[_Parts] = []
    with engine.open(batch.owned()) as chunk:
        for outputs in output_blocks(chunk, engine.num_outputs):
            found.append({})
            columns = slice(outputs.start, outputs.stop)
            written: set[str] = set()
            for name, part in chunk.parts(outputs):
                if name in formed.names:
                    add = name in written
                    formed.write(name, part, batch.start, columns, add=add)
                    written.add(name)
                else:
                    if not part.is_bounded():
                        require_finite_gradients(name, part.tensor(), batch.start)
                    found[-1].setdefault(name, []).append(part)
            for name in formed.names - written:
                formed.clear(name, batch.start, batch.size, columns)
    return _with_factors(batch, formed, found, dtype)


def output_blocks(chunk: OpenChunk, num_outputs: int) -> Iterator[range]:
    """Yield the outputs whose cotangents are found together, two or more at first.

    That tells which side of an outer product differs between outputs.

    Args:
        chunk: The chunk.
        num_outputs: k.

    Yields:
        Consecutive outputs.
    """
    most = max(2, chunk.outputs_at_once(COTANGENT_BYTES))
    first = 0
    while first < num_outputs:
        stop = min(first + most, num_outputs)
        yield range(first, stop)
        first = stop


def _with_factors(
    batch: Batch, formed: Formed, found: Sequence[_Parts], dtype: torch.dtype
) -> Block:
    riders = _common_riders(found)
    factors: dict[str, list[Factor]] = {}
    loose: dict[str, Tensor] = {}
    for name in found[0]:  # in this order everywhere: so are sums rounded
        if name in riders:
            continue
        uses = zip(*(parts[name] for parts in found), strict=True)
        parts = [joined(list(several)) for several in uses]
        sides = [factor_of(part, dtype) for part in parts]
        known = [side for side in sides if side is not None]
        if len(known) == len(sides):
            factors[name] = known
        else:
            total = sum(part.tensor() for part in parts)
            loose[name] = _flat(torch.as_tensor(total)).to(dtype)
    return Block(
        start=batch.start,
        size=batch.size,
        formed=formed,
        factors=factors,
        riders=riders,
        loose=loose,
    )


def _common_riders(found: Sequence[_Parts]) -> dict[str, str]:
    """Return the riders that are riders in every group of outputs."""
    groups = [riders_of(parts) for parts in found]
    return {
        name: host
        for name, host in groups[0].items()
        if all(group.get(name) == host for group in groups)
    }


def _flat(values: Float[Tensor, "sample output *weight"]) -> Tensor:
    return values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)
