"""Experiments by name: those that come with the package, and the user's files."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast, final

from eigenscope.experiments.configuration import Experiment
from eigenscope.experiments.preparation import outside_faults
from eigenscope.experiments.tables import flat, merged, nested, read_table
from eigenscope.zoo.names import nearest_first

_SUFFIX = ".toml"
_NUM_NEAREST = 5
_OWN_KEYS = ("members", "variants")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One or several experiments that belong together.

    Attributes:
        name: What it is called.
        description: What it is for.
        experiments: By the name of its folder; "" for one that is alone.
    """

    name: str
    description: str
    experiments: dict[str, Experiment]


def experiment_names() -> tuple[str, ...]:
    """Return the names of all experiments that come with the package, sorted.

    Example:
        >>> "lenet-fashion-mnist" in experiment_names()
        True
    """
    found = files("eigenscope.experiments").joinpath("catalog_files").iterdir()
    names = [entry.name for entry in found if entry.name.endswith(_SUFFIX)]
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names))


def read_study(name: str, *, changes: Sequence[str] = ()) -> Study:
    """Read an experiment and check all of it, its data and network, too.

    A file may hold one experiment; or `members`, names of others that are run one
    after another; or tables `[[variants]]`, each with a `name` of its own, whose
    entries replace those of the file.

    Args:
        name: Of an experiment that comes with the package, or a TOML file.
        changes: "training.epochs=3", a dotted key and a TOML value; in all of them.

    Returns:
        The study.

    Raises:
        FileNotFoundError: If there is neither such a file nor such an experiment.
        ValueError: If the file is not TOML, or anything in it is wrong; says all.

    Cost:
        Reading the data and building the network of each experiment.
    """
    overrides: dict[str, Any] = {}
    for change in changes:
        overrides = merged(overrides, _change(change))
    table = _load(name)
    title = str(table.get("name", Path(name).stem))
    faults: list[str] = []
    experiments: dict[str, Experiment] = {}
    for folder, part in _parts(name, table, faults).items():
        whole = merged(part, overrides)
        found, wrong = read_table(Experiment, whole)
        place = f"{folder}: " if folder else ""
        wrong += outside_faults(whole)
        faults += [f"{place}{fault}" for fault in wrong]
        if found is not None:
            experiments[folder] = with_absolute_paths(found)
    raise_faults(name, faults)
    said = str(table.get("description", ""))
    return Study(name=title, description=said, experiments=experiments)


def read_description(name: str) -> str:
    """Return what an experiment is for, in a sentence.

    Args:
        name: Of an experiment that comes with the package, or a TOML file.

    Returns:
        Its description.
    """
    return str(_load(name).get("description", ""))


def raise_faults(name: str, faults: Sequence[str]) -> None:
    """Raise one error for all that is wrong with an experiment.

    Args:
        name: Of the experiment.
        faults: One line each.

    Raises:
        ValueError: If there is any.
    """
    if faults:
        lines = "\n".join(f"  {fault}" for fault in dict.fromkeys(faults))
        number = len(lines.splitlines())
        raise ValueError(
            f"the experiment {name} must be without faults; it has {number}:\n{lines}"
        )


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """Return an experiment that is the same in another directory.

    Args:
        experiment: The experiment.

    Returns:
        The same, with absolute paths.
    """
    model, data = experiment.model, experiment.data
    return replace(
        experiment,
        model=replace(model, weights=_absolute(model.weights)),
        data=replace(data, root=_absolute(data.root)),
    )


def recorded_experiment(arguments: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a run's arguments stand for.

    Args:
        arguments: Of a run of the verb "train".

    Returns:
        The experiment.

    Raises:
        ValueError: If they are of another verb, or of another version's.
    """
    names = {"experiment": "name", "model": "model.name", "data": "data.name"}
    flat_values = {names.get(key, key): value for key, value in arguments.items()}
    found, faults = read_table(Experiment, nested(flat_values))
    raise_faults(str(arguments.get("experiment", "of this run")), faults)
    if found is None:
        raise ValueError("a run's arguments must be those of an experiment.")
    return found


def arguments_of_experiment(experiment: Experiment) -> dict[str, Any]:
    """Return what a run records of an experiment, by dotted name.

    Args:
        experiment: The experiment.

    Returns:
        JSON values; the names of experiment, model and data set are "experiment",
        "model" and "data".
    """
    names = {"name": "experiment", "model.name": "model", "data.name": "data"}
    found = {names.get(key, key): value for key, value in flat(experiment).items()}
    del found["description"]  # says nothing of the result
    return found


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def _parts(
    name: str, table: Mapping[str, Any], faults: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the tables of all experiments of a file, by folder."""
    base = {key: value for key, value in table.items() if key not in _OWN_KEYS}
    base.setdefault("name", Path(name).stem)
    if "/" in str(base["name"]):
        faults.append(f"name must be that of a folder, without /; got {base['name']!r}")
    if "members" in table:
        return _members(table, faults)
    if "variants" not in table:
        return {"": base}
    variants: Any = table["variants"]
    if not isinstance(variants, list) or not variants:
        faults.append(f"variants must be tables [[variants]]; got {variants!r}")
        return {"": base}
    found: dict[str, dict[str, Any]] = {}
    for variant in cast("list[Any]", variants):
        entries = cast("dict[str, Any]", variant if isinstance(variant, dict) else {})
        own: Any = entries.get("name", variant if not entries else "")
        if not isinstance(own, str) or not entries or not own or own in found:
            faults.append(
                "every one of [[variants]] must be a table with a name of its own; got "
                f"{own!r}"
            )
        elif "/" in own or own == "..":
            faults.append(f"names of [[variants]] are folders, without /; got {own!r}")
        else:
            found[own] = merged(base, {**entries, "name": f"{base['name']}-{own}"})
    return found


def _members(table: Mapping[str, Any], faults: list[str]) -> dict[str, dict[str, Any]]:
    """Return the tables of the experiments that a file names, by name."""
    known = experiment_names()
    members: Any = table["members"]
    ignored = sorted(table.keys() - {"members", "name", "description"})
    if ignored:
        faults.append(
            f"members are experiments as they are; {', '.join(ignored)} beside them "
            "would change nothing. Take --set, or [[variants]] of one experiment"
        )
    if not isinstance(members, list) or not members:
        faults.append(f"members must be a list of names; got {members!r}")
        return {}
    for member in cast("list[Any]", members):
        if member not in known:
            near = ", ".join(nearest_first(str(member), known)[:_NUM_NEAREST])
            faults.append(f"members has {member!r}; the nearest are {near}")
    return {str(m): _load(m) | {"name": str(m)} for m in members if m in known}


def _load(name: str) -> dict[str, Any]:
    """Return the table of a file or of an experiment by name."""
    path = Path(name)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} must be TOML, a text in UTF-8; its byte {error.start} is none."
            ) from error
    elif name in experiment_names():
        folder = files("eigenscope.experiments").joinpath("catalog_files")
        text = folder.joinpath(name + _SUFFIX).read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(_unknown(path))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} must be TOML: {error}.") from error


def _unknown(path: Path) -> str:
    """Say what could have been meant by a file or name that there is none of."""
    is_file = path.suffix == _SUFFIX
    given = f"there is no file {path}" if is_file else f"got {str(path)!r}"
    names = nearest_first(path.stem if is_file else str(path), experiment_names())
    said = (
        "an experiment must be a .toml file that is there, or a name from `eigenscope "
        f"train --list`; {given}. The nearest names are "
        f"{', '.join(names[:_NUM_NEAREST])}."
    )
    beside = sorted(own.name for own in path.parent.glob(f"*{_SUFFIX}"))
    if is_file and beside:
        nearest = nearest_first(path.name, beside)[:_NUM_NEAREST]
        said += f" Files in {path.parent.absolute()}: {', '.join(nearest)}."
    return said


def _change(text: str) -> dict[str, Any]:
    """Return the table that "a.b=1" stands for; a bare word is a text."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ValueError(
            f"--set must be KEY=VALUE, as training.epochs=3; got {text!r}."
        )
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return nested({key: parsed})
