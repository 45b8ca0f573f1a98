"""Random vectors that stand for a whole space, one seed for each."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import require_choice

ProbeLaw = Literal["sphere", "sign", "normal"]

_SEED = 0x5EED
_LARGEST_SEED = 2**62


def first_seed(generator: torch.Generator | None) -> int:
    """Seed from which the seeds of all probes follow.

    Args:
        generator: Source of all randomness; a fresh one with a fixed seed if None.

    Returns:
        A number that is drawn from the generator.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randint(
        _LARGEST_SEED, (), generator=generator, device=generator.device
    )
    return int(drawn)


def draw_probes(
    indices: range,
    dim: int,
    *,
    seed: int,
    law: ProbeLaw = "sphere",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "probe dim"]:
    """Random vectors v with E[vvᵀ] = I, as rows.

    Probe i depends on the seed and on i alone: not on how many are drawn together,
    on the device, or on what was drawn before.

    Args:
        indices: Numbers of the probes.
        dim: D.
        seed: See `first_seed`.
        law: "sphere" is uniform on the sphere of radius √D, "sign" has entries ±1,
            "normal" standard normal ones.
        dtype: Type of the entries.
        device: Where they go; they are drawn on the CPU.

    Returns:
        One probe a row.

    Raises:
        ValueError: If the law is unknown.
    """
    require_choice("law", law, ProbeLaw)
    probes = torch.empty(len(indices), dim, dtype=torch.float64)
    for row, index in zip(probes, indices, strict=True):
        generator = torch.Generator().manual_seed(seed + index)
        if law == "sign":
            row.copy_(torch.randint(2, (dim,), generator=generator).mul_(2).sub_(1))
            continue
        torch.randn(dim, generator=generator, out=row)
        if law == "sphere":
            row.mul_(math.sqrt(dim) / float(torch.linalg.vector_norm(row)))
    return probes.to(device, dtype)
