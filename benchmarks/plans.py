"""Predicted against measured: seconds, bytes and flops of calls on real networks.

python benchmarks/plans.py [--out FILE] [CASE ...]
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from pytorchcv.model_provider import get_model
from report import Report
from torch import nn

import eigenscope as es
from eigenscope import zoo
from eigenscope.planning.counting import Counting

Call = tuple[str, Callable[..., object], tuple[object, ...], dict[str, object]]


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    source = torch.Generator().manual_seed(0)
    lenet = zoo.build_model("lenet", sample_shape=(1, 32, 32), num_classes=10).eval()
    mlp = nn.Sequential(
        nn.Flatten(),
        nn.Linear(3072, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )
    resnet = get_model("resnet20_cifar10", pretrained=False).eval()
    return {
        "LeNet": (lenet, torch.randn(1024, 1, 32, 32, generator=source)),
        "MLP": (mlp, torch.randn(512, 3, 32, 32, generator=source)),
        "ResNet-20": (resnet, torch.randn(128, 3, 32, 32, generator=source)),
    }


def calls(model: nn.Module, x: torch.Tensor) -> Iterator[Call]:
    y = torch.arange(len(x)) % 10
    few = min(64, len(x))
    yield "input_jacobian", es.input_jacobian, (model, x), {}
    yield "parameter_jacobian", es.parameter_jacobian, (model, x[: few // 4]), {}
    yield "per_sample_gradients", es.per_sample_gradients, _graded(model, x, y), {}
    yield "ntk, trace", es.ntk, (model, x), {"outputs": "trace"}
    yield "ntk, full", es.ntk, (model, x[:few]), {}
    yield "conjugate_kernel", es.conjugate_kernel, (model, x), {}
    jacobian = es.InputJacobian(es.Problem(model, x))
    yield "spectrum of 𝒥𝒥ᵀ", es.spectrum, (es.gram(jacobian),), {}
    problem = es.Problem(model, (x[:few], y[:few]), loss=nn.CrossEntropyLoss())
    hessian, gauss = es.Hessian(problem), es.GaussNewton(problem)
    yield "Hessian, 8 products", hessian.multiply, (torch.ones(*_block(hessian)),), {}
    yield "spectrum of G", es.spectrum, (gauss,), {}
    yield "trace of H", es.trace, (hessian,), {"num_matvecs": 24}
    sampled = {"method": "slq", "tolerance": 0, "max_probes": 8, "max_steps": 16}
    yield "SLQ, 8 × 16", es.spectrum, (hessian,), sampled | {"num_outer": 0}


def fresh(
    function: Callable[..., object], arguments: tuple[object, ...]
) -> Callable[[dict[str, object]], object]:
    """Return the call with an operator that has recorded nothing yet."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, es.Hessian):
        new = es.Hessian(owner.problem)
        return lambda options: new.multiply(*arguments, **options)  # type: ignore[arg-type]
    if arguments and isinstance(arguments[0], es.Hessian | es.GaussNewton):
        made = type(arguments[0])(arguments[0].problem)
        return lambda options: function(made, *arguments[1:], **options)
    return lambda options: function(*arguments, **options)


def measured(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    options: dict[str, object],
) -> float:
    """Return the seconds of the fastest of some first calls."""
    found: list[float] = []
    while len(found) < 2 or (sum(found) < 0.5 and len(found) < 5):
        call = fresh(function, arguments)
        started = time.perf_counter()
        call(options)
        found.append(time.perf_counter() - started)
    return min(found)


def _graded(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[object, ...]:
    return model, nn.CrossEntropyLoss(), x[:128], y[:128]


def _block(operator: es.Hessian) -> tuple[int, int]:
    return operator.shape[0], 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=list(networks()))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    report, worst = Report(), 1.0
    report.table(
        "network", "call", "time, planned", "measured", "ratio", "memory, planned",
        "measured", "ratio", "flops, ratio",
    )  # fmt: skip
    for name, (model, x) in networks().items():
        if name not in chosen.networks:
            continue
        for title, function, arguments, options in calls(model, x):
            made = es.plan(function, *arguments, **options)  # type: ignore[arg-type]
            seconds = measured(function, arguments, options)
            with Counting(torch.device("cpu")) as counted:
                kept = fresh(function, arguments)(options)
            del kept
            ratio = made.seconds / seconds
            worst = max(worst, ratio, 1 / ratio)
            report.row(
                name,
                title,
                f"{made.seconds:.3g} s",
                f"{seconds:.3g} s",
                f"{ratio:.2f}",
                f"{made.host_bytes / 2**20:.1f} MiB",
                f"{counted.peak / 2**20:.1f} MiB",
                f"{made.host_bytes / max(1, counted.peak):.2f}",
                f"{made.flops / max(1, counted.flops):.2f}",
            )
    report.add(f"\nLargest factor between planned and measured seconds: {worst:.2f}.")
    if chosen.out:
        chosen.out.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
