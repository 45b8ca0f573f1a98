"""The number of threads that a run began with: sums are taken alike on resume."""

from typing import cast

import torch

from eigenscope.store import Run

_SETTING = "num_threads"


def repeat_threads(run: Run) -> int:
    """Use as many threads as when a run began, which records it at first.

    Sums that are split among another number of threads round differently.

    Args:
        run: A run that is open for writing.

    Returns:
        The number that was in use before.
    """
    before = torch.get_num_threads()
    if run.settings.get(_SETTING) is None:
        run.record_settings({_SETTING: before})
    torch.set_num_threads(cast("int", run.settings[_SETTING]))
    return before
