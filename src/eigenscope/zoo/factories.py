"""The user's own models and data, named as `package.module:factory`."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from eigenscope.zoo.names import nearest_first


def is_factory(name: str) -> bool:
    """Return whether `name` is meant as `package.module:factory` and not as a zoo name.

    Example:
        >>> is_factory("my_nets:wide"), is_factory("lenet")
        (True, False)
    """
    return ":" in name


def call_model_factory(
    name: str, factory: Callable[..., Any], **offered: object
) -> nn.Module:
    """Call a model factory with those of `offered` that it takes.

    Args:
        name: What the user calls it, for the messages.
        factory: The callable.
        **offered: What is known about the data. An argument is passed when the
            factory has a parameter of its name and its value is not None.

    Returns:
        What the factory returned.

    Raises:
        ValueError: If the factory requires an argument that is not offered.
        TypeError: If the factory returns anything but a `torch.nn.Module`.

    Example:
        >>> call_model_factory("torch.nn:Identity", nn.Identity, sample_shape=(3,))
        Identity()
    """
    model = factory(**_accepted("model", name, factory, offered))
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"the model factory {name} must return a torch.nn.Module, "
            f"got {type(model).__name__}."
        )
    return model


def data_from_factory(
    name: str,
    *,
    root: Path | None = None,
    split: str | None = None,
    num_samples: int | None = None,
    per_class: int | None = None,
) -> object:
    """Call the data factory `name` with those options that it takes.

    Args:
        name: `package.module:factory`; the current directory is importable.
        root: Passed as `root`.
        split: Passed as `split` if the factory has such a parameter, else ignored:
            it always has a value on the command line.
        num_samples: Passed as `num_samples`.
        per_class: Passed as `per_class`.

    Returns:
        What the factory returned: a tensor, an `(inputs, targets)` tuple, a
        `Dataset`, a `DataLoader` or another re-iterable of batches.

    Raises:
        ValueError: If `name` does not lead to a callable, if the factory requires
            another argument, or if it has no parameter for an option that was given.
        TypeError: If what the factory returns cannot be data.
    """
    factory = import_factory("data", name)
    offered = {"root": root, "num_samples": num_samples, "per_class": per_class}
    accepted = _accepted("data", name, factory, {**offered, "split": split})
    ignored = [
        option
        for option, value in offered.items()
        if value is not None and option not in accepted
    ]
    if ignored:
        raise ValueError(
            f"the data factory {name} has no parameter {' or '.join(ignored)}, which "
            "was given; leave the option out, or add the parameter to the factory."
        )
    data = factory(**accepted)
    if not _is_data(data):
        raise TypeError(
            f"the data factory {name} must return a tensor, an (inputs, targets) "
            "tuple, a Dataset, a DataLoader or a re-iterable of batches, "
            f"got {type(data).__name__}."
        )
    return data


def import_factory(kind: str, name: str) -> Callable[..., Any]:
    """The callable that `package.module:factory` names.

    Puts the current directory in front of `sys.path`, as `python -m` does, and
    leaves it there: what the module imports later must be found, too.

    Args:
        kind: What is asked for, for the messages: `"model"` or `"data"`.
        name: `package.module:factory`.

    Returns:
        The callable.

    Raises:
        ValueError: If `name` is not of that form, or there is no such module, no
            such name in it, or it is not callable. Errors raised while the module
            is imported pass through.

    Example:
        >>> import_factory("model", "torch.nn:Identity")()
        Identity()
    """
    module_name, _, attribute = name.partition(":")
    parts = [*module_name.split("."), attribute]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"{kind} must have the form package.module:factory, got {name!r}."
        )
    module = _import_module(kind, module_name)
    if not hasattr(module, attribute):
        public = [key for key, value in vars(module).items() if _offers(key, value)]
        listed = ", ".join(nearest_first(attribute, public)[:5]) or "nothing callable"
        raise ValueError(
            f"{kind} {name!r}: the module {module_name} has no {attribute}; "
            f"it has {listed}."
        )
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ValueError(
            f"{kind} {name!r}: {attribute} must be a callable that returns the {kind}, "
            f"got {type(factory).__name__}."
        )
    return factory


def _import_module(kind: str, module_name: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module_name}.".startswith(f"{missing}."):
            raise  # the module exists; one of its own imports is missing
        raise ValueError(
            f"{kind} {module_name!r}: there is no module {missing!r}; looked in the "
            f"current directory, {here}, and among the installed packages."
        ) from error


def _offers(key: str, value: object) -> bool:
    return callable(value) and not key.startswith("_")


def _accepted(
    kind: str, name: str, factory: Callable[..., Any], offered: Mapping[str, object]
) -> dict[str, object]:
    parameters = inspect.signature(factory).parameters.values()
    named = [
        p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}
    ]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = {key: value for key, value in offered.items() if value is not None}
    required = [p.name for p in named if p.default is p.empty and p.name not in known]
    if required:
        raise ValueError(
            f"the {kind} factory {name} requires {', '.join(required)}, which is not "
            f"known here; it is offered {', '.join(known) or 'nothing'}: give the "
            "other parameters a default."
        )
    names = {p.name for p in named}
    return {key: value for key, value in known.items() if takes_any or key in names}


def _is_data(data: object) -> bool:
    if isinstance(data, tuple):
        return bool(data) and isinstance(data[0], Tensor)
    if isinstance(data, Tensor | Dataset | DataLoader):
        return True
    one_pass_or_batch = isinstance(data, Iterator | Mapping | str)
    return isinstance(data, Iterable) and not one_pass_or_batch
