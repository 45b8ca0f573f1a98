"""Option literals, shared aliases and the checks that turn them into messages."""

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

OutputName = Literal["logits", "probabilities", "log_probabilities"]
OutputSpec = OutputName | Callable[[Tensor], Tensor]
Layout = Literal["samples", "outputs"]
Side = Literal["auto", "rows", "columns"]
KernelOutputs = Literal["full", "trace"]
Components = Literal["parameter", "module"]
KernelMethod = Literal["auto", "jacobian", "structured", "products"]
JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


def require_choice(name: str, value: object, choices: Any) -> None:
    """Raise unless `value` is one of the members of the `Literal` type `choices`.

    Args:
        name: The option's name, as the user wrote it.
        value: What was given.
        choices: A `typing.Literal`.

    Raises:
        ValueError: If `value` is not among them; the message lists them all.
    """
    allowed = get_args(choices)
    if value not in allowed:
        listed = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {listed}; got {value!r}.")
