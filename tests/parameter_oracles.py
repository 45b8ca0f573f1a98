"""Parameter Jacobians by a loop of plain backward passes, and how they are compared."""

from collections.abc import Callable, Collection
from typing import Any

import parameter_zoo as zoo
import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


def loop_jacobian(
    model: nn.Module,
    inputs: Any,
    output: Function = lambda raw: raw,
    only: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """One plain backward pass for every sample and output."""
    named = dict(model.named_parameters())
    names = list(named) if only is None else list(only)
    leaves = [named[name] for name in names]
    required = [leaf.requires_grad for leaf in leaves]
    for leaf in leaves:
        leaf.requires_grad = True
    rows: list[list[Tensor]] = []
    for index in range(zoo.count(inputs)):
        one = zoo.sample(inputs, index)
        z = output(model(**one) if isinstance(one, dict) else model(one)).flatten()
        grads = [
            torch.autograd.grad(
                value,
                leaves,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for value in z
        ]
        rows.append([torch.stack(column) for column in zip(*grads, strict=True)])
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    for leaf, own in zip(leaves, required, strict=True):
        leaf.requires_grad = own
    return dict(zip(names, columns, strict=True))


def assert_close(found: Tensor, expected: Tensor, name: str = "") -> None:
    # Both sides are float64: sums of some hundred terms in different orders.
    torch.testing.assert_close(
        found, expected, rtol=1e-10, atol=1e-12, msg=lambda text: f"{name} {text}"
    )


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == [name for name in expected if name in found]
    for name, value in found.items():
        assert_close(value, expected[name], name)


def data_of(inputs: Any) -> Any:
    return [inputs] if isinstance(inputs, dict) else inputs


def loop_kernels(
    model: nn.Module,
    left: Any,
    right: Any = None,
    output: Function = lambda raw: raw,
    only: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """(i, j, c, e) of every parameter from the gradients of a loop."""
    rows = loop_jacobian(model, left, output, only)
    columns = rows if right is None else loop_jacobian(model, right, output, only)
    flat = {
        name: [J.reshape(*J.shape[:2], -1) for J in (rows[name], columns[name])]
        for name in rows
    }
    return {
        name: torch.einsum("icp,jep->ijce", one, other)
        for name, (one, other) in flat.items()
    }


def traces(kernels: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.einsum("ijcc->ij", K) for name, K in kernels.items()}
