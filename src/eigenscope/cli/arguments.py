"""What of the options a run records, and the options that a record stands for."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenscope.cli.options import JacobianOptions, RunOptions
from eigenscope.store import Run

if TYPE_CHECKING:
    from eigenscope._types import JsonValue
else:  # its module imports torch
    JsonValue = object

_FREE = (
    "out",
    "resume",
    "memory",
    "json",
    "verify",
    "processes",
)  # may change when a run goes on
_SEVERAL = {"layout": "layouts", "kernel": "kernels", "operator": "operators"}
_PATHS = ("weights", "data_root", "checkpoints")


def arguments_of(options: RunOptions) -> dict[str, JsonValue]:
    """Return what decides a run's result, as its manifest records it.

    Args:
        options: All options; paths become absolute, so that the run can be taken up
            again from another directory.

    Returns:
        JSON values by name.
    """
    arguments: dict[str, Any] = {}
    for name, value in asdict(options).items():
        if name in _FREE:
            continue
        plain = list(value) if isinstance(value, tuple) else value
        if isinstance(plain, Path):
            plain = str(plain.expanduser().absolute())
        arguments[_recorded_name(name, options)] = plain
    return arguments


def recorded_options(asked: RunOptions) -> RunOptions:
    """Return the options that the run in the folder of others was started with.

    Args:
        asked: What was given on the command line. If the folder is no run, or one of
            another verb, what it does not record is at its default.

    Returns:
        Options that are the defaults when the run goes on.
    """
    kind = type(asked)
    try:
        recorded = dict(Run.open(asked.out).arguments)
    except FileNotFoundError:
        return kind()
    found: dict[str, Any] = {}
    for name, default in asdict(kind()).items():
        value = recorded.get(_recorded_name(name, asked))
        if name in _FREE or value is None:
            continue
        if isinstance(value, list) != isinstance(default, tuple):
            continue  # another verb's
        if isinstance(value, list):
            value = tuple(value)
        found[name] = Path(str(value)) if name in _PATHS else value
    return kind(**found)


def _recorded_name(name: str, options: RunOptions) -> str:
    several = isinstance(options, JacobianOptions) and name == "output"
    return "outputs" if several else _SEVERAL.get(name, name)
