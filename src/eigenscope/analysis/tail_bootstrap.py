"""Whether a power law could have made a tail: the semi-parametric bootstrap."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from eigenscope.analysis.tail_values import Sample

DEFAULT_SEED = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GoodnessOfFit:
    """Share of replicas that are at least as far from their own fit as the data.

    Attributes:
        p_value: That share; a small one (below 0.1, say) rules the power law out.
        stderr: Its standard error, √(p (1 − p) / num_replicas).
        num_replicas: How many replicas were drawn.
    """

    p_value: float
    stderr: float
    num_replicas: int


def bootstrap(
    is_nearer: Callable[[Sample], bool],
    *,
    body: Sample,
    num_tail: int,
    draw_tail: Callable[[np.ndarray], np.ndarray],
    num_replicas: int,
    generator: torch.Generator | None,
) -> GoodnessOfFit:
    """Draw replicas (the body resampled, the tail from the law) and count.

    Args:
        is_nearer: Whether a replica is nearer to its own fit than the data to theirs.
        body: Values below xmin; empty if they take no part in the fit.
        num_tail: How many values of the data are in the tail.
        draw_tail: Values of the law from uniform numbers in [0, 1).
        num_replicas: How many replicas, at least 1.
        generator: Source of all randomness; a fresh one with a fixed seed if None.

    Returns:
        The share of replicas that are not nearer, and its error.

    Raises:
        ValueError: If `num_replicas` is less than 1.
    """
    if num_replicas < 1:
        raise ValueError(f"num_replicas must be at least 1; got {num_replicas}.")
    source = generator or torch.Generator().manual_seed(DEFAULT_SEED)
    seed = torch.randint(2**62, (1,), generator=source, device=source.device)
    random = np.random.default_rng(int(seed))
    pool = np.repeat(body.values, body.counts.astype(np.int64))
    total = len(pool) + num_tail
    num_farther = 0
    for _ in range(num_replicas):
        size = int(random.binomial(total, num_tail / total))
        below = pool[random.integers(len(pool), size=total - size)] if len(pool) else []
        above = draw_tail(random.random(size))
        num_farther += not is_nearer(Sample.of(np.concatenate([below, above])))
    p_value = num_farther / num_replicas
    return GoodnessOfFit(
        p_value=p_value,
        stderr=(p_value * (1 - p_value) / num_replicas) ** 0.5,
        num_replicas=num_replicas,
    )
