"""The tangent kernel from random projections of the parameters, with its error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eigenscope._types import OutputSpec
from eigenscope.budget import require_fits, resolve, rows_within
from eigenscope.jacobian import ParameterEngine
from eigenscope.kernels.engine import require_parameters
from eigenscope.kernels.tangent import NTKOutputs, problems
from eigenscope.problem import Batch, Problem

_VECTORS_AT_ONCE = 32


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedNTK:
    """An estimate of a tangent kernel and its error.

    Attributes:
        value: The estimate, as `es.ntk` returns the kernel.
        stderr: Standard error of every entry, from the spread of the projections.
        num_projections: Random directions that it is the mean of.
    """

    value: Float[Tensor, "left right *outputs"]
    stderr: Float[Tensor, "left right *outputs"]
    num_projections: int


def projected_ntk(
    model: nn.Module,
    x1: Tensor | Mapping[str, Any],
    x2: Tensor | Mapping[str, Any] | None = None,
    *,
    output: OutputSpec = "logits",
    outputs: NTKOutputs = "full",
    params: str | Sequence[str] | None = None,
    num_projections: int = 256,
    generator: torch.Generator | None = None,
    memory: str | int | None = None,
) -> ProjectedNTK:
    """Estimate Θ as the mean of (J₁v)(J₂v)ᵀ over random directions v ~ N(0, I).

    Unbiased; an entry has variance (Θ[i, i] Θ[j, j] + Θ[i, j]²) / num_projections, so
    the estimate serves where errors of some percent do, or where only J v is at hand.

    Args:
        model: As for `ntk`.
        x1: As for `ntk`.
        x2: As for `ntk`.
        output: As for `ntk`.
        outputs: As for `ntk`.
        params: As for `ntk`.
        num_projections: Directions, at least 2; the error falls as one over its root.
        generator: Source of all randomness; a fresh one with a fixed seed if None.
        memory: Budget for the result and all projections of the samples; the directions
            take at most a quarter of it.

    Returns:
        The estimate and its standard error.

    Raises:
        TypeError: As for `ntk`, or if `num_projections` is no integer.
        ValueError: As for `ntk`, or if there are too few projections, or the result
            does not fit the budget.

    Cost:
        One forward and k backward passes for each group of directions that fits the
        budget; n·k·P multiplications at most for each direction, and n₁·n₂·k² for
        the products.

    References:
        Achlioptas (2003), J. Comput. Syst. Sci. 66; Park et al. (2023), arXiv
        2303.14186, section 3.

    Example:
        >>> linear = nn.Linear(3, 2)
        >>> found = projected_ntk(linear, torch.eye(3), outputs="trace")
        >>> found.value.shape, bool((found.stderr < 1).all())
        (torch.Size([3, 3]), True)
    """
    if not isinstance(cast("object", num_projections), int):
        raise TypeError(
            f"num_projections must be an integer; got {num_projections!r}. Round it."
        )
    if num_projections < 2:
        raise ValueError(
            f"num_projections must be at least 2, for an error; got {num_projections}."
        )
    first, second = problems(model, x1, x2, output, outputs, params)
    require_parameters(first)
    generator = generator or torch.Generator(first.device).manual_seed(0)
    groups = _groups(first, num_projections, resolve(memory))
    _require_room(first, second or first, num_projections, outputs, resolve(memory))
    room = resolve(memory) // 4
    engines = [ParameterEngine(p, room=room) for p in (first, second) if p is not None]
    pieces: list[list[Tensor]] = [[] for _ in engines]
    for size in groups:
        vectors = _directions(first, size, generator)
        for engine, found in zip(engines, pieces, strict=True):
            found.append(_sketch(engine, vectors))
    sketches = [torch.cat(found, 2) for found in pieces]
    value, square = _moments(sketches[0], sketches[-1], trace=outputs != "full")
    variance = square.addcmul_(value, value, value=-1).clamp_(min=0)
    dtype = first.dtype
    return ProjectedNTK(
        value=value.to(dtype),
        stderr=variance.div_(num_projections - 1).sqrt_().to(dtype),
        num_projections=num_projections,
    )


def _require_room(
    left: Problem, right: Problem, count: int, outputs: NTKOutputs, budget: int
) -> None:
    """Raise before any work if sketches, kernel and error do not fit the budget.

    Raises:
        ValueError: If they take more than it.
    """
    each = left.num_outputs if outputs == "full" else 1
    entries = left.num_samples * right.num_samples * each**2
    rows = left.num_samples + (right.num_samples if right is not left else 0)
    itemsize = torch.promote_types(left.dtype, torch.float32).itemsize
    # Beside the two results: squares of the projections, or one product of a vector.
    beside = rows * left.num_outputs * count if outputs == "full" else entries
    sketches = rows * left.num_outputs * count
    needed = (2 * entries + sketches + beside) * itemsize
    require_fits(
        needed,
        budget,
        what=f"the kernel of {left.num_samples} × {right.num_samples} samples, its "
        f"error and {count} projections",
        way_out="take outputs='trace', fewer projections, or some samples at a time",
    )


def _groups(problem: Problem, count: int, budget: int) -> list[int]:
    """Return how many directions are in memory together, group by group.

    Raises:
        ValueError: If not even one fits.
    """
    entries = sum(p.numel() for p in problem.params.values())
    most = rows_within(budget // 4, entries * problem.dtype.itemsize)
    full, rest = divmod(count, min(most, count))
    return [min(most, count)] * full + ([rest] if rest else [])


def _directions(
    problem: Problem, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return directions drawn one by one: the same however they are grouped."""
    found = {name: p.new_empty(count, *p.shape) for name, p in problem.params.items()}
    for number in range(count):
        for rows in found.values():
            rows[number].normal_(generator=generator)
    return found


def _sketch(
    engine: ParameterEngine, vectors: Mapping[str, Tensor]
) -> Float[Tensor, "sample output vector"]:
    """Return J v for all directions."""
    count = len(next(iter(vectors.values())))
    shape = (engine.problem.num_samples, engine.num_outputs, count)
    dtype = torch.promote_types(engine.problem.dtype, torch.float32)
    result = torch.zeros(shape, dtype=dtype, device=engine.problem.device)
    for batch in engine.chunks():
        engine.halving.run(partial(_add_sketch, engine, vectors, result), batch)
    return result


def _add_sketch(
    engine: ParameterEngine, vectors: Mapping[str, Tensor], result: Tensor, batch: Batch
) -> None:
    """Write J v of some samples."""
    rows = result[batch.start : batch.start + batch.size].zero_()
    with engine.open(batch) as chunk:
        for name, part in chunk.parts():
            for start in range(0, rows.shape[2], _VECTORS_AT_ONCE):
                some = slice(start, start + _VECTORS_AT_ONCE)
                rows[:, :, some] += part.times(vectors[name][some])


def _moments(
    left: Float[Tensor, "left output vector"],
    right: Float[Tensor, "right output vector"],
    *,
    trace: bool,
) -> tuple[Tensor, Tensor]:
    """Return the mean over the vectors of the products, and of their squares."""
    count = left.shape[2]
    if not trace:
        mean = torch.einsum("icv,jev->ijce", left, right).div_(count)
        squares = torch.einsum("icv,jev->ijce", left.square(), right.square())
        return mean, squares.div_(count)
    mean = torch.einsum("icv,jcv->ij", left, right).div_(count)
    squares = torch.zeros_like(mean)
    for vector in range(count):
        product = left[:, :, vector] @ right[:, :, vector].T
        squares.addcmul_(product, product)
    return mean, squares.div_(count)
