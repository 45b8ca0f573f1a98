"""From rows of one Jacobian to those of the named outputs: small products per sample.

Logits, probabilities and log-probabilities share one set of rows, those of the logits
or of the features before the last linear layer. Jacobians by inputs and by parameters
must be finite.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import OutputName
from eigenscope.problem import output_derivative


def transform_rows(
    rows: Float[Tensor, "sample row *input"],
    raw: Tensor,
    output: OutputName,
    result: Float[Tensor, "sample output *input"],
    *,
    weight: Float[Tensor, "output row"] | None = None,
) -> None:
    """Write the Jacobian of a named output, T · W · rows, into `result`.

    T is the derivative of the output by the logits, W the last linear layer if the
    rows are those of its inputs.

    Args:
        rows: Jacobians of the logits or of the features before W.
        raw: Raw outputs of the same samples.
        output: "logits", "probabilities" or "log_probabilities".
        result: Contiguous, overwritten; may be `rows` itself for logits without W.
        weight: W, or None if the rows are the logits'.
    """
    flat = rows.reshape(*rows.shape[:2], -1)
    target = result.view(*result.shape[:2], -1)
    if output == "logits":
        if weight is not None:
            torch.bmm(weight.expand(len(rows), *weight.shape), flat, out=target)
        elif target.data_ptr() != flat.data_ptr():
            target.copy_(flat)
        return
    derivative = output_derivative(raw, output)
    num_positions, num_classes = derivative.shape[1], derivative.shape[2]
    if num_positions == 1:
        matrix = derivative[:, 0] if weight is None else derivative[:, 0] @ weight
        torch.bmm(matrix, flat, out=target)
        return
    by_position = (len(rows), num_classes, num_positions, flat.shape[-1])
    product = derivative @ flat.view(by_position).transpose(1, 2)
    target.view(by_position).copy_(product.transpose(1, 2))


def require_finite(result: Float[Tensor, "sample output *input"], start: int) -> None:
    """Raise if an entry of a Jacobian is NaN or infinite.

    Args:
        result: The Jacobians of consecutive samples.
        start: Index of the first.

    Raises:
        ValueError: Naming the first such sample.
    """
    if bool(result.sum().isfinite()):
        return
    bad = (~result.isfinite()).reshape(len(result), -1).any(1)
    if bool(bad.any()):
        raise ValueError(
            "the input Jacobian must be finite; that of sample "
            f"{start + int(bad.nonzero()[0, 0])} holds NaN or infinity. Look at the "
            "scale of this input and of the weights, or compute in float64."
        )


def require_finite_gradients(name: str, result: Tensor, start: int) -> None:
    """Raise if an entry of one parameter's gradients is NaN or infinite.

    Args:
        name: The parameter.
        result: Gradients of consecutive samples, which are on axis 0.
        start: Index of the first.

    Raises:
        ValueError: Naming the first such sample and the parameter.
    """
    bad = (~result.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        sample = start + int(bad.nonzero()[0, 0])
        raise ValueError(
            f"the Jacobian by the parameters must be finite; that of sample {sample} "
            f"by {name!r} holds NaN or infinity. Look at the scale of this sample and "
            "of the weights, or compute in float64."
        )
