"""Weight files: safetensors, or a `state_dict` that loads without running code."""

import json
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_CHECKPOINT_ENTRIES = ("state_dict", "model_state_dict", "model")
_PREFIX = "module."  # what DataParallel puts in front of every name
_NUM_LISTED = 5
_INDEX: Final = "model.safetensors.index.json"
# What a checkpoint folder of Hugging Face's libraries holds, one of these.
WEIGHTS_IN_FOLDER: Final = ("model.safetensors", _INDEX, "pytorch_model.bin")


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Copy the parameters and buffers in a file into `model`.

    A name that ends in `.safetensors` is read as such, every other as a file of
    `torch.save`, of which nothing is executed: it may hold a `state_dict`, or a
    checkpoint with one under `"state_dict"`, `"model_state_dict"` or `"model"`. A
    folder is read as a checkpoint of Hugging Face's libraries. If all names begin with
    `module.` and the model's do not, that is taken off, and so is another prefix under
    which the whole model is found, such as `model.` in checkpoints of Lightning. A
    name may be missing if its tensor is tied to one that is there. The model keeps
    its dtype and device, and is left as it was if anything does not fit.

    Args:
        model: The model.
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated or corrupt, needs code to be executed,
            holds no tensors by name, or these do not fit the model: all missing,
            unexpected and wrongly shaped names are told.

    Cost:
        The file's size in host memory.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> saved, loaded = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> save_weights(saved, path)
        >>> load_weights(loaded, path)
        >>> torch.equal(saved.weight, loaded.weight)
        True
    """
    # strict would refuse a file that holds tied weights once
    model.load_state_dict(_fitting(model, Path(path)), strict=False)


def weight_faults(
    model: nn.Module, paths: Sequence[str | os.PathLike[str]]
) -> list[str]:
    """Return why `load_weights` would refuse files, from their names and shapes.

    Args:
        model: The model; left as it is.
        paths: The files, and folders of checkpoints.

    Returns:
        A message for each of them that is missing, corrupt or does not fit.

    Cost:
        Reads no tensor, but of files in torch's format from before 1.6.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> save_weights(nn.Linear(3, 2), path)
        >>> weight_faults(nn.Linear(3, 2), [path])
        []
        >>> len(weight_faults(nn.Linear(4, 2), [path]))
        1
    """
    found: list[str] = []
    for path in paths:
        try:
            _fitting(model, Path(path), shapes_alone=True)
        except (OSError, ValueError) as error:
            found.append(str(error))
    return found


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write all parameters and buffers of `model` to a `.safetensors` file.

    The file is whole or absent: it is written beside its place and then moved there.
    Folders are made as needed. Tied tensors are written once for each name.

    Args:
        model: The model.
        path: The file; an existing one is replaced.

    Raises:
        ValueError: If `path` does not end in `.safetensors`, or the model's state
            has entries that are not tensors.

    Example:
        >>> save_weights(nn.Linear(1, 1), "weights.pt")
        Traceback (most recent call last):
        ...
        ValueError: path must end in .safetensors, got weights.pt.
    """
    path = Path(path)
    if not _is_safetensors(path):
        raise ValueError(f"path must end in .safetensors, got {path}.")
    state: dict[str, Any] = model.state_dict()
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"safetensors hold tensors alone; the state of {type(model).__name__} has "
            f"other entries, {_listed(others)}: save it with torch.save."
        )
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _fitting(
    model: nn.Module, path: Path, *, shapes_alone: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of a file under the model's names."""
    read = _read_folder if path.is_dir() else _read
    tensors = read(path, shapes_alone=shapes_alone)
    own = model.state_dict()
    if _prefixed(tensors) and not _prefixed(own):
        tensors = {key.removeprefix(_PREFIX): value for key, value in tensors.items()}
    if prefix := _prefix_of(own, tensors):
        tensors = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
    _require_fit(path, type(model).__name__, own, tensors)
    return tensors


def _read(path: Path, *, shapes_alone: bool) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no weight file {path} (looked in {path.parent.absolute()})."
        )
    if _is_safetensors(path):
        return _read_safetensors(path, shapes_alone=shapes_alone)
    # what is mapped is read from disk when it is used
    return _read_torch(path, maps=shapes_alone and zipfile.is_zipfile(path))


def _read_folder(folder: Path, *, shapes_alone: bool) -> dict[str, Tensor]:
    """Return the weights of a checkpoint folder, in one file or in several."""
    name = next((n for n in WEIGHTS_IN_FOLDER if (folder / n).is_file()), None)
    if name is None:
        raise FileNotFoundError(
            f"a folder of weights must hold one of {', '.join(WEIGHTS_IN_FOLDER)}; "
            f"{folder} holds none. Name the weight file itself."
        )
    if name != _INDEX:
        return _read(folder / name, shapes_alone=shapes_alone)
    try:
        index: Any = json.loads((folder / name).read_text(encoding="utf-8"))
        files = sorted({Path(file).name for file in index["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(_corrupt(folder / name, error)) from error
    return {
        key: value
        for file in files
        for key, value in _read(folder / file, shapes_alone=shapes_alone).items()
    }


def _prefix_of(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return the one prefix under which all of the model is found, "" if none is."""
    if not own or any(key in given for key in own):
        return ""
    first = next(iter(own))
    ends = [key.removesuffix(first) for key in given if key.endswith(f".{first}")]
    found = [prefix for prefix in ends if all(prefix + key in given for key in own)]
    return found[0] if len(found) == 1 else ""


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _prefixed(names: Mapping[str, Tensor]) -> bool:
    return bool(names) and all(name.startswith(_PREFIX) for name in names)


def _read_safetensors(path: Path, *, shapes_alone: bool) -> dict[str, Tensor]:
    try:
        if not shapes_alone:
            return load_file(path)
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            shapes = {name: file.get_slice(name).get_shape() for name in names}
    except SafetensorError as error:
        raise ValueError(_corrupt(path, error)) from error
    return {key: torch.empty(size, device="meta") for key, size in shapes.items()}


def _read_torch(path: Path, *, maps: bool) -> dict[str, Tensor]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=maps)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        if not _needs_code(path, error):
            raise ValueError(_corrupt(path, error)) from error
        raise ValueError(
            f"{path} holds more than tensors and plain containers, so loading it would "
            "execute code from the file. If you trust it, convert it once: "
            f"state = torch.load({str(path)!r}, weights_only=False); "
            f"safetensors.torch.save_file(state, {path.stem + '.safetensors'!r}), with "
            "state = state.state_dict() in between if it is a whole model."
        ) from error
    except Exception as error:  # garbage fails anywhere inside the unpickler
        raise ValueError(_corrupt(path, error)) from error
    return _named_tensors(path, content)


def _needs_code(path: Path, error: pickle.UnpicklingError) -> bool:
    """Return whether this is a whole pickle that the safe unpickler refuses."""
    with path.open("rb") as file:
        head = file.read(2)
    is_pickle = head == b"PK" or head.startswith(b"\x80")  # zipped or bare
    return is_pickle and "Unsupported" in str(error)


def _corrupt(path: Path, error: Exception) -> str:
    reason = type(error).__name__
    if not isinstance(error, pickle.UnpicklingError):  # torch advises to run code
        reason = f"{reason}: {error}".splitlines()[0]
    return (
        f"{path} ({path.stat().st_size} bytes) is truncated, corrupt or not a weight "
        f"file ({reason}); copy or export it again."
    )


def _named_tensors(path: Path, content: object) -> dict[str, Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in _CHECKPOINT_ENTRIES if key in content]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            tensors = {
                key: value
                for key, value in candidate.items()
                if isinstance(key, str) and isinstance(value, Tensor)
            }
            if len(tensors) == len(candidate):
                return tensors
    entries = ", ".join(repr(entry) for entry in _CHECKPOINT_ENTRIES)
    found = type(content).__name__
    if isinstance(content, Mapping):
        found += f" with the entries {_listed([str(key) for key in content])}"
    raise ValueError(
        f"{path} must hold a state_dict, a mapping from names to tensors, at its top "
        f"or under one of {entries}; got a {found}."
    )


def _require_fit(
    path: Path, model: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> None:
    present = {_identity(own[key]) for key in given if key in own}
    missing = [
        key for key in own if key not in given and _identity(own[key]) not in present
    ]
    unexpected = [key for key in given if key not in own]
    misshapen = [
        f"{key} {tuple(given[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in given
        if key in own and given[key].shape != own[key].shape
    ]
    found = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": misshapen,
    }
    lines = [
        f"  {len(keys)} {what}: {_listed(keys)}" for what, keys in found.items() if keys
    ]
    if lines:
        raise ValueError(
            f"{path} does not fit the {model}, which has {len(own)} tensors by name; "
            f"the file has {len(given)}:\n" + "\n".join(lines)
        )


def _identity(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.data_ptr(), tensor.shape, tensor.stride())


def _listed(keys: list[str]) -> str:
    shown = "; ".join(keys[:_NUM_LISTED])
    rest = len(keys) - _NUM_LISTED
    return shown if rest <= 0 else f"{shown}; and {rest} more"
