"""Who gets the tangent kernel of which network right: a table.

    python benchmarks/peers_parameter_gradients.py [--output FILE]

The truth is a loop of plain backward passes over samples and outputs in float64. A
number is ‖K - truth‖ / ‖truth‖; per-sample gradients of peers are contracted to K.
Peers take part where they are installed (group `peers`).
"""

import argparse
import copy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ntk import nngeometry, torch_func, torchjd
from report import Report
from torch import Tensor, nn

import eigenscope as es

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import parameter_zoo as zoo
from parameter_oracles import loop_kernels

Kernel = Callable[[nn.Module, Any], Tensor]
EXACT = 1e-6
NETWORKS = {
    "MLP with biases": None,
    "batch norm, residuals": "resnet",
    "raw parameters (layer scale)": "convnext",
    "raw parameters (class token)": "vision transformer",
    "module called twice": "twice",
    "weight used outside its layer": "raw use",
    "y = W² x": "squared",
    "tied embedding": "language model",
    "LSTM": "lstm",
    "attention": "cross attention",
    "weight norm": "weight norm",
    "scales and shifts": "elementwise",
    "checkpointing": "checkpointed",
}


def per_sample(gradients: Callable[[nn.Module, Any, int], list[Tensor]]) -> Kernel:
    """Return the kernel by one backward pass of summed samples for each output."""

    def kernel(model: nn.Module, x: Any) -> Tensor:
        count = model(x).flatten(1).shape[1]
        rows = [
            torch.cat([part.flatten(1) for part in gradients(model, x, c)], 1)
            for c in range(count)
        ]
        J = torch.stack(rows, 1)
        return torch.einsum("icp,jep->ijce", J, J)

    return kernel


def opacus(mode: str) -> Kernel:
    from opacus.grad_sample.utils import wrap_model

    def gradients(model: nn.Module, x: Any, output: int) -> list[Tensor]:
        own = copy.deepcopy(model)
        module = wrap_model(own, grad_sample_mode=mode, loss_reduction="sum")
        module(x).flatten(1)[:, output].sum().backward()
        found = [p.grad_sample for p in own.parameters() if p.requires_grad]
        return [g if isinstance(g, Tensor) else torch.stack(g).sum(0) for g in found]

    return per_sample(gradients)


def backpack() -> Kernel:
    from backpack import backpack as extensions
    from backpack import extend
    from backpack.extensions import BatchGrad

    def gradients(model: nn.Module, x: Any, output: int) -> list[Tensor]:
        own = extend(copy.deepcopy(model), use_converter=True)
        with extensions(BatchGrad()):
            own(x).flatten(1)[:, output].sum().backward()
        return [p.grad_batch for p in own.parameters() if p.requires_grad]

    return per_sample(gradients)


def ways() -> dict[str, Kernel]:
    found: dict[str, Kernel] = {"eigenscope": es.ntk}
    found["torch.func"] = lambda m, x: torch_func(_flat(m), x)
    if find_spec("nngeometry"):
        found["nngeometry"] = nngeometry
    if find_spec("torchjd"):
        found["TorchJD"] = torchjd
    if find_spec("backpack"):
        found["BackPACK"] = backpack()
    if find_spec("opacus"):
        found["Opacus, hooks"] = opacus("hooks")
        found["Opacus, expanded weights"] = opacus("ew")
    return found


def _flat(model: nn.Module) -> nn.Module:
    return nn.Sequential(model, nn.Flatten())


def network(name: str | None) -> tuple[nn.Module, Any]:
    if name is not None:
        return zoo.build(name)
    torch.default_generator.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.randn(5, 4, dtype=torch.float64)


def verdict(kernel: Kernel, model: nn.Module, x: Any, truth: Tensor) -> str:
    try:
        found = kernel(copy.deepcopy(model), x).detach()
    except Exception as error:  # another library may raise anything
        return f"refuses ({type(error).__name__})"
    if found.shape != truth.shape:
        return f"another shape, {tuple(found.shape)}"
    wrong = float((found - truth).norm() / truth.norm())
    return "exact" if wrong < EXACT else f"**{_percent(wrong)} % wrong**"


def _percent(share: float) -> str:
    """Write two digits, without an exponent."""
    return f"{float(f'{100 * share:.2g}'):g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    report = Report()
    peers = ways()
    report.table("network", *peers)
    for title, name in NETWORKS.items():
        model, x = network(name)
        only = es.Problem(model, x).params
        truth = torch.stack(list(loop_kernels(model, x, only=only).values())).sum(0)
        report.row(title, *(verdict(k, model, x, truth) for k in peers.values()))
    if options.output:
        options.output.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
