"""Dense curvature of a cross-entropy by plain autograd, sample by sample."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def flat_gradient(value: Tensor, model: nn.Module, *, graph: bool = False) -> Tensor:
    grads = torch.autograd.grad(
        value, [*model.parameters()], create_graph=graph, retain_graph=True
    )
    return torch.cat([grad.flatten() for grad in grads])


def curvature(model: nn.Module, x: Tensor, y: Tensor, kind: str) -> Tensor:
    """Return the P × P matrix of the mean cross-entropy."""
    if kind == "hessian":
        gradient = flat_gradient(cross_entropy(model(x), y), model, graph=True)
        return torch.stack([flat_gradient(entry, model) for entry in gradient])
    total = torch.zeros(())
    for sample, target in zip(x, y, strict=True):
        z = model(sample[None])[0]
        if kind == "fisher":
            gradient = flat_gradient(cross_entropy(z, target), model)
            total = total + torch.outer(gradient, gradient)
            continue
        J = torch.stack([flat_gradient(entry, model) for entry in z])
        p = z.detach().softmax(0)
        total = total + J.T @ (torch.diag(p) - torch.outer(p, p)) @ J
    return total / len(x)
