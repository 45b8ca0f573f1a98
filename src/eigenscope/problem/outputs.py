"""From a model's raw output to the k numbers per sample that are differentiated."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import OutputName, OutputSpec, require_choice


def raw_outputs(returned: object) -> Tensor:
    """Take the tensor out of what a model returned.

    Args:
        returned: A tensor, or a mapping or object with an entry `logits`.

    Returns:
        The raw output, samples on axis 0.

    Raises:
        TypeError: If there is no such tensor.
    """
    if isinstance(returned, Tensor):
        return returned
    if isinstance(returned, Mapping):
        logits = cast("Mapping[str, Any]", returned).get("logits")
    else:
        logits = getattr(returned, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise TypeError(
        "the model must return a tensor or an object with a tensor `logits`; got "
        f"{type(returned).__name__}. Wrap the model so that it does."
    )


def require_output(output: OutputSpec) -> None:
    """Raise unless `output` is a known name or a callable.

    Args:
        output: What the user asked for.

    Raises:
        ValueError: If it is an unknown name.
    """
    if not callable(output):
        require_choice("output", output, OutputName)


def flatten_outputs(raw: Tensor) -> Float[Tensor, "sample output"]:
    """Return the raw output as k numbers per sample, in C order."""
    return raw.reshape(len(raw), -1)


def transform_outputs(
    raw: Tensor, output: OutputSpec
) -> Float[Tensor, "sample output"]:
    """Apply logits, softmax over axis 1, log-softmax or a callable, then flatten.

    Args:
        raw: The model's raw output, samples on axis 0 and classes on axis 1.
        output: What is wanted of it.

    Returns:
        k numbers per sample.

    Raises:
        TypeError: If a callable returns no tensor of real numbers.
        ValueError: If a softmax is asked of a single output, or a callable does not
            keep one row per sample.
    """
    if callable(output):
        return flatten_outputs(_transformed(raw, output(raw)))
    if output == "logits":
        return flatten_outputs(raw)
    require_classes(raw, output)
    if output == "probabilities":
        return flatten_outputs(torch.softmax(raw, 1))
    return flatten_outputs(torch.log_softmax(raw, 1))


def _transformed(raw: Tensor, found: object) -> Tensor:
    """Check what a callable output has returned, and return it.

    Returns:
        The same.

    Raises:
        TypeError: If it is no tensor of real numbers.
        ValueError: If it has not one row per sample, or no numbers.
    """
    if not isinstance(found, Tensor) or found.is_complex():
        given = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(
            f"a callable output must return a tensor of real numbers; got {given}. "
            "Use torch.stack for several, torch.view_as_real for complex ones."
        )
    if found.ndim == 0 or len(found) != len(raw) or found.numel() == 0:
        raise ValueError(
            f"a callable output must keep the {len(raw)} samples on axis 0 and at "
            f"least one number for each; it returned shape {tuple(found.shape)}. "
            "Reduce over other axes only."
        )
    return found


def require_classes(raw: Tensor, output: OutputSpec) -> None:
    """Raise unless the raw output has at least two classes on axis 1.

    Args:
        raw: The model's raw output.
        output: The name of what was asked for.

    Raises:
        ValueError: If there is nothing to normalize over.
    """
    if raw.ndim < 2 or raw.shape[1] < 2:
        raise ValueError(
            f"output={output!r} needs at least two classes on axis 1 of the raw "
            f"output; got shape {tuple(raw.shape)}. Pass a callable such as "
            "torch.sigmoid for a single output."
        )


def output_derivative(
    raw: Tensor, output: OutputName
) -> Float[Tensor, "sample position output class"]:
    """Derivative of (log-)softmax over axis 1 by the logits, position by position.

    Probabilities: ∂p_c/∂z_e = p_c (δ_ce - p_e); log-probabilities:
    ∂log p_c/∂z_e = δ_ce - p_e. The diagonal is taken from the other entries
    (1 - p_c = Σ_{e≠c} p_e), so rows of a confident softmax keep their relative
    accuracy instead of cancelling.

    Args:
        raw: Raw output (sample, class) or (sample, class, *position).
        output: "probabilities" or "log_probabilities".

    Returns:
        One matrix per sample and position; a single position for a 2-D output.
    """
    by_position = raw.reshape(len(raw), raw.shape[1], -1).transpose(1, 2)
    probabilities = torch.softmax(by_position, -1)
    derivative = (
        -probabilities.unsqueeze(-2)
        .expand(*probabilities.shape, probabilities.shape[-1])
        .clone()
    )
    if output == "probabilities":
        derivative *= probabilities.unsqueeze(-1)
    diagonal = derivative.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    diagonal.copy_(-derivative.sum(-1))
    return derivative


def output_cotangent(
    raw: Tensor, output: OutputName, column: int
) -> Float[Tensor, "sample logit"]:
    """Gradient of one number per sample by the flattened logits.

    Args:
        raw: Raw output (sample, class, *position), or of any shape for "logits".
        output: "logits", "probabilities" or "log_probabilities".
        column: Which of the k numbers.

    Returns:
        The cotangent that a vector-Jacobian product of the logits takes.
    """
    cotangent = torch.zeros_like(flatten_outputs(raw))
    if output == "logits":
        cotangent[:, column] = 1
        return cotangent
    derivative = output_derivative(raw, output)
    chosen, position = divmod(column, derivative.shape[1])
    cotangent.view(len(raw), raw.shape[1], -1)[:, :, position] = derivative[
        :, position, chosen
    ]
    return cotangent
