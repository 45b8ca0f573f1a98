"""The checkpoints that a training left in a folder, in the order of their numbers."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, final

from torch import nn

from eigenscope.zoo.weights import WEIGHTS_IN_FOLDER, weight_faults

_SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_COUNTERS: Final = ("step", "steps", "global_step", "epoch", "epochs", "iter")
_NUMBERED: Final = re.compile(r"([A-Za-z_]*?)[-_=.]*(\d+)(?![A-Za-z0-9])")
_VERSION: Final = re.compile(r"-v\d+$")  # what Lightning adds to a name that exists


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Weight files by the epoch or step that their names tell.

    Attributes:
        paths: Number to file, or to the folder of a Hugging Face checkpoint; ascending.
        counter: What the numbers count, as the names have it, such as "step"; "" where
            they do not say.
        gaps: Pairs of numbers between which checkpoints are missing, where most are
            equally far apart.
        foreign: Names of everything else in the folder, and why it is no checkpoint.

    Example:
        >>> Checkpoints(
        ...     paths={1: Path("epoch_1.pt")}, counter="epoch", gaps=(), foreign={}
        ... ).counter
        'epoch'
    """

    paths: Mapping[int, Path]
    counter: str
    gaps: tuple[tuple[int, int], ...]
    foreign: Mapping[str, str]

    def remarks(self) -> str:
        """Return what is to be said about gaps and foreign files, "" if nothing."""
        said: list[str] = []
        if self.foreign:
            listed = "; ".join(f"{name} {why}" for name, why in self.foreign.items())
            said.append(f"not checkpoints: {listed}")
        if self.gaps:
            listed = ", ".join(f"{a} and {b}" for a, b in self.gaps)
            said.append(f"checkpoints seem to be missing between {listed}")
        return ". ".join(said)


def find_checkpoints(
    folder: str | os.PathLike[str], *, counter: str | None = None
) -> Checkpoints:
    """Find the checkpoints in a folder, ordered by number: step_9 before step_10.

    Recognized are .safetensors files and files of `torch.save` (.pt, .pth, .ckpt, .bin)
    with a number in their names, as step_9.pt or epoch=3-step=120.ckpt (Lightning), and
    folders such as checkpoint-500 that hold the weights of a Hugging Face model.

    Args:
        folder: The folder.
        counter: The word before the number that counts, such as "epoch", where names
            have several; None takes "step" before "epoch", whichever most names have,
            before the last number.

    Returns:
        The checkpoints, gaps between them, and what else is there.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no checkpoint, or two of one number.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("step_10.pt", "step_9.pt", "step_12.pt", "notes.txt"):
        ...     folder.joinpath(name).touch()
        >>> found = find_checkpoints(folder)
        >>> list(found.paths), found.gaps, dict(found.foreign)
        ([9, 10, 12], (), {'notes.txt': 'is no weight file'})
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"a series needs a folder of checkpoints; there is no folder {folder} "
            f"(looked in {folder.parent.absolute()})."
        )
    foreign: dict[str, str] = {}
    labels: dict[Path, dict[str, int]] = {}
    for path in sorted(folder.iterdir()):
        reason = _why_foreign(path)
        found = _numbers(path)
        if reason is None and not found:
            reason = "has no number in its name"
        if reason is not None:
            if not path.name.startswith("."):
                foreign[path.name] = reason
            continue
        labels[path] = found
    chosen = _counter(list(labels.values()), counter)
    paths: dict[int, Path] = {}
    clashes: list[str] = []
    for path, found in labels.items():
        if chosen not in found:
            foreign[path.name] = f"has no number of {chosen!r} in its name"
            continue
        number = found[chosen]
        if number in paths:
            clashes.append(f"{paths[number].name} and {path.name} both have {number}")
        paths.setdefault(number, path)
    if clashes:
        raise ValueError(
            f"the checkpoints of a series must have different numbers; in {folder} "
            f"{', '.join(clashes)}. Name the word before the number that counts with "
            "counter (--counter), or move one of them elsewhere."
        )
    if not paths:
        listed = "; ".join(f"{name} {why}" for name, why in foreign.items())
        raise ValueError(
            f"a series needs files such as step_10.safetensors or epoch_3.pt, or "
            f"folders such as checkpoint-500; {folder} holds none"
            f"{': ' + listed if listed else ', it is empty'}."
        )
    ordered = dict(sorted(paths.items()))
    return Checkpoints(
        paths=ordered,
        counter=chosen if chosen != _LAST else "",
        gaps=_gaps(list(ordered)),
        foreign=foreign,
    )


def require_loadable(model: nn.Module, paths: Mapping[int, Path]) -> None:
    """Refuse checkpoints that a network cannot load, all at once.

    Args:
        model: The network.
        paths: Those that are to be measured.

    Raises:
        ValueError: If any is corrupt or another network's; says what is wrong with
            each.
    """
    faults = weight_faults(model, list(paths.values()))
    if faults:
        listed = "\n".join(f"- {fault}" for fault in faults)
        raise ValueError(
            f"every checkpoint of a series must load into the network; "
            f"{len(faults)} of {len(paths)} do not. Move them elsewhere, or choose "
            f"the network that they are of.\n{listed}"
        )


def require_alone(found: Checkpoints, folder: Path) -> None:
    """Refuse a folder that has gaps or holds anything but checkpoints.

    Args:
        found: What it holds.
        folder: The folder.

    Raises:
        ValueError: If there is something to say about it.
    """
    if said := found.remarks():
        raise ValueError(
            "a series must hold its checkpoints alone, without gaps; in "
            f"{folder}: {said}. Move the files elsewhere, or pass foreign='skip' "
            "(--foreign skip)."
        )


_LAST: Final = "the last number"


def _why_foreign(path: Path) -> str | None:
    """Return why something is no checkpoint, None if it may be one."""
    if path.is_dir():
        if any((path / name).is_file() for name in WEIGHTS_IN_FOLDER):
            return None
        return f"is a folder without any of {', '.join(WEIGHTS_IN_FOLDER)}"
    return None if path.suffix in _SUFFIXES else "is no weight file"


def _numbers(path: Path) -> dict[str, int]:
    """Return the words of a name to the numbers behind them, and the last number."""
    stem = path.name if path.is_dir() else path.name.removesuffix(path.suffix)
    pairs = _NUMBERED.findall(_VERSION.sub("", stem))
    found = {word.strip("_").lower(): int(number) for word, number in pairs}
    return found | {_LAST: int(pairs[-1][1])} if pairs else {}


def _counter(labels: Sequence[Mapping[str, int]], asked: str | None) -> str:
    """Return the word whose numbers count.

    Raises:
        ValueError: If nothing has the word that was asked for.
    """
    words = Counter(word for found in labels for word in found)
    if asked is not None:
        if labels and asked.lower() not in words:
            known = ", ".join(repr(word) for word in words if word not in {_LAST, ""})
            raise ValueError(
                f"counter must be a word before a number in the names, such as "
                f"{known or 'step'}; got {asked!r}."
            )
        return asked.lower()
    for word in _COUNTERS:
        if 2 * words[word] > len(labels):
            return word
    return _LAST


def _gaps(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return neighbors that are farther apart than most."""
    pairs = list(pairwise(numbers))
    if len(pairs) < 2:
        return ()
    usual, count = Counter(b - a for a, b in pairs).most_common(1)[0]
    if 2 * count <= len(pairs):
        return ()
    return tuple((a, b) for a, b in pairs if b - a > usual)
