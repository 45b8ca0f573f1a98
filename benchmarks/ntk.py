"""Tangent kernels against torch.func and other libraries, and how their cost grows.

    python benchmarks/ntk.py [--quick] [--part speed|growth|large] [--only MODEL]
        [--num-samples N] [--without PEER ...] [--repetitions 5] [--jax-python PYTHON]
        [--output FILE]

Every ratio is of medians in one run. nngeometry and TorchJD take part where they are
installed, neural-tangents where the Python of its environment is given (ntk_jax.py);
what one cannot do, or does wrongly, is said.
"""

import argparse
import copy
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from per_sample_jacobian import cases, mlp
from report import Report, medians, peak_of
from torch import Tensor, nn

import eigenscope as es
from eigenscope.budget import format_bytes

Kernel = Callable[[nn.Module, Tensor], Tensor]
OURS = "**eigenscope**"
_MOST_BYTES = 8 * 2**30
SIZES = {
    "LeNet": (128, 512),
    "ResNet-20": (64,),
    "MLP 3 × 512 on 3,072 inputs": (512,),
    "transformer encoder": (128,),
}


def torch_func(model: nn.Module, x: Tensor) -> Tensor:
    """Contract per-sample Jacobians, parameter by parameter."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def single(p: dict[str, Tensor], sample: Tensor) -> Tensor:
        whole = {**p, **buffers}
        return torch.func.functional_call(model, whole, sample.unsqueeze(0)).squeeze(0)

    found = torch.func.vmap(torch.func.jacrev(single), (None, 0))(params, x)
    total = torch.zeros(())
    for J in found.values():
        rows = J.flatten(2)
        total = total + torch.einsum("icp,jep->ijce", rows, rows)
    return total


def nngeometry(model: nn.Module, x: Tensor) -> Tensor:
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from torch.utils.data import DataLoader, TensorDataset

    layers = LayerCollection.from_model(model)
    backend = TorchHooksJacobianBackend(
        model=model, function=lambda *batch: model(batch[0]), layer_collection=layers
    )
    data = TensorDataset(x, torch.zeros(len(x), dtype=torch.long))
    found = backend.get_gram_matrix(DataLoader(data, batch_size=len(x)))
    return found.permute(1, 3, 0, 2)


def torchjd(model: nn.Module, x: Tensor) -> Tensor:
    from torchjd.autogram import Engine

    own = copy.deepcopy(model)
    engine = Engine(own, batch_dim=0)
    raw = own(x).flatten(1)
    gram = engine.compute_gramian(raw)
    return gram.view(*raw.shape, *raw.shape).transpose(1, 2)


def ways() -> dict[str, Kernel]:
    found: dict[str, Kernel] = {OURS: es.ntk, "torch.func": torch_func}
    if find_spec("nngeometry"):
        found["nngeometry"] = nngeometry
    if find_spec("torchjd"):
        found["TorchJD"] = torchjd
    return found


def working(
    model: nn.Module, x: Tensor, without: Sequence[str] = ()
) -> tuple[dict[str, Kernel], dict[str, str]]:
    """Return the ways that give the kernel of a few samples, and why others don't."""
    few = x[:4]
    truth = torch_func(copy.deepcopy(model).double(), few.double())
    good: dict[str, Kernel] = {}
    bad = dict.fromkeys(without, "left out")
    for name, way in ways().items():
        if name in without:
            continue
        try:
            found = way(model, few).detach().double()
        except Exception as error:  # another library may raise anything
            bad[name] = type(error).__name__
            continue
        wrong = float((found - truth).norm() / truth.norm())
        good[name] = way
        if wrong > 1e-4:
            bad[name] = f"{100 * wrong:.2g} % wrong"
    return good, bad


def neural_tangents(
    python: Path | None, name: str, n: int, repetitions: int
) -> dict[str, float | str]:
    """Return the seconds of its structured derivatives, or what it raises."""
    if python is None:
        return {}
    script = Path(__file__).with_name("ntk_jax.py")
    command = [str(python), str(script), name, str(n), str(repetitions)]
    way = "STRUCTURED_DERIVATIVES"
    label = "neural-tangents, structured"
    try:
        text = subprocess.check_output([*command, way], timeout=90, text=True)
    except subprocess.TimeoutExpired:
        return {label: "more than 90 s, most of it compilation"}
    except subprocess.CalledProcessError as error:
        return {label: f"ended with {error.returncode}: out of memory"}
    return {label: json.loads(text.splitlines()[-1])[way]}


def speed(
    report: Report,
    name: str,
    n: int,
    *,
    repetitions: int,
    without: Sequence[str],
    jax_python: Path | None,
) -> None:
    model, shape = cases()[name]
    model = model.eval()
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))
    good, bad = working(model, x, without)
    P = sum(p.numel() for p in model.parameters())
    rows = 40 * n * P
    if rows > _MOST_BYTES:
        bad |= dict.fromkeys(good, f"J would take {format_bytes(rows)}")
        good = {OURS: good[OURS]}
        bad.pop(OURS)
    calls: dict[str, Callable[[], object]] = {
        k: partial(way, model, x) for k, way in good.items()
    }
    found = medians(calls, repetitions)
    for way, result in neural_tangents(jax_python, name, n, repetitions).items():
        if isinstance(result, float):
            found[way] = result
        else:
            bad[way] = result
    for way in dict.fromkeys([*ways(), *found, *bad]):
        seconds = f"{found[way]:.3f}" if way in found else "–"
        ratio = f"{found[way] / found[OURS]:.1f}" if way in found else "–"
        report.row(name, str(n), way, seconds, ratio, bad.get(way, ""))


def growth(report: Report, repetitions: int) -> None:
    report.add("\n### How the cost grows with n, k and P: MLPs of two hidden layers\n")
    report.table("n", "k", "P", "full, s", "trace, s", "pseudo, s")
    sizes = [(n, 10, 128) for n in (64, 128, 256, 512)]
    sizes += [(128, k, 128) for k in (1, 100)]
    sizes += [(128, 10, width) for width in (32, 512, 2048)]
    for n, k, width in sizes:
        parts = [nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        model = nn.Sequential(*parts, nn.Linear(width, k))
        x = torch.randn(n, 256, generator=torch.Generator().manual_seed(1))
        calls: dict[str, Callable[[], object]] = {
            outputs: partial(es.ntk, model, x, outputs=outputs)
            for outputs in ("full", "trace", "pseudo")
        }
        found = medians(calls, repetitions)
        P = sum(p.numel() for p in model.parameters())
        cells = [f"{found[outputs]:.4f}" for outputs in calls]
        report.row(str(n), str(k), f"{P:,}", *cells)


def large(report: Report, num_mlp: int, num_lenet: int) -> None:
    report.add("\n### Large sets of samples, trace\n")
    report.table("model", "n", "where", "seconds", "tensors", "resident set", "result")
    x = torch.randn(num_mlp, 3072, generator=torch.Generator().manual_seed(1))
    model = mlp()
    live, resident = peak_of(lambda: es.ntk(model, x, outputs="trace"))
    start = time.perf_counter()
    es.ntk(model, x, outputs="trace")
    seconds = time.perf_counter() - start
    sizes = [format_bytes(size) for size in (live, resident, 4 * num_mlp**2)]
    report.row("MLP 3 × 512", f"{num_mlp:,}", "memory", f"{seconds:.1f}", *sizes)
    lenet, shape = cases()["LeNet"]
    x = torch.randn(num_lenet, *shape, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        run = es.Run.create(Path(folder) / "run", verb="ntk", arguments={})
        with run:
            kernel = es.NTK(es.Problem(lenet, x), outputs="trace")
            start = time.perf_counter()
            kernel.write(run)
            seconds = time.perf_counter() - start
    result = format_bytes(4 * num_lenet**2)
    report.row("LeNet", f"{num_lenet:,}", "run", f"{seconds:.1f}", "–", "–", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--part", choices=("speed", "growth", "large"))
    parser.add_argument("--only", choices=SIZES, help="speed of this model alone")
    parser.add_argument("--num-samples", type=int, help="instead of the usual sizes")
    parser.add_argument("--without", nargs="+", default=[], help="peers to leave out")
    parser.add_argument("--jax-python", type=Path, help="Python with neural-tangents")
    options = parser.parse_args()
    report = Report()
    threads = torch.get_num_threads()
    report.add(f"torch {torch.__version__}, {threads} threads, {platform.machine()}")
    repetitions = 1 if options.quick else options.repetitions
    if options.part in {None, "speed"}:
        report.add("\n### Full tangent kernel, k = 10\n")
        report.table("model", "n", "way", "seconds", "times ours", "remark")
        chosen = [options.only] if options.only else list(SIZES)
        for name in chosen:
            usual = (16,) if options.quick else SIZES[name]
            for n in [options.num_samples] if options.num_samples else usual:
                speed(
                    report,
                    name,
                    n,
                    repetitions=repetitions,
                    without=options.without,
                    jax_python=options.jax_python,
                )
    if options.part == "growth" or (options.part is None and not options.quick):
        growth(report, repetitions)
    if options.part in {None, "large"}:
        large(report, *((200, 300) if options.quick else (2000, 10_000)))
    if options.output:
        options.output.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
