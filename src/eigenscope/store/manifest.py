"""What made a run: arguments, settings, versions, commit, seed, time and results."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from eigenscope.store.files import write_atomically

if TYPE_CHECKING:
    from eigenscope._types import JsonValue
else:  # beartype cannot follow the recursive alias, and its module imports torch
    JsonValue = object

Status = Literal["running", "complete"]

FORMAT_VERSION: Final = 1
FILE_NAME: Final = "manifest.json"
FINGERPRINT: Final = "fingerprint"  # the setting that tells model and data


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A run's record, as it stands in manifest.json.

    `store` is the URL of its arrays, None for the folder itself. Times are UTC in ISO
    8601, `timing` is wall seconds per stage over all resumes, `tiles` the tiles of each
    array when the run was completed, and `resumes` one record (time, versions, commit)
    for each time that it was taken up again. `stale` names arrays of fewer samples.
    """

    verb: str
    arguments: Mapping[str, JsonValue]
    settings: Mapping[str, JsonValue]
    versions: Mapping[str, str | None]
    commit: str | None
    created: str
    updated: str
    seed: JsonValue
    store: str | None = None
    format_version: int = FORMAT_VERSION
    status: Status = "running"
    timing: Mapping[str, float] = field(default_factory=dict[str, float])
    results: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    tiles: Mapping[str, int] = field(default_factory=dict[str, int])
    resumes: tuple[Mapping[str, JsonValue], ...] = ()
    stale: tuple[str, ...] = ()

    @classmethod
    def new(
        cls,
        *,
        verb: str,
        arguments: Mapping[str, JsonValue],
        settings: Mapping[str, JsonValue],
        store: str | None = None,
    ) -> "Manifest":
        """The record of a run that starts now, with this code on this machine.

        Args:
            verb: The job.
            arguments: What was asked for; its "seed", if any, is the run's.
            settings: What was chosen to do it.
            store: Where its arrays are, if not in its folder.

        Returns:
            A manifest with status "running".

        Raises:
            ValueError: If arguments or settings are not JSON.
        """
        now = utc_now()
        arguments = plain_json("arguments", dict(arguments))
        return cls(
            verb=verb,
            arguments=arguments,
            settings=plain_json("settings", dict(settings)),
            versions=versions(),
            commit=source_commit(),
            created=now,
            updated=now,
            seed=arguments.get("seed"),
            store=store,
        )

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a run's manifest.

        Args:
            folder: The run.

        Returns:
            The record.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, or was written by a newer Eigenscope.
        """
        path = folder / FILE_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"an Eigenscope run is a folder with a {FILE_NAME}; {folder} has none. "
                "Check the path."
            ) from None
        try:
            content = json.loads(text)
            newest = content["format_version"]
            if newest <= FORMAT_VERSION:
                content["resumes"] = tuple(content["resumes"])
                content["stale"] = tuple(content.get("stale", ()))
                return cls(**content)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} must be a whole manifest; got {len(text)} characters that are "
                f"cut short or damaged ({error}); restore the file from a copy, or "
                "start a new run in another folder."
            ) from error
        raise ValueError(
            f"{path} must have format version {FORMAT_VERSION} or older, got "
            f"{newest}: a newer Eigenscope wrote it; upgrade Eigenscope "
            "(pip install --upgrade eigenscope)."
        )

    def save(self, folder: Path) -> None:
        """Write the record atomically.

        Args:
            folder: The run.
        """
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / FILE_NAME, text + "\n")

    def grown(self, num_samples: int, arrays: Sequence[str]) -> dict[str, Any]:
        """What changes once more samples are taken in.

        Args:
            num_samples: All samples from now on.
            arrays: What is there, of fewer samples.

        Returns:
            Fields and their new values.
        """
        return {
            "arguments": {**self.arguments, "num_samples": num_samples},
            "settings": {k: v for k, v in self.settings.items() if k != FINGERPRINT},
            "results": {},
            "tiles": {},
            "status": "running",
            "stale": (*self.stale, *arrays),
        }

    def differences(self, verb: str, arguments: Mapping[str, JsonValue]) -> list[str]:
        """What of a job is not this run's, each as "name: old → new".

        Args:
            verb: The job that is asked for.
            arguments: Its arguments.

        Returns:
            One text per difference; none if it is the same job. What is absent is as
            if it were null, so that a run can go on when there is a new option.
        """
        old, new = self.arguments, plain_json("arguments", dict(arguments))
        other_verb = [f"verb: {self.verb} → {verb}"] if self.verb != verb else []
        return other_verb + [
            f"{name}: {_shown(old, name)} → {_shown(new, name)}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]


def plain_json(name: str, value: Any) -> Any:
    """The value as it comes back from JSON.

    Args:
        name: What it is, for the message.
        value: None, booleans, finite numbers, text, lists and mappings of these.

    Returns:
        An equal value of plain Python types; tuples have become lists.

    Raises:
        ValueError: If it cannot go to JSON.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be made of null, true, false, finite numbers, text, lists "
            f"and mappings with text keys, got {value!r} ({error}); convert tensors "
            "and NumPy numbers with .item() or .tolist(), and infinities to None."
        ) from error


def changed_values(
    old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]
) -> list[str]:
    """Which values of a record would change, each as "name: old → new".

    Args:
        old: What is recorded.
        new: What is to be added.

    Returns:
        One text per change; none if everything in `new` is new or the same.
    """
    return [
        f"{name}: {json.dumps(old[name])} → {json.dumps(value)}"
        for name, value in new.items()
        if name in old and old[name] != value
    ]


def resumption() -> dict[str, JsonValue]:
    """The record of a run's being taken up again, now and by this code.

    Returns:
        Time, versions and commit.
    """
    return {
        "time": utc_now(),
        "versions": dict(versions()),
        "commit": source_commit(),
    }


def utc_now() -> str:
    """The time in UTC.

    Returns:
        ISO 8601, to the second.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Versions of what computes a result.

    Returns:
        Python, the platform and the packages; None for what is not installed.
    """
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in ("eigenscope", "torch", "numpy", "zarr"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def source_commit() -> str | None:
    """Commit of the source checkout that this package runs from.

    Returns:
        The hash, with "-dirty" after it when tracked files differ from the commit;
        None when the package is installed, or git is not.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            [*command, "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or not ours to read
        return None
    return done.stdout.strip()


def _shown(values: Mapping[str, JsonValue], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"
