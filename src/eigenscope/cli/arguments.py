"""What of the options a run records, and the options that a record stands for."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenscope.cli.options import JacobianOptions
from eigenscope.store import Run

if TYPE_CHECKING:
    from eigenscope._types import JsonValue
else:  # its module imports torch
    JsonValue = object

_FREE = ("out", "resume", "memory", "json")  # may change when a run goes on
_SEVERAL = {"output": "outputs", "layout": "layouts"}
_PATHS = ("weights", "data_root")


def arguments_of(options: JacobianOptions) -> dict[str, JsonValue]:
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
        arguments[_SEVERAL.get(name, name)] = plain
    return arguments


def recorded_options(folder: Path) -> JacobianOptions:
    """Return the options that the run in a folder was started with.

    Args:
        folder: A run; if it is none, or one of another verb, what it does not record
            is at its default.

    Returns:
        Options that are the defaults when the run goes on.
    """
    try:
        recorded = dict(Run.open(folder).arguments)
    except FileNotFoundError:
        return JacobianOptions()
    found: dict[str, Any] = {}
    for name in asdict(JacobianOptions()):
        value = recorded.get(_SEVERAL.get(name, name))
        if name in _FREE or value is None:
            continue
        if isinstance(value, list):
            value = tuple(value)
        found[name] = Path(str(value)) if name in _PATHS else value
    return JacobianOptions(**found)
