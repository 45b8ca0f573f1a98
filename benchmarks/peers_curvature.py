"""Hessian-vector products of other libraries where theirs go wrong, against the truth.

Networks in float64; the truth is the second derivative of Σ numerators / Σ denominators
over the whole data set, by two plain backward passes. Prints a Markdown table.

python benchmarks/peers_curvature.py --out peers_curvature.md
"""

import argparse
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from report import Report
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import eigenscope as es

EXACT = 1e-6
CLASSES = 5
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network, its batches and its loss."""

    model: nn.Module
    batches: Batches
    loss: Any


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.unflatten(1, (3, 8))).mean(1))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Tokens(nn.Module):
    """Scores of every position, (sample, class, position)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unflatten(1, (3, 8))).transpose(1, 2)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def cases() -> dict[str, Case]:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(10, 24, generator=source, dtype=torch.float64)
    y = torch.arange(10) % CLASSES
    tokens = torch.randint(CLASSES, (10, 3), generator=source)
    tokens[5:, 1:] = -100  # padding in the second batch
    weight = torch.linspace(0.5, 3.0, CLASSES, dtype=torch.float64)
    skewed = torch.tensor([0, 0, 1, 0, 1, 4, 4, 3, 4, 2])

    def batches(targets: Tensor, *sizes: int) -> Batches:
        return list(zip(x.split(sizes), targets.split(sizes), strict=True))

    mean, weighted = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=weight)
    made = {
        "one batch": (mlp(), batches(y, 10), mean),
        "batches of 8 + 2": (mlp(), batches(y, 8, 2), mean),
        "class weights, two batches": (mlp(), batches(skewed, 5, 5), weighted),
        "`ignore_index`, two batches": (Tokens(), batches(tokens, 5, 5), mean),
        "a parameter without use": (Unused(), batches(y, 10), mean),
        "attention as by default": (Attention(), batches(y, 10), mean),
    }
    return {
        name: Case(model=seeded(model), batches=data, loss=loss)
        for name, (model, data, loss) in made.items()
    }


def seeded(model: nn.Module) -> nn.Module:
    source = torch.Generator().manual_seed(1)
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=source, dtype=p.dtype))
    return model


def truth(case: Case, vector: Tensor) -> Tensor:
    x, y = (torch.cat(parts) for parts in zip(*case.batches, strict=True))
    leaves = list(case.model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        options: Any = {"allow_unused": True, "materialize_grads": True}
        value = case.loss(case.model(x), y)
        first = torch.autograd.grad(value, leaves, create_graph=True, **options)
        flat = torch.cat([g.flatten() for g in first])
        second = torch.autograd.grad(flat @ vector, leaves, **options)
    return torch.cat([g.flatten() for g in second])


def ours(case: Case, vector: Tensor) -> Tensor:
    return es.Hessian(es.Problem(case.model, case.batches, loss=case.loss)) @ vector


def curvlinops(case: Case, vector: Tensor) -> Tensor:
    library: Any = importlib.import_module("curvlinops")
    leaves = list(case.model.parameters())
    return (
        library.HessianLinearOperator(case.model, case.loss, leaves, case.batches)
        @ vector
    )


def eigenthings(method: str) -> Callable[[Case, Tensor], Tensor]:
    def product(case: Case, vector: Tensor) -> Tensor:
        library: Any = importlib.import_module("hessian_eigenthings")
        operator = library.HessianOperator(
            case.model,
            case.batches,
            library.supervised_loss(case.loss),
            method=method,
        )
        return operator.matvec(vector)

    return product


def pyhessian(case: Case, vector: Tensor) -> Tensor:
    library: Any = importlib.import_module("pyhessian")
    parts: list[Tensor] = []
    rest = vector
    for p in case.model.parameters():
        parts.append(rest[: p.numel()].view_as(p))
        rest = rest[p.numel() :]
    many = len(case.batches) > 1
    given: Any = {"dataloader": case.batches} if many else {"data": case.batches[0]}
    operator = library.hessian(case.model, case.loss, cuda=False, **given)
    if many:
        _, found = operator.dataloader_hv_product(parts)
    else:
        utils: Any = importlib.import_module("pyhessian.utils")
        found = utils.hessian_vector_product(operator.gradsH, operator.params, parts)
    return torch.cat([part.flatten() for part in found]).detach()


LIBRARIES = {
    "eigenscope": ours,
    "curvlinops": curvlinops,
    "hessian-eigenthings, autograd": eigenthings("autograd"),
    "hessian-eigenthings, finite differences": eigenthings("finite_difference"),
    "PyHessian": pyhessian,
}


def verdict(call: Callable[[Case, Tensor], Tensor], case: Case) -> str:
    size = sum(p.numel() for p in case.model.parameters())
    source = torch.Generator().manual_seed(2)
    vector = torch.randn(size, generator=source, dtype=torch.float64)
    expected = truth(case, vector)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = call(case, vector)
    except Exception as error:
        return f"refuses ({type(error).__name__})"
    error = float((found - expected).norm() / expected.norm())
    if error < EXACT:
        return "exact"
    return f"**{error:.1%} wrong**" if error > 1e-3 else f"{error:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    report = Report()
    report.table("case", *LIBRARIES)
    for name in cases():
        # Some leave gradients behind: every library gets its own network.
        cells = [verdict(call, cases()[name]) for call in LIBRARIES.values()]
        report.row(name, *cells)
    names = ("curvlinops-for-pytorch", "hessian-eigenthings", "PyHessian", "torch")
    report.add()
    report.add(", ".join(f"{name} {version(name)}" for name in names))
    if out:
        out.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
