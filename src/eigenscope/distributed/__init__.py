"""The only caller of torch.distributed: what several processes do as one.

`current_ranks` is where everything else learns whether it shares its work.
"""

import importlib
import os
import sys
from typing import cast

from eigenscope.distributed.ranks import ALONE, Alone, Ranks, RanksChoice

__all__ = [
    "ALONE",
    "Alone",
    "Ranks",
    "RanksChoice",
    "agreed_bytes",
    "current_ranks",
    "is_sharing",
    "own_rank",
]


def is_sharing() -> bool:
    """Return whether this process belongs to a process group of several."""
    dist = sys.modules.get("torch.distributed")  # without it there is no group
    return (
        dist is not None
        and dist.is_available()
        and dist.is_initialized()
        and dist.get_world_size() > 1
    )


def own_rank() -> int:
    """Return the number of this process in the process group; 0 without one."""
    if not is_sharing():
        return 0
    return cast("int", sys.modules["torch.distributed"].get_rank())


def current_ranks(choice: RanksChoice = "all") -> Ranks:
    """Return who shares the work that begins now.

    Args:
        choice: "all" for the ranks of the initialized process group, which must all
            make this call; "own" for this process alone.

    Returns:
        The ranks; this process alone if there is no group, or a group of one.

    Raises:
        ValueError: If `choice` is unknown.
        RuntimeError: If a rank has ended, or does not come.
    """
    if choice not in {"all", "own"}:
        raise ValueError(f"ranks must be one of 'all', 'own'; got {choice!r}.")
    if choice == "own" or not is_sharing():
        return ALONE
    group = importlib.import_module("eigenscope.distributed.group")
    return cast("Ranks", group.Group())


def agreed_bytes(own: int) -> int:
    """Return a number of bytes that all ranks of the process group agree on.

    Args:
        own: This host's free memory.

    Returns:
        The share of each process on the host of whichever rank asks first; `own`
        without a group. It stays the same as long as the group.
    """
    if not is_sharing():
        return own
    group = importlib.import_module("eigenscope.distributed.group")
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    return cast("int", group.agreed_number("memory", own, num_local))
