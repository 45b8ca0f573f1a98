"""Per-sample gradients of one output by all parameters, against the peers.

    python benchmarks/per_sample_jacobian.py [--quick] [--only NAME]
        [--repetitions 5] [--output FILE]

Every ratio is of medians of interleaved repetitions in one run. BackPACK and Opacus
take part where they are installed; what one cannot do, or does wrongly, is said.
"""

import argparse
import copy
import platform
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from input_jacobian import resnet20 as random_resnet20
from report import Report, medians, peak_of
from torch import Tensor, nn

import eigenscope as es
from eigenscope import zoo
from eigenscope.budget import format_bytes
from eigenscope.jacobian import ParameterEngine

Rows = Callable[[nn.Module, Tensor, Tensor], Tensor | None]


class Encoder(nn.Module):
    """Two transformer encoder layers (width 64, 4 heads) and a head on the mean."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def mlp() -> nn.Module:
    parts: list[nn.Module] = [nn.Flatten(), nn.Linear(3072, 512), nn.ReLU()]
    parts += [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(512, 10))


def cases() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    lenet = zoo.build_model("lenet", sample_shape=(1, 32, 32), num_classes=10)
    return {
        "LeNet": (lenet, (1, 32, 32)),
        "ResNet-20": (random_resnet20(10), (3, 32, 32)),
        "MLP 3 × 512 on 3,072 inputs": (mlp(), (3, 32, 32)),
        "transformer encoder": (Encoder(), (16, 64)),
    }


def loop(model: nn.Module, x: Tensor, result: Tensor) -> None:
    """Write one sample after the other into memory that is there."""
    parameters = list(model.parameters())
    for sample, row in zip(x, result, strict=True):
        output = model(sample.unsqueeze(0))[0, 0]
        start = 0
        for part in torch.autograd.grad(output, parameters):
            row[start : start + part.numel()] = part.flatten()
            start += part.numel()


def vmap_grad(model: nn.Module, x: Tensor, result: Tensor) -> Tensor:
    del result
    params = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def output(params: dict[str, Tensor], sample: Tensor) -> Tensor:
        whole = {**params, **buffers}
        return torch.func.functional_call(model, whole, (sample.unsqueeze(0),))[0, 0]

    found = torch.func.vmap(torch.func.grad(output), (None, 0))(params, x)
    return _joined(list(found.values()))


def opacus(mode: str) -> Rows:
    from opacus.grad_sample.utils import wrap_model

    wrapped: dict[int, nn.Module] = {}

    def rows(model: nn.Module, x: Tensor, result: Tensor) -> Tensor:
        del result
        if id(model) not in wrapped:
            own = copy.deepcopy(model).train()
            wrapped[id(model)] = wrap_model(
                own, grad_sample_mode=mode, loss_reduction="sum"
            )
        module = wrapped[id(model)]
        module(x)[:, 0].sum().backward()
        joined = _joined([p.grad_sample for p in module.parameters()])
        for p in module.parameters():
            p.grad_sample = None
        return joined

    return rows


def backpack_rows(model: nn.Module, x: Tensor, result: Tensor) -> Tensor:
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    del result
    own = extend(copy.deepcopy(model))
    with backpack(BatchGrad()):
        own(x)[:, 0].sum().backward()
    return _joined([p.grad_batch for p in own.parameters()])


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def whole_gradient(model: nn.Module, x: Tensor) -> object:
    """Return the gradient of the sum over samples, what no way can be faster than."""
    return torch.autograd.grad(model(x)[:, 0].sum(), list(model.parameters()))


def ours(model: nn.Module, x: Tensor, result: Tensor) -> None:
    """Write into memory that is there, checks and proofs included."""
    problem = es.Problem(model, x, output=_first_output)
    engine = ParameterEngine(problem)
    views: dict[str, Tensor] = {}
    start = 0
    for name, p in problem.params.items():
        part = result[:, start : start + p.numel()]
        views[name] = part.unflatten(1, (1, *p.shape))
        start += p.numel()
    for batch in engine.chunks():
        rows = slice(batch.start, batch.start + batch.size)
        engine.fill(batch, {name: view[rows] for name, view in views.items()})


def fresh(model: nn.Module, x: Tensor, result: Tensor) -> None:
    del result
    es.parameter_jacobian(model, x, output=_first_output)


def _first_output(raw: Tensor) -> Tensor:
    return raw[:, :1]


CHECKED = 16
OURS = "**eigenscope**"
ONE = "gradient of the sum"
FRESH = "`es.parameter_jacobian` (fresh memory)"


def ways() -> dict[str, Rows]:
    found: dict[str, Rows] = {
        "loop into one matrix": loop,
        "`vmap(grad)`": vmap_grad,
        OURS: ours,
        FRESH: fresh,
    }
    if find_spec("opacus"):
        found["Opacus, hooks"] = opacus("hooks")
        found["Opacus, expanded weights"] = opacus("ew")
    if find_spec("backpack"):
        found["BackPACK"] = backpack_rows
    return found


def speed(report: Report, name: str, n: int, repetitions: int) -> None:
    model, shape = cases()[name]
    model = model.eval()
    source = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=source)
    num_params = sum(p.numel() for p in model.parameters())
    result = torch.zeros(n, num_params)
    exact = torch.zeros(min(n, CHECKED), num_params, dtype=torch.float64)
    loop(copy.deepcopy(model).double(), x[:CHECKED].double(), exact)
    calls: dict[str, Callable[[], object]] = {}
    notes: dict[str, str] = {}
    for way, rows in ways().items():
        try:
            found = rows(model, x, result)
        except Exception as error:  # what a peer cannot do
            notes[way] = f"fails: {type(error).__name__}"
            continue
        filled = result if found is None else found
        gap = torch.linalg.vector_norm(filled[:CHECKED] - exact)
        error = float(gap / torch.linalg.vector_norm(exact))
        notes[way] = "" if error < 1e-2 else f"wrong by {error:.0%}"
        calls[way] = partial(rows, model, x, result)
    calls[ONE] = partial(whole_gradient, model, x)
    notes[ONE] = "not per sample"
    times = medians(calls, repetitions)
    report.add(f"\n### {name}, n = {n}, P = {num_params:,}\n")
    report.table("way", "median", "eigenscope is faster by", "")
    for way, note in notes.items():
        if way in times:
            ratio = f"{times[way] / times[OURS]:.2f} ×"
            report.row(way, f"{times[way]:.3f} s", ratio, note)
        else:
            report.row(way, "–", "–", note)
    calls.clear()
    del result
    peak, grown = peak_of(lambda: es.parameter_jacobian(model, x, output=_first_output))
    report.add(
        f"\nThe result takes {format_bytes(4 * n * num_params)}, other tensors at most "
        f"{format_bytes(peak)}; the resident set grew by {format_bytes(grown)}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=cases(), help="one of the networks")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    torch.backends.mha.set_fastpath_enabled(False)  # no per-sample rule of any peer
    report = Report()
    report.add(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}"
    )
    n, repetitions = (16, 1) if options.quick else (256, options.repetitions)
    for name in [options.only] if options.only else cases():
        speed(report, name, n, repetitions)
        if options.output:
            options.output.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
