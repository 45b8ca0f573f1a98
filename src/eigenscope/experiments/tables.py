"""TOML tables as frozen records: everything that is wrong with them, at once."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from eigenscope._types import JsonValue
from eigenscope.zoo.names import nearest_first

Record = TypeVar("Record")
_NUM_NEAREST = 3
_KINDS: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
_STAND_INS: Mapping[Any, Any] = {str: "", int: 1, float: 1.0, bool: False}


def read_table(
    kind: type[Record], table: Mapping[str, Any], *, path: str = ""
) -> tuple[Record | None, list[str]]:
    """Turn a table into a frozen dataclass, and name everything that is wrong.

    Keys, types, choices and nested tables are checked, then each record's own
    `faults()`.

    Args:
        kind: The dataclass; each has a method `faults`.
        table: What the TOML says.
        path: Of the table, such as "training.".

    Returns:
        The record of what is right, None if that is not enough or out of range; and
        one line for each fault.
    """
    faults: list[str] = []
    hints, values = get_type_hints(kind), dict[str, Any]()
    known: dict[str, Field[Any]] = {field.name: field for field in fields(_cls(kind))}
    for key in table:
        if key not in known:
            near = ", ".join(nearest_first(key, known)[:_NUM_NEAREST])
            faults.append(f"{path}{key} is no key here; the nearest are {near}")
    for name, field in known.items():
        if name in table:
            value, wrong = _value(hints[name], table[name], f"{path}{name}")
            faults += wrong
            if value is not None:
                values[name] = value
        elif field.default is MISSING:
            faults.append(f"{path}{name} is required and missing")
    missing = [n for n in known if known[n].default is MISSING and n not in values]
    record: Any = kind(
        **values | {name: _STAND_INS.get(hints[name]) for name in missing}
    )
    left_out = {*missing, *table} - values.keys()  # what stands for it is not to blame
    own = [f for f in record.faults() if left_out.isdisjoint(re.findall(r"\w+", f))]
    is_usable = not missing and not own
    return record if is_usable else None, faults + [f"{path}{fault}" for fault in own]


def flat(record: object) -> dict[str, JsonValue]:
    """Return a record as JSON values by dotted name, without absent sections.

    Args:
        record: Of dataclasses.

    Returns:
        Such as {"seed": 0, "model.name": "lenet"}.
    """
    found: dict[str, JsonValue] = {}
    _flatten(asdict(_instance(record)), "", found)
    return found


def nested(flat_values: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return the table whose `flat` values these are.

    Args:
        flat_values: By dotted name; None stands for what is absent.

    Returns:
        Nested tables.

    Example:
        >>> nested({"seed": 0, "model.name": "lenet", "model.weights": None})
        {'seed': 0, 'model': {'name': 'lenet'}}
    """
    table: dict[str, Any] = {}
    for name, value in flat_values.items():
        *sections, key = name.split(".")
        place = table
        for section in sections:
            place = place.setdefault(section, {})
        if value is not None:
            place[key] = value
    return table


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with another's entries in place of its own, tables by entry.

    Args:
        base: The table.
        changes: What replaces or adds to it.

    Returns:
        A new table.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    found = dict(base)
    for key, value in changes.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            found[key] = merged(old, value)
        else:
            found[key] = value
    return found


def _cls(kind: Any) -> Any:
    return kind


def _instance(record: Any) -> Any:
    return record


def _flatten(table: Mapping[str, Any], path: str, found: dict[str, JsonValue]) -> None:
    for key, value in table.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{path}{key}.", found)
        elif value is not None or path:
            found[f"{path}{key}"] = list(value) if isinstance(value, tuple) else value


def _value(hint: Any, given: Any, path: str) -> tuple[Any, list[str]]:
    """Return a value of the type of a field, and what is wrong with it."""
    if get_origin(hint) in {Union, UnionType}:
        hint = next(part for part in get_args(hint) if part is not type(None))
    if is_dataclass(hint):
        if not isinstance(given, Mapping):
            return None, [f"{path} must be a table, [{path}]; got {given!r}"]
        return read_table(_cls(hint), given, path=f"{path}.")
    if get_origin(hint) is Literal:
        if given in get_args(hint):
            return given, []
        near = ", ".join(map(repr, nearest_first(str(given), get_args(hint))))
        return None, [f"{path} must be one of {near}; got {given!r}"]
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if isinstance(given, list) and all(_is(item, part) for part in given):
            return tuple(given), []
        return None, [f"{path} must be a list, each {_KINDS[item]}; got {given!r}"]
    if not _is(hint, given):
        return None, [f"{path} must be {_KINDS[hint]}; got {given!r}"]
    return (float(given) if hint is float else given), []


def _is(kind: Any, given: Any) -> bool:
    """Return whether a value is of a plain type; no number is true or false."""
    if isinstance(given, bool):
        return kind is bool
    return isinstance(given, (int, float) if kind is float else kind)
