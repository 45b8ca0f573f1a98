"""One of several processes: does a job with the others and saves what it has found."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_cases
import torch
import torch.distributed as dist
from distributed_cases import (
    CASES,
    network,
    problem,
    recorded_training,
    samples,
    vectors,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

import eigenscope as es
from eigenscope.operators import NTK, InputJacobian, gram
from eigenscope.problem import sharded


class Slow(nn.Module):
    """A network that gives others the time to end it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.net, self.seconds = network(), seconds

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.net(inputs)


def cases(folder: Path, rank: int) -> None:
    found = {name: case() for name, case in CASES.items()}
    torch.save(found, folder / f"{rank}.pt")


def errors(folder: Path, rank: int) -> None:
    """Let rank 1 be wrong in one way after the other; all of them go on together."""
    inputs, targets = samples()
    loss = nn.CrossEntropyLoss()
    other = network()
    broken = network()
    if rank:
        with torch.no_grad():
            next(other.parameters()).mul_(2)
            next(broken.parameters())[0] = torch.nan
    large = inputs.clone()
    large[-1] = 1e200  # a sample of rank 1
    linear = nn.Linear(36, 3).double()
    nn.init.ones_(linear.weight)
    nn.init.zeros_(linear.bias)
    overflowing = nn.Sequential(nn.Flatten(), linear, _Square())
    hessian = es.Hessian(problem())
    attempts: tuple[Callable[[], object], ...] = (
        lambda: es.Problem(network(), inputs + rank),
        lambda: es.Problem(other, inputs),
        lambda: es.Problem(broken, inputs),
        lambda: es.Hessian(es.Problem(overflowing, (large, targets), loss=loss)),
        lambda: hessian @ (vectors(hessian.shape[0]) + rank),
        lambda: es.Problem(network(), inputs, ranks="both"),  # pyright: ignore[reportArgumentType]
        lambda: _twice(folder / "run"),
        lambda: es.Problem(_activated(nn.ReLU() if rank else nn.Tanh()), inputs),
        lambda: es.Problem(
            network(), inputs, output="probabilities" if rank else "logits"
        ),
        lambda: es.Problem(network(), inputs, params="*.bias" if rank else "*.weight"),
        lambda: es.Hessian(
            es.Problem(
                network(),
                (inputs, targets),
                loss=nn.CrossEntropyLoss(label_smoothing=0.1 * rank),
            )
        ),
        lambda: hessian @ vectors(hessian.shape[0]),
    )
    (folder / f"{rank}.txt").write_text("\n---\n".join(map(_said, attempts)))


def _activated(activation: nn.Module) -> nn.Module:
    """Return a network of the same weights whatever its activation is."""
    net = network()
    net[1] = activation
    return net


class _Square(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.square()


def _twice(path: Path) -> None:
    with es.Run.create(path, verb="test", arguments={}):
        es.Run.resume(path, verb="test", arguments={})


def _said(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def in_pieces(folder: Path, rank: int) -> None:
    """Networks of FSDP2 and of tensor parallelism do what the plain one does."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    makers = {"FSDP2": _fully_sharded, "DTensors": _parallel}
    found: dict[str, object] = {}
    for kind, make in makers.items():
        cut = make(mesh)
        before = _described(cut)
        distributed_cases.network = lambda cut=cut: cut  # of all cases
        names = ("curvature", "kernels", "parameter Jacobians")
        found[kind] = {name: CASES[name]() for name in names}
        found[f"{kind}, functions"] = _functions(cut)
        found[f"{kind}, same"] = before == _described(cut)
        found[f"{kind}, trained"] = _trained(cut, folder / kind)
    torch.save(found, folder / f"{rank}.pt")
    wrong = _parallel(mesh, last=ColwiseParallel())
    inputs, _ = samples()
    attempts: tuple[Callable[[], object], ...] = (
        lambda: es.Problem(wrong, inputs),
        lambda: es.Problem(network(), distribute_tensor(inputs, mesh, [Replicate()])),
        lambda: es.TracePenalty(_parallel(mesh), weight=1.0),
        lambda: es.Problem(_flattened(), inputs),
        lambda: es.Problem(_Uncopyable(_fully_sharded(mesh)), inputs),
        lambda: es.Problem(_Distributing(_parallel(mesh), mesh), inputs),
        lambda: _without_memory(lambda: es.Problem(_fully_sharded(mesh), inputs)),
    )
    (folder / f"{rank}.txt").write_text("\n---\n".join(map(_said, attempts)))


def _fully_sharded(mesh: DeviceMesh) -> nn.Module:
    """A network whose root keeps what its last pass has gathered."""
    net: Any = network()
    fully_shard(net[3], mesh=mesh)
    fully_shard(net, mesh=mesh)
    with torch.no_grad():
        net(samples()[0])
    assert not isinstance(net[0].weight, DTensor)
    return net


def _parallel(mesh: DeviceMesh, last: Any = None) -> nn.Module:
    """A tensor-parallel network, one of whose layers is of no even size."""
    plan: dict[str, ParallelStyle] = {
        "3": ColwiseParallel(output_layouts=Replicate()),
        "4": last or RowwiseParallel(input_layouts=Replicate()),
    }
    return parallelize_module(network(), mesh, plan)


def _flattened() -> nn.Module:
    return nn.Sequential(
        FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    )


class _Uncopyable(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.lock = net, threading.Lock()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


class _Distributing(nn.Module):
    def __init__(self, net: nn.Module, mesh: DeviceMesh) -> None:
        super().__init__()
        self.first, self.mesh = net, mesh

    def forward(self, inputs: Tensor) -> Tensor:
        return self.first(distribute_tensor(inputs, self.mesh, [Replicate()]))


def _without_memory(call: Callable[[], object]) -> object:
    before, sharded.resolve = sharded.resolve, lambda _: 100
    try:
        return call()
    finally:
        sharded.resolve = before


def _described(net: nn.Module) -> list[object]:
    """Everything that must be the same afterwards, bits of pieces included."""
    tensors = [*net.named_parameters(), *net.named_buffers()]
    pieces = [(n, id(t), type(t), t.requires_grad, t.grad) for n, t in tensors]
    bits = [t.to_local() if isinstance(t, DTensor) else t for _, t in tensors]
    hooks = [[*m._forward_pre_hooks, *m._forward_hooks] for m in net.modules()]
    kinds = [(type(m), m.training) for m in net.modules()]
    numbers = [bit.detach().flatten().tolist() for bit in bits]
    return [pieces, numbers, hooks, kinds, torch.get_rng_state().tolist()]


def _functions(cut: nn.Module) -> dict[str, Tensor]:
    inputs, targets = samples()
    gradients = es.per_sample_gradients(
        cut, nn.CrossEntropyLoss(), inputs[1:], targets[1:]
    )
    spectra = es.weight_spectra(cut)
    return {
        "ntk": es.ntk(cut, inputs, inputs[:3], outputs="trace"),
        "conjugate": es.conjugate_kernel(cut, inputs, inputs[:2]),
        "inputs": es.input_jacobian(cut, inputs),
        **gradients,
        **{f"{name} W": torch.tensor(own.values) for name, own in spectra.items()},
    }


def _trained(cut: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Numbers before each of two steps of a training that goes on in pieces."""
    inputs, targets = samples()
    loss = nn.CrossEntropyLoss()
    measure = es.CurvatureTrace((inputs, targets), loss, num_matvecs=8)
    if isinstance(cut, FSDPModule):
        cut.reshard()  # optimizers are given the pieces
    optimizer = torch.optim.SGD(cut.parameters(), lr=0.1)
    with es.Run.create(folder, verb="test", arguments={}) as made:
        recorder = es.Recorder(made, {"trace": measure})
        for step in range(2):
            recorder.record(cut, step)
            optimizer.zero_grad()
            loss(cut(inputs), targets).backward()
            optimizer.step()
        return {"trace": torch.tensor(recorder.history().series("trace/full")[1])}


def alone_in_pieces(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What `in_pieces` must find, by one process."""
    return {
        "functions": _functions(network()),
        "trained": _trained(network(), folder),
    }


def run(folder: Path, rank: int) -> None:
    with es.Run.create(folder / "run", verb="test", arguments={}) as made:
        _write(made, folder, rank)


def resumed_run(folder: Path, rank: int) -> None:
    with es.Run.resume(folder / "run", verb="test", arguments={}) as made:
        _write(made, folder, rank)


def _write(made: es.Run, folder: Path, rank: int) -> None:
    whole = es.Problem(Slow(0.02), samples(37), loss=nn.CrossEntropyLoss())
    memory = 40_000
    jacobian = InputJacobian(whole).write(made, memory=memory)
    found: dict[str, Tensor] = {"jacobian": jacobian.dense()}
    for side in ("rows", "columns"):
        stored = gram(jacobian, side=side, memory="200kB").write(made, name=side)
        found[side] = stored.dense()
    kernel = NTK(whole, outputs="trace", memory="1MB")
    found["kernel"] = kernel.write(made).dense()
    parts = kernel.write_components(made, name="part")
    found |= {name: part.dense() for name, part in parts.items()}
    rows = es.ParameterJacobian(whole).write(made, memory="200kB")
    found["parameters"] = rows.dense()
    hessian = es.Hessian(whole)
    spectrum = es.spectrum(hessian, method="slq", tolerance=0.1, run=made)
    found["values"] = torch.tensor(spectrum.values)
    pairs = es.top_eigenpairs(hessian, 2, method="lanczos", run=made)
    found["pairs"] = pairs.values
    estimate = es.trace(hessian, num_matvecs=12, run=made)
    found["trace"] = torch.tensor([estimate.value])
    made.record_result("trace", float(estimate.value))
    made.complete()
    torch.save(found, folder / f"{rank}.pt")


def recording(folder: Path, rank: int) -> None:
    """Rank 1 is killed before the third recording of a training."""
    with es.Run.create(folder / "run", verb="test", arguments={}) as made:
        recorded_training(made, killed_at=2 if rank == 1 else None)


def resumed_recording(folder: Path, rank: int) -> None:
    del rank
    with es.Run.resume(folder / "run", verb="test", arguments={}) as made:
        recorded_training(made)


def main() -> None:
    job, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    folder = Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/met", rank=rank, world_size=size
    )
    jobs = {
        "cases": cases,
        "errors": errors,
        "in pieces": in_pieces,
        "run": run,
        "resumed run": resumed_run,
        "recording": recording,
        "resumed recording": resumed_recording,
    }
    jobs[job](folder, rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
