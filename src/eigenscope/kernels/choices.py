"""Which way the inner products by each parameter are taken: flops against memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, final

import torch
from torch import Tensor

from eigenscope._types import KernelMethod, KernelOutputs
from eigenscope.budget import format_bytes
from eigenscope.jacobian import Convolved, Outer, PerSample, Plain, Scattered

Form = Literal["jacobian", "structured"]

# What a multiplication costs in the two products of each pair of samples and in passes
# over memory, in multiplications of a large matrix product: measured.
_MIXING = 3
_SKINNY = 5
_PASS = 4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """How the kernel's component of one parameter is computed.

    Attributes:
        form: "jacobian" (gradients of every sample, multiplied with each other),
            "structured" (from inputs and cotangents, no gradient is formed) or
            "products" (gradients of one set times the inputs and cotangents of the
            other).
        reason: Why.
        multiplications: Estimated multiplications for each pair of samples.
        sample_bytes: Bytes that are kept of each sample.
    """

    form: Literal["jacobian", "structured", "products"]
    reason: str
    multiplications: float
    sample_bytes: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Sizes of one use of a parameter."""

    groups: int
    positions: int
    moving: int
    shared: int
    is_table: bool


def choose(
    parts: Mapping[str, Sequence[PerSample]],
    *,
    num_entries: Mapping[str, int],
    num_outputs: int,
    num_samples: int,
    itemsize: int,
    outputs: KernelOutputs,
    method: KernelMethod,
    free_bytes: int,
) -> dict[str, KernelChoice]:
    """Choose a form for every parameter.

    Args:
        parts: Gradients of a few samples and two outputs (one, if there is only one).
        num_entries: Entries of each parameter.
        num_outputs: k.
        num_samples: Samples of both sets together.
        itemsize: Bytes of a number.
        outputs: What is kept of the outputs.
        method: What the user asked for.
        free_bytes: Memory for what is kept of all samples.

    Returns:
        A choice for each parameter of `num_entries`.
    """
    riders = riders_of(parts)
    options: dict[str, dict[Form, KernelChoice]] = {}
    for name, entries in num_entries.items():
        sizes = [_sizes(part) for part in parts.get(name, ())]
        found = options[name] = {
            "jacobian": _jacobian(sizes, entries, num_outputs, num_samples, outputs)
        }
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes):
            found["structured"] = _structured(known, num_outputs, outputs)
    for name, found in options.items():
        options[name] = {
            form: replace(choice, sample_bytes=choice.sample_bytes * itemsize)
            for form, choice in found.items()
        }
    if method != "auto":
        asked = {name: _as_asked(found, method) for name, found in options.items()}
        return _with_riders(asked, riders)
    best = {name: min(found.values(), key=_cost) for name, found in options.items()}
    if sum(c.sample_bytes for c in best.values()) * num_samples <= free_bytes:
        return _with_riders(best, riders)
    reason = f"smallest: all samples are to fit {format_bytes(free_bytes)}"
    smallest = {
        name: replace(min(found.values(), key=_bytes), reason=reason)
        for name, found in options.items()
    }
    return _with_riders(smallest, riders)


def riders_of(parts: Mapping[str, Sequence[PerSample]]) -> dict[str, str]:
    """Return the biases whose gradients are the cotangents that a weight's part holds.

    Args:
        parts: Gradients of some samples by name.

    Returns:
        Name of the bias to name of the weight.
    """
    hosts: dict[tuple[int, torch.Size], str] = {}
    for name, own in parts.items():
        moving = _single_cotangents(own)
        if moving is not None and moving.is_contiguous():
            hosts[moving.data_ptr(), moving.shape] = name
    riders: dict[str, str] = {}
    for name, own in parts.items():
        if len(own) == 1 and isinstance(own[0], Plain):
            values = own[0].values
            samples, outputs = values.shape[:2]
            flat = torch.Size((samples, outputs, values.shape[2:].numel()))
            host = hosts.get((values.data_ptr(), flat))
            if host is not None and values.is_contiguous():
                riders[name] = host
    return riders


def _single_cotangents(parts: Sequence[PerSample]) -> Tensor | None:
    """Return (sample, output, feature) of the moving side, if there is but one."""
    if len(parts) != 1 or not isinstance(parts[0], Outer):
        return None
    part = parts[0]
    if part.left.shape[2:4] != (1, 1):
        return None
    return _sides(part)[0][:, :, 0, 0]


def _sides(part: Outer) -> tuple[Tensor, Tensor]:
    """Return the side that differs between outputs, and the other."""
    if part.left.shape[1] == 1 < part.right.shape[1]:
        return part.right, part.left
    return part.left, part.right


def _with_riders(
    chosen: dict[str, KernelChoice], riders: Mapping[str, str]
) -> dict[str, KernelChoice]:
    for name, host in riders.items():
        if chosen[host].form != "jacobian":
            reason = f"its gradients are the cotangents that {host!r} needs"
            chosen[name] = KernelChoice(
                form=chosen[host].form,
                reason=reason,
                multiplications=0.0,
                sample_bytes=0,
            )
    return chosen


def _cost(choice: KernelChoice) -> float:
    return choice.multiplications


def _bytes(choice: KernelChoice) -> int:
    return choice.sample_bytes


def _sizes(part: PerSample) -> _Sizes | None:
    if isinstance(part, Convolved):
        groups = part.geometry.groups
        return _Sizes(
            groups=groups,
            positions=part.cotangents.shape[2] * part.cotangents.shape[4:].numel(),
            moving=part.cotangents.shape[3] // groups,
            shared=prod(part.weight_shape[1:]),
            is_table=False,
        )
    if isinstance(part, Outer):
        moving, shared = _sides(part)
        return _Sizes(
            groups=moving.shape[2],
            positions=moving.shape[3],
            moving=moving.shape[4],
            shared=shared.shape[4],
            is_table=False,
        )
    if isinstance(part, Scattered):
        positions, columns = part.values.shape[2:]
        return _Sizes(
            groups=1, positions=positions, moving=columns, shared=1, is_table=True
        )
    return None


def _jacobian(
    sizes: Sequence[_Sizes | None],
    entries: int,
    k: int,
    num_samples: int,
    outputs: KernelOutputs,
) -> KernelChoice:
    forming = sum(s.positions for s in sizes if s is not None and not s.is_table)
    forming = (forming + _PASS) * k * entries
    pair = (k * k if outputs == "full" else k) * entries
    return KernelChoice(
        form="jacobian",
        reason="fewest multiplications",
        multiplications=pair + 2 * forming / max(1, num_samples),
        sample_bytes=k * entries,
    )


def _structured(
    sizes: Sequence[_Sizes], k: int, outputs: KernelOutputs
) -> KernelChoice:
    positions = sum(s.positions for s in sizes)
    total = 0.0
    for s in sizes:
        pairs = s.positions * positions * s.groups
        if outputs == "trace":
            total += pairs * (s.shared + k * s.moving + _PASS)
        elif positions == 1:
            total += pairs * (s.shared + k * k * (s.moving + _PASS))
        else:
            total += pairs * (s.shared + _MIXING * k * s.moving)
            total += _SKINNY * k * k * positions * s.moving * s.groups
    numbers = (s.groups * s.positions * (k * s.moving + s.shared) for s in sizes)
    return KernelChoice(
        form="structured",
        reason="fewest multiplications",
        multiplications=total,
        sample_bytes=sum(numbers),
    )


def _as_asked(found: Mapping[Form, KernelChoice], method: KernelMethod) -> KernelChoice:
    if method == "jacobian" or "structured" not in found:
        asked = method == "jacobian"
        reason = "asked for" if asked else "known only as a gradient"
        return replace(found["jacobian"], reason=reason)
    chosen = found["structured"]
    if method == "structured":
        return replace(chosen, reason="asked for")
    cost = found["jacobian"].multiplications
    return replace(chosen, form="products", reason="asked for", multiplications=cost)
