"""Names of models and data sets: spelling, aliases and what to say to a wrong one."""

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest_first(name: str, names: Iterable[str]) -> list[str]:
    """Return `names` in order of likeness to `name`, up to case.

    Example:
        >>> nearest_first("cifar1", ["svhn", "cifar100", "cifar10"])
        ['cifar10', 'cifar100', 'svhn']
    """

    def unlikeness(other: str) -> tuple[float, str]:
        matcher = SequenceMatcher(a=name.lower(), b=other.lower())
        return (-matcher.ratio(), other)

    return sorted(names, key=unlikeness)


def resolve_name(kind: str, name: str, names: Iterable[str]) -> str:
    """The one of `names` that `name` spells, up to case, hyphens and underscores.

    Args:
        kind: What is named, for the message: `"model"` or `"data"`.
        name: The name as the user wrote it.
        names: Every name that exists.

    Returns:
        The name as it stands in `names`.

    Raises:
        ValueError: If there is no such name; the message lists all, nearest first.

    Example:
        >>> resolve_name("data", "FashionMNIST", ["mnist", "fashion-mnist"])
        'fashion-mnist'
    """
    by_spelling = {_spelling(known): known for known in names}
    if _spelling(name) in by_spelling:
        return by_spelling[_spelling(name)]
    listed = ", ".join(nearest_first(name, by_spelling.values()))
    raise ValueError(
        f"{kind} must be package.module:factory or one of {listed}; got {name!r}."
    )


def _spelling(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
