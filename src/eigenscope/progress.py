"""Progress and time left on a terminal; silence when the output is piped."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from eigenscope.distributed import own_rank

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], *, label: str, total: int, done: int = 0
) -> Iterator[Item]:
    """Return the items with a progress bar on standard error, if that is a terminal.

    Of ranks that share work only rank 0 shows one, of its own part.

    Args:
        items: What is worked through.
        label: What is being done.
        total: How many items there are, with those of earlier runs.
        done: How many of them an earlier run has done.

    Returns:
        An iterator over the items.
    """
    stream = sys.stderr
    if stream is None or not stream.isatty() or own_rank():
        return iter(items)
    return iter(tqdm(items, desc=label, total=total, initial=done, leave=False))
