"""Predicted against measured: seconds, bytes and flops of calls on real networks.

python benchmarks/plans.py [--only calls|verbs] [--row WORD] [--out FILE] [NETWORK ...]
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from per_sample_jacobian import Encoder
from pytorchcv.model_provider import get_model
from report import Report
from torch import nn

import eigenscope as es
from eigenscope import zoo
from eigenscope.experiments import (
    CurvaturePlan,
    JacobianPlan,
    KernelPlan,
    prepare_curvature,
    prepare_jacobian,
    run_curvature,
    run_jacobian_spectra,
    run_kernels,
)
from eigenscope.experiments.costs import curvature_cost, jacobian_cost, kernel_cost
from eigenscope.experiments.training_costs import epoch_cost
from eigenscope.planning import format_seconds
from eigenscope.planning.counting import Counting
from eigenscope.planning.words import SHORTEST
from eigenscope.training import Optimization, Trainer

TRAINED = Optimization(epochs=3, batch_size=64, learning_rate=0.01)

Call = tuple[str, Callable[..., object], tuple[object, ...], dict[str, object]]


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    source = torch.Generator().manual_seed(0)
    torch.default_generator.manual_seed(0)  # of the weights
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
        "ResNet-20": (resnet, torch.randn(96, 3, 32, 32, generator=source)),
        "encoder": (Encoder().eval(), torch.randn(512, 16, 64, generator=source)),
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
    function: Callable[..., object],
    arguments: tuple[object, ...],
    options: dict[str, object],
) -> Callable[[], object]:
    """Return the call with an operator that has recorded nothing yet."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, es.Hessian):
        return partial(es.Hessian(owner.problem).multiply, *arguments, **options)  # type: ignore[arg-type]
    if arguments and isinstance(arguments[0], es.Hessian | es.GaussNewton):
        made = type(arguments[0])(arguments[0].problem)
        return partial(function, made, *arguments[1:], **options)
    return partial(function, *arguments, **options)


def _graded(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[object, ...]:
    return model, nn.CrossEntropyLoss(), x[:128], y[:128]


def _block(operator: es.Hessian) -> tuple[int, int]:
    return operator.shape[0], 8


def verbs(
    model: nn.Module, x: torch.Tensor
) -> Iterator[tuple[str, es.Plan, Callable[[], object]]]:
    """Yield what a verb computes, its plan, and the same computed."""
    y = torch.arange(len(x)) % 10
    problem = es.Problem(model, (x, y))
    few = es.Problem(model, (x[:64], y[:64]), loss=nn.CrossEntropyLoss())
    jacobian = JacobianPlan(outputs=("logits", "probabilities"))
    kernel, curved = (
        KernelPlan(kernels=("trace", "conjugate")),
        CurvaturePlan(operators=("gauss-newton",), num_pairs=5),
    )
    learner = copy.deepcopy(model)  # a plan counts what is held beside the model
    yield (
        "jacobian",
        jacobian_cost(problem, jacobian, effort=4),
        lambda: into_run(
            lambda run: run_jacobian_spectra(
                run, problem, jacobian, jacobian=prepare_jacobian(problem, jacobian)
            )
        ),
    )
    yield (
        "ntk",
        kernel_cost(problem, kernel, effort=4),
        lambda: into_run(lambda run: run_kernels(run, problem, kernel)),
    )
    yield (
        "hessian",
        curvature_cost(few, curved, effort=4),
        lambda: into_run(
            lambda run: run_curvature(
                run, few, curved, prepare_curvature(few, curved, run=None)
            )
        ),
    )
    yield (
        f"train, {TRAINED.epochs} epochs",
        epoch_cost(model, x, y, TRAINED, effort=4).times(TRAINED.epochs),
        lambda: trained(learner, x, y),
    )


def into_run(work: Callable[[es.Run], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with es.Run.create(path, verb="benchmark", arguments={}) as run:
            work(run)


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    trainer = Trainer(model, x, y, plan=TRAINED)
    for _ in range(TRAINED.epochs):
        trainer.run_epoch()


def seconds_of(ready: Callable[[], Callable[[], object]]) -> float:
    """Return the seconds of the fastest of some calls, of two at least."""
    found: list[float] = []
    while len(found) < 2 or (sum(found) < 1 and len(found) < 5):
        call = ready()
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


def bytes_of(call: Callable[[], object]) -> tuple[int, int]:
    with Counting(torch.device("cpu")) as counted:
        kept = call()
    del kept
    return counted.peak, counted.flops


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=list(networks()))
    parser.add_argument("--only", choices=["calls", "verbs"])
    parser.add_argument("--row", default="", help="a part of the call's name")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    report = Report()
    factors: list[float] = []
    report.table(
        "network", "call", "time, planned", "measured", "ratio", "memory, planned",
        "measured", "ratio", "flops, ratio",
    )  # fmt: skip
    for name, (model, x) in networks().items():
        if name not in chosen.networks:
            continue
        if chosen.only != "verbs":
            for title, function, arguments, options in calls(model, x):
                if chosen.row not in title:
                    continue
                made = es.plan(function, *arguments, **options)  # type: ignore[arg-type]
                ready = partial(fresh, function, arguments, options)
                factors += add_row(report, name, title, made, ready)
        if chosen.only != "calls":
            for title, made, call in verbs(model, x):
                ready = partial(itself, call)
                factors += add_row(report, name, f"verb {title}", made, ready)
    worst = max((max(f, 1 / f) for f in factors), default=1.0)
    report.add(f"\nLargest factor between planned and measured seconds: {worst:.2f}.")
    if chosen.out:
        chosen.out.write_text("\n".join(report.lines) + "\n")


def itself(call: Callable[[], object]) -> Callable[[], object]:
    return call


def add_row(
    report: Report,
    name: str,
    title: str,
    made: es.Plan,
    ready: Callable[[], Callable[[], object]],
) -> list[float]:
    """Add predicted and measured; return their factor unless both are short."""
    seconds = seconds_of(ready)
    peak, flops = bytes_of(ready())
    ratio = made.seconds / seconds
    is_short = max(made.seconds, seconds) < SHORTEST
    report.row(
        name,
        title,
        format_seconds(made.seconds),
        format_seconds(seconds),
        "both short" if is_short else f"{ratio:.2f}",
        f"{made.host_bytes / 2**20:.1f} MiB",
        f"{peak / 2**20:.1f} MiB",
        f"{made.host_bytes / max(1, peak):.2f}",
        f"{made.flops / max(1, flops):.2f}",
    )
    return [] if is_short else [ratio]


if __name__ == "__main__":
    main()
