"""Slow and obvious: loops, finite differences, closed forms. Independent of ours."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Output = str | Callable[[Tensor], Tensor]


def samples(batches: list[Any]) -> list[Any]:
    """Return every sample as a batch of one, without targets."""
    singles: list[Any] = []
    for batch in batches:
        inputs = batch[0] if isinstance(batch, tuple) else batch
        if isinstance(inputs, Mapping):
            entries = {key: v for key, v in inputs.items() if key != "labels"}
            count = len(next(iter(entries.values())))
            singles += [
                {key: v[i : i + 1] for key, v in entries.items()} for i in range(count)
            ]
        else:
            singles += [inputs[i : i + 1] for i in range(len(inputs))]
    return singles


def _leaf(sample: Any) -> Tensor:
    return sample["x"] if isinstance(sample, Mapping) else sample


def outputs(model: nn.Module, sample: Any, x: Tensor, output: Output) -> Tensor:
    """Return the numbers of one sample, flattened."""
    keywords = {**sample, "x": x} if isinstance(sample, Mapping) else None
    returned = model(x) if keywords is None else model(**keywords)
    raw = getattr(returned, "logits", returned)
    if callable(output):
        return output(raw).flatten()
    if output == "logits":
        return raw.flatten()
    exponentials = raw.exp()
    probabilities = exponentials / exponentials.sum(1, keepdim=True)
    chosen = probabilities if output == "probabilities" else probabilities.log()
    return chosen.flatten()


def jacobian(model: nn.Module, batches: list[Any], output: Output) -> Tensor:
    """Return (sample, output, *input), one backward pass for each entry."""
    rows: list[Tensor] = []
    for sample in samples(batches):
        x = _leaf(sample).clone().requires_grad_()
        z = outputs(model, sample, x, output)
        grads = [torch.autograd.grad(v, x, retain_graph=True)[0][0] for v in z]
        rows.append(torch.stack(grads))
    return torch.stack(rows)


def difference_jacobian(
    model: nn.Module, batches: list[Any], output: Output, step: float = 1e-6
) -> Tensor:
    """Return the same by central differences; its error is about 1e-9."""
    rows: list[Tensor] = []
    with torch.no_grad():
        for sample in samples(batches):
            x = _leaf(sample)
            columns: list[Tensor] = []
            for place in range(x.numel()):
                moved = torch.zeros_like(x).flatten()
                moved[place] = step
                moved = moved.view_as(x)
                above = outputs(model, sample, x + moved, output)
                below = outputs(model, sample, x - moved, output)
                columns.append((above - below) / (2 * step))
            rows.append(torch.stack(columns, -1).view(-1, *x.shape[1:]))
    return torch.stack(rows)


def laid_out(blocks: Tensor, layout: str) -> Tensor:
    """Return n × k·d for "samples", n·k × d for "outputs", entry by entry."""
    n, k = blocks.shape[:2]
    flat = blocks.reshape(n, k, -1)
    d = flat.shape[2]
    matrix = torch.empty((n, k * d) if layout == "samples" else (n * k, d)).to(flat)
    for i in range(n):
        for c in range(k):
            for j in range(d):
                if layout == "samples":
                    matrix[i, c * d + j] = flat[i, c, j]
                else:
                    matrix[i * k + c, j] = flat[i, c, j]
    return matrix


def gram(matrix: Tensor, side: str) -> Tensor:
    """Return A Aᵀ or AᵀA, entry by entry."""
    vectors = list(matrix if side == "rows" else matrix.T)
    result = torch.empty(len(vectors), len(vectors)).to(matrix)
    for i, left in enumerate(vectors):
        for j, right in enumerate(vectors):
            result[i, j] = (left * right).sum()
    return result


def softmax_regression(
    weight: np.ndarray, bias: np.ndarray, x: np.ndarray, output: str
) -> np.ndarray:
    """Return ∂/∂x of softmax(Wx + b) or its logarithm, without any cancellation.

    Row c of the probabilities is p_c Σ_e p_e (W_c - W_e), that of the
    log-probabilities Σ_e p_e (W_c - W_e).
    """
    rows: list[np.ndarray] = []
    for sample in x.astype(np.float64):
        z = weight.astype(np.float64) @ sample + bias.astype(np.float64)
        p = np.exp(z - z.max())
        p /= p.sum()
        gaps = weight.astype(np.float64)[:, None, :] - weight.astype(np.float64)
        row = (p[None, :, None] * gaps).sum(1)
        rows.append(p[:, None] * row if output == "probabilities" else row)
    return np.stack(rows)
