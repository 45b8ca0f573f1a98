"""Which rank has ended and why, told from what the others still know."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

_PREFIX: Final = "eigenscope"
_ENDED: Final = f"{_PREFIX}/ended"
_PATIENCE: Final = 3.0  # seconds in which whoever still runs notices a failure, too
_HOW_TO_GO_ON: Final = (
    "Start all ranks again, as many as you like: what is in the run's folder is kept "
    "(--resume)."
)


def own_words(error: BaseException) -> str:
    """Return what the other ranks are told of an error."""
    return f"{type(error).__name__}: {error}"


def leave_word(store: Any, rank: int, error: BaseException) -> None:
    """Leave the reason why a rank ends where the others look for it.

    Args:
        store: What the ranks met in.
        rank: The one that ends; what the first one says stays.
        error: Why.
    """
    with suppress(RuntimeError):  # what the ranks met in may have ended
        store.compare_set(_ENDED, "", f"{rank} {own_words(error)}")
        store.set(f"{_PREFIX}/noticed/{rank}", "yes")


def explained(
    error: BaseException, store: Any, rank: int, size: int, places: Sequence[str]
) -> str:
    """Return the message for an exchange that failed.

    Every rank that notices says so; those that say nothing have ended.

    Args:
        error: What the exchange raised.
        store: What the ranks met in.
        rank: Our own number.
        size: How many ranks there are.
        places: Process and host of every rank, if that is known.

    Returns:
        Which ranks have ended, their words if they left any, and what to do.
    """
    if "timed out" in str(error).lower():
        return (
            f"all {size} ranks must make the same calls in the same order; some did "
            "not come to an exchange before the process group's timeout. Let every "
            "rank make the call, pass ranks='own' for what one rank does by itself, or "
            "give init_process_group a longer timeout."
        )
    try:
        silent, words = _roll_call(store, rank, size)
    except RuntimeError:  # what the ranks met in has ended, too
        silent, words = [], ""
    named = [f"rank {r} ({places[r]})" if places else f"rank {r}" for r in silent]
    who = " and ".join(named) or "another rank"
    why = words or "it was killed, or its own output says why"
    return f"{who} of {size} has ended: {why}. {_HOW_TO_GO_ON}"


def _roll_call(store: Any, rank: int, size: int) -> tuple[list[int], str]:
    """Return the ranks that are silent, and the first words that one has left."""
    store.set(f"{_PREFIX}/noticed/{rank}", "yes")
    silent = list(range(size))
    until = time.monotonic() + _PATIENCE
    while silent and time.monotonic() < until:
        silent = [r for r in silent if not store.check([f"{_PREFIX}/noticed/{r}"])]
        time.sleep(0.05)
    if store.check([_ENDED]):
        first, _, words = store.get(_ENDED).decode().partition(" ")
        return [int(first)], words
    return silent, ""
