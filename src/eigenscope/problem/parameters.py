"""Choosing parameters by name, glob or a sequence of these."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn


def select_parameters(
    model: nn.Module, params: str | Sequence[str] | None
) -> dict[str, nn.Parameter]:
    """Return the named parameters that `params` selects, in the model's order.

    Args:
        model: The network.
        params: A name, a glob such as `"layer1.*"`, a sequence of these, or None for
            every parameter that requires gradients. Frozen parameters are taken only
            when a name or glob matches them. Tied parameters count once, under their
            first name, and are found by each of their names.

    Returns:
        Name to parameter, in `named_parameters()` order.

    Raises:
        ValueError: If a pattern matches nothing; the message gives the nearest names.
    """
    named = dict(model.named_parameters())
    if params is None:
        return {name: p for name, p in named.items() if p.requires_grad}
    patterns = [params] if isinstance(params, str) else list(params)
    aliases = list(model.named_parameters(remove_duplicate=False))
    wanted: set[int] = set()
    for pattern in patterns:
        matched = {id(p) for name, p in aliases if fnmatchcase(name, pattern)}
        wanted |= matched
        if not matched:
            nearest = difflib.get_close_matches(pattern, named, n=3, cutoff=0.0)
            listed = ", ".join(repr(name) for name in nearest) or "none at all"
            raise ValueError(
                f"params must match parameters of the model; {pattern!r} matches none. "
                f"The nearest names: {listed}."
            )
    return {name: p for name, p in named.items() if id(p) in wanted}
