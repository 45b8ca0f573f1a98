"""One of several processes: does a job with the others and saves what it has found."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

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
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import eigenscope as es
from eigenscope.operators import NTK, InputJacobian, gram


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


def sharded(folder: Path, rank: int) -> None:
    """A network that FSDP2 has cut into pieces is refused, and served when whole."""
    whole = es.Hessian(problem())
    expected = whole @ vectors(whole.shape[0])
    cut = network()
    fully_shard(cut, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    said = _said(lambda: es.Problem(cut, samples()))
    full = get_model_state_dict(cut, options=StateDictOptions(full_state_dict=True))
    plain = network()
    plain.load_state_dict(full)
    inputs, targets = samples()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]).double())
    again = es.Hessian(es.Problem(plain, (inputs, targets), loss=loss, batch_size=4))
    found = again @ vectors(again.shape[0])
    assert torch.equal(found, expected)
    (folder / f"{rank}.txt").write_text(said)


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
        "sharded": sharded,
        "run": run,
        "resumed run": resumed_run,
        "recording": recording,
        "resumed recording": resumed_recording,
    }
    jobs[job](folder, rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
