"""Gradients of consecutive samples in the forms that their kernels are taken from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.autodiff import large_empty
from eigenscope.jacobian import OpenChunk, ParameterEngine, PerSample
from eigenscope.jacobian.engine import require_finite_gradients
from eigenscope.kernels.choices import riders_of
from eigenscope.kernels.factors import Factor, factor_of, joined
from eigenscope.kernels.scratch import Scratch
from eigenscope.problem import Batch

_Parts = dict[str, list[PerSample]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Gradients of some samples by all parameters; what is zero is left out.

    Attributes:
        start: Index of the first sample.
        rows: Gradients that were formed, parameters next to each other.
        columns: Where each of these parameters is.
        factors: Gradients that were not, one entry for each use of the parameter.
        riders: Parameters whose gradients are the moving side of another's factor.
        loose: Gradients that should not have been formed but had to be.
    """

    start: int
    rows: Float[Tensor, "sample output column"]
    columns: Mapping[str, slice]
    factors: Mapping[str, list[Factor]]
    riders: Mapping[str, str]
    loose: Mapping[str, Float[Tensor, "sample output entry"]]

    @property
    def size(self) -> int:
        """Samples."""
        return len(self.rows)

    @property
    def stop(self) -> int:
        """Index after the last sample."""
        return self.start + self.size

    def gradients(self, name: str) -> Float[Tensor, "sample output entry"] | None:
        """Return the gradients by one parameter if they are there as such."""
        if name in self.columns:
            return self.rows[:, :, self.columns[name]]
        if name in self.riders:
            return self.factors[self.riders[name]][0].moving.tensor[0, :, 0]
        return self.loose.get(name)

    @property
    def names(self) -> set[str]:
        """Parameters that the outputs depend on."""
        return {*self.columns, *self.factors, *self.riders, *self.loose}


def make_block(
    engine: ParameterEngine,
    batch: Batch,
    forms: Mapping[str, Literal["jacobian", "structured"]],
    dtype: torch.dtype,
    *,
    scratch: Scratch | None = None,
) -> Block:
    """Run one chunk forward and backward and keep its gradients.

    Args:
        engine: The engine.
        batch: The samples.
        forms: Parameter to the form that is wanted.
        dtype: Type to compute in.
        scratch: Memory for the rows, if they are not needed for long.

    Returns:
        The gradients.

    Raises:
        ValueError: If an entry is not finite; the message names sample and parameter.
    """
    params = engine.problem.params
    columns = _columns(engine, forms)
    width = max((where.stop for where in columns.values()), default=0)
    shape = (batch.size, engine.num_outputs, width)
    if scratch is None:
        rows = large_empty(shape, dtype=dtype, device=engine.problem.device)
    else:
        like = torch.empty(0, dtype=dtype, device=engine.problem.device)
        rows = scratch.take("rows", shape, like)
    found: list[_Parts] = []
    with engine.open(batch.owned()) as chunk:
        for outputs in output_blocks(chunk, engine.num_outputs):
            found.append({})
            written: set[str] = set()
            for name, part in chunk.parts(outputs):
                if name in columns:
                    target = rows[:, outputs.start : outputs.stop, columns[name]]
                    _write(
                        part,
                        target,
                        add=name in written,
                        same_type=params[name].dtype == dtype,
                    )
                    if not part.is_bounded():
                        require_finite_gradients(name, target, batch.start)
                    written.add(name)
                else:
                    if not part.is_bounded():
                        require_finite_gradients(name, part.tensor(), batch.start)
                    found[-1].setdefault(name, []).append(part)
            for name in columns.keys() - written:
                rows[:, outputs.start : outputs.stop, columns[name]] = 0
    return _block(batch.start, rows, columns, found, dtype)


def output_blocks(chunk: OpenChunk, num_outputs: int) -> Iterator[range]:
    """Yield the outputs whose cotangents are found together, two or more at first.

    That tells which side of an outer product differs between outputs.

    Args:
        chunk: The chunk.
        num_outputs: k.

    Yields:
        Consecutive outputs.
    """
    most = max(2, chunk.outputs_at_once())
    first = 0
    while first < num_outputs:
        stop = min(first + most, num_outputs)
        yield range(first, stop)
        first = stop


def _columns(engine: ParameterEngine, forms: Mapping[str, str]) -> dict[str, slice]:
    columns: dict[str, slice] = {}
    stop = 0
    for name, parameter in engine.problem.params.items():
        if forms[name] == "jacobian":
            columns[name] = slice(stop, stop + parameter.numel())
            stop += parameter.numel()
    return columns


def _write(part: PerSample, target: Tensor, *, add: bool, same_type: bool) -> None:
    """Write gradients into (sample, output, entry)."""
    weight = part.shape[2:]
    shaped = target.unflatten(2, weight) if weight else target[:, :, 0]
    if same_type:
        part.write(shaped, add=add)
    elif add:
        shaped += part.tensor()
    else:
        shaped.copy_(part.tensor())


def _block(
    start: int,
    rows: Tensor,
    columns: dict[str, slice],
    found: Sequence[_Parts],
    dtype: torch.dtype,
) -> Block:
    riders = _common_riders(found)
    factors: dict[str, list[Factor]] = {}
    loose: dict[str, Tensor] = {}
    for name in found[0].keys() - riders.keys():
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
        start=start,
        rows=rows,
        columns=columns,
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
