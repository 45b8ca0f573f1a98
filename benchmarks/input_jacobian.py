"""Input Jacobians and Gram matrices against what a user would write today.

    python benchmarks/input_jacobian.py [--quick] [--output FILE]

Every ratio is of medians of interleaved repetitions in one run. Needs the extra
`vision` (a ResNet-20 with random weights and running statistics) and psutil.
"""

import argparse
import copy
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pytorchcv.model_provider import get_model
from report import Report, medians, peak_of
from torch import Tensor, nn

import eigenscope as es
from eigenscope.budget import format_bytes
from eigenscope.jacobian import InputJacobianEngine

Fill = Callable[[nn.Module, Tensor, Tensor], None]


def resnet20(num_classes: int) -> nn.Module:
    model = get_model(f"resnet20_cifar{num_classes}").eval()
    source = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=source)
            module.running_var.uniform_(0.5, 1.5, generator=source)
    return model


def pooled_net(num_outputs: int) -> nn.Module:
    """Return three convolutions of 64 channels, pooled, for images of any size."""
    parts: list[nn.Module] = []
    for channels in (3, 64, 64):
        parts += [nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_outputs)]
    return nn.Sequential(*parts).eval()


def loop(size: int) -> Fill:
    """Return k backward passes of the output summed over a batch."""

    def fill(model: nn.Module, x: Tensor, result: Tensor) -> None:
        for start in range(0, len(x), size):
            part = x[start : start + size].clone().requires_grad_()
            total = model(part).sum(0)
            for column, value in enumerate(total):
                (row,) = torch.autograd.grad(value, part, retain_graph=True)
                result[start : start + size, column] = row

    return fill


def functional_jacobian(model: nn.Module, x: Tensor, result: Tensor) -> None:
    for start in range(0, len(x), 16):
        part = x[start : start + 16]
        rows = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), part)
        result[start : start + 16] = rows.transpose(0, 1)


def grads_batched(model: nn.Module, x: Tensor, result: Tensor) -> None:
    for start in range(0, len(x), 16):
        part = x[start : start + 16].clone().requires_grad_()
        raw = model(part)
        k = raw.shape[1]
        seeds = torch.eye(k).unsqueeze(1).expand(k, *raw.shape)
        (rows,) = torch.autograd.grad(raw, part, seeds, is_grads_batched=True)
        result[start : start + 16] = rows.transpose(0, 1)


def vmap_jacrev(model: nn.Module, x: Tensor, result: Tensor) -> None:
    rows = torch.func.jacrev(lambda z: model(z.unsqueeze(0)).squeeze(0))
    for start in range(0, len(x), 16):
        found = torch.func.vmap(rows)(x[start : start + 16])
        result[start : start + 16] = found.detach()


def ours(model: nn.Module, x: Tensor, result: Tensor) -> None:
    engine = InputJacobianEngine(problem := es.Problem(model, x))
    for batch in problem.batches.chunks(engine.settings.chunk_size):
        part = result[batch.start : batch.start + batch.size]
        engine.fill(batch, ["logits"], [part])


OURS = "**eigenscope**"
WAYS: dict[str, Fill] = {
    "k passes of the sum, batches of 16": loop(16),
    "k passes of the sum, batches of 64": loop(64),
    "`autograd.functional.jacobian`, batches of 16": functional_jacobian,
    "`is_grads_batched`, batches of 16": grads_batched,
    "`vmap(jacrev)`, batches of 16": vmap_jacrev,
    OURS: ours,
}


def speed(report: Report, num_samples: int, k: int, repetitions: int) -> None:
    report.add(f"\n### ResNet-20, n = {num_samples}, k = {k}\n")
    model = resnet20(k)
    source = torch.Generator().manual_seed(1)
    x = torch.randn(num_samples, 3, 32, 32, generator=source)
    result = torch.zeros(num_samples, k, 3, 32, 32)
    exact = torch.zeros(num_samples, k, 3, 32, 32, dtype=torch.float64)
    loop(64)(copy.deepcopy(model).double(), x.double(), exact)
    errors: dict[str, float] = {}
    for name, fill in WAYS.items():
        fill(model, x, result)
        distance = torch.linalg.vector_norm(result - exact)
        errors[name] = float(distance / torch.linalg.vector_norm(exact))
    calls = {name: partial(fill, model, x, result) for name, fill in WAYS.items()}
    found = medians(calls, repetitions)
    report.table("way", "median", "eigenscope is faster by", "error in float32")
    for name, seconds in found.items():
        ratio = f"{seconds / found[OURS]:.2f} ×"
        report.row(name, f"{seconds:.2f} s", ratio, f"{errors[name]:.1e}")
    settings = InputJacobianEngine(es.Problem(model, x)).settings
    report.add(f"\nEngine: `{settings.to_json()}`")


def two_outputs(report: Report, num_samples: int, repetitions: int) -> None:
    report.add(
        "\n### Probabilities together with logits (ResNet-20, the engine alone)\n"
    )
    report.table("k", "logits", "both", "both / logits")
    for k in (10, 100):
        problem = es.Problem(resnet20(k), torch.randn(num_samples, 3, 32, 32))
        engine = InputJacobianEngine(problem)
        size = min(engine.settings.chunk_size, num_samples)
        parts = [torch.zeros(size, k, 3, 32, 32) for _ in range(2)]
        run = partial(one_pass, problem, engine, parts)
        calls: dict[str, Callable[[], object]] = {
            "logits": partial(run, ["logits"]),
            "both": partial(run, ["logits", "probabilities"]),
        }
        found = medians(calls, repetitions)
        ratio = found["both"] / found["logits"]
        cells = [f"{found[name]:.3f} s" for name in calls]
        report.row(str(k), *cells, f"{ratio:.3f}")


def one_pass(
    problem: es.Problem,
    engine: InputJacobianEngine,
    parts: list[Tensor],
    outputs: list[str],
) -> None:
    for batch in problem.batches.chunks(engine.settings.chunk_size):
        results = [part[: batch.size] for part in parts[: len(outputs)]]
        engine.fill(batch, outputs, results)


def memory(report: Report, num_samples: int) -> None:
    report.add(
        f"\n### Peak memory of `es.input_jacobian` (ResNet-20, n = {num_samples})\n"
    )
    report.table(
        "output", "result", "live tensors at most", "of the result", "resident set grew"
    )
    model, x = resnet20(10), torch.randn(num_samples, 3, 32, 32)
    result = num_samples * 10 * 3072 * 4
    es.input_jacobian(model, x[:32])
    for output in ("logits", "probabilities"):
        peak, grown = peak_of(lambda o=output: es.input_jacobian(model, x, output=o))
        cells = (format_bytes(result), format_bytes(peak), f"{peak / result:.2f} ×")
        report.row(output, *cells, format_bytes(max(0, grown)))


def growth(report: Report, n: int, sizes: dict[str, tuple[int, ...]], r: int) -> None:
    report.add("\n### How the cost grows (three convolutions of 64 channels, pooled)\n")
    report.table("n", "k", "d", "eigenscope", "k passes, batches of 16", "ratio")
    cases = [(m * n, 10, 16) for m in sizes["n"]]
    cases += [(n, k, 16) for k in sizes["k"]]
    cases += [(n, 10, side) for side in sizes["side"]]
    for num_samples, k, side in cases:
        model, x = pooled_net(k), torch.randn(num_samples, 3, side, side)
        result = torch.zeros(num_samples, k, 3, side, side)
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(ours, model, x, result),
            "loop": partial(loop(16), model, x, result),
        }
        found = medians(calls, r)
        times = [f"{found[name]:.3f} s" for name in calls]
        ratio = f"{found['loop'] / found['ours']:.2f} ×"
        report.row(str(num_samples), str(k), str(3 * side * side), *times, ratio)


def gram(report: Report, n: int, repetitions: int) -> None:
    model = nn.Sequential(nn.Linear(3072, 10), nn.Tanh())
    jacobian = es.InputJacobian(es.Problem(model, torch.randn(n, 3072)))
    matrix, m = jacobian.dense(), jacobian.shape[1]
    report.add(f"\n### Gram matrix of a {n} × {m} Jacobian, one triangle counted\n")
    with tempfile.TemporaryDirectory() as folder:
        run = es.Run.create(Path(folder) / "run", verb="benchmark", arguments={})
        with run:
            stored = jacobian.write(run)
            names = iter(f"gram_{i}" for i in range(1000))
            calls: dict[str, Callable[[], object]] = {
                "sgemm, the whole product": lambda: matrix @ matrix.T,
                "in memory": lambda: es.gram(matrix).dense(),
                "in memory, added up in float64": lambda: es.gram(
                    matrix, accumulate=torch.float64
                ).dense(),
                "from and to disk": lambda: es.gram(stored, side="rows").write(
                    run, name=next(names)
                ),
            }
            found = medians(calls, repetitions)
    report.table("way", "median", "GFLOP/s", "of sgemm", "time / in memory")
    gemm = 2 * n * n * m / found["sgemm, the whole product"]
    for name, seconds in found.items():
        flops = 2 * n * n * m if name.startswith("sgemm") else n * (n + 1) * m
        rate = flops / seconds
        cells = (f"{seconds:.3f} s", f"{rate / 1e9:.0f}", f"{rate / gemm:.0%}")
        report.row(name, *cells, f"{seconds / found['in memory']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    quick = options.quick
    n, repetitions = (16, 1) if quick else (512, 3)
    sizes = {"n": (1, 2, 4), "k": (30, 100, 300), "side": (32, 64)}
    if quick:
        sizes = {"n": (1, 2), "k": (100,), "side": (32,)}
    report = Report()
    report.add(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}; medians of {repetitions} interleaved repetitions after "
        "a warm-up; the error is that of all entries, in norm, against float64."
    )
    memory(report, n)
    speed(report, n, 10, repetitions)
    speed(report, max(16, n // 16), 100, repetitions)
    two_outputs(report, max(16, n // 4), repetitions)
    growth(report, 16 if quick else 64, sizes, repetitions)
    gram(report, 256 if quick else 4096, repetitions)
    if options.output:
        options.output.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
