"""A training under every ready-made measure ends with the bits of one without."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import eigenscope as es
from eigenscope.store import Run

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(24, 3, 6, 6, generator=SOURCE)
Y = torch.randint(3, (24,), generator=SOURCE)
DATA = (X[:7], Y[:7])
OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def network() -> nn.Sequential:
    torch.default_generator.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def augmented(x: Tensor) -> Tensor:
    """Flip, shift and disturb by all three global generators."""
    if random.random() < 0.5:
        x = x.flip(-1)
    x = x.roll(int(np.random.randint(3)), -2)  # noqa: NPY002 - the global one is tested
    return x + 0.1 * torch.rand_like(x)


def measures() -> dict[str, Any]:
    loss = nn.CrossEntropyLoss()
    hessian = es.CurvatureSpectra(
        DATA, loss, tolerance=1.0, max_probes=2, max_steps=4, num_outer=4
    )
    jacobian = es.JacobianSpectrum(X[:7])
    return {
        "hessian": hessian,
        "layer_w1": es.LayerDistances(hessian),
        "fisher": es.CurvatureSpectra(DATA, loss, kind="fisher", layers="module"),
        "hessian_top": es.CurvatureEigenvalues(DATA, loss),
        "hessian_trace": es.CurvatureTrace(DATA, loss, num_matvecs=4),
        "jacobian": jacobian,
        "jacobian_alpha": es.TailExponent(jacobian),
        "weights": es.WeightSpectra(),
        "ntk_alignment": es.TargetAlignment(DATA),
    }


def flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | list | tuple):
        return {prefix: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        k: v for key, part in pairs for k, v in flat(f"{prefix}/{key}", part).items()
    }


def trained(recorder: es.Recorder | None, make: Any) -> dict[str, Any]:
    """Train six steps, gradients of two batches each; return all that there is."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model = network()
    optimizer = make(model.parameters())
    torch.default_generator.manual_seed(1)
    for step in range(6):
        for _ in range(2):
            chosen = torch.randperm(24)[:10]
            loss = cross_entropy(model(augmented(X[chosen])), Y[chosen])
            loss.backward()
        if recorder is not None:
            recorder.record(model, 2 * step)  # while there are gradients
        optimizer.step()
        if recorder is not None:
            recorder.record(model, 2 * step + 1)
        if step < 5:
            optimizer.zero_grad()
    found = flat("model", dict(model.state_dict()))
    found |= flat("optimizer", optimizer.state_dict())
    found |= {f"grad/{n}": p.grad for n, p in model.named_parameters()}
    found["modes"] = [module.training for module in model.modules()]
    found["required"] = [p.requires_grad for p in model.parameters()]
    found["torch"] = torch.get_rng_state()
    found["python"] = random.getstate()
    found |= flat("numpy", np.random.get_state())  # noqa: NPY002
    return found


@pytest.mark.slow
@pytest.mark.message
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_ends_with_the_same_bits(tmp_path, name):
    with torch.random.fork_rng(devices=[]):
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        without = trained(None, OPTIMIZERS[name])
        with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
            recorder = es.Recorder(
                run, measures(), schedule=es.Schedule.at([0, 1, 4, 9, 10])
            )
            found = trained(recorder, OPTIMIZERS[name])
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    assert recorder.history().numbers == (0, 1, 4, 9, 10)
    assert "layer_w1/0.weight" in recorder.history().names
    assert found.keys() == without.keys()
    assert any(key.startswith("optimizer/state") for key in found)
    for key, value in without.items():
        if isinstance(value, Tensor | np.ndarray):
            assert np.array_equal(np.asarray(found[key]), np.asarray(value)), key
        else:
            assert found[key] == value, key


@pytest.mark.message
def test_mixed_precision_of_the_training_is_off_for_the_measures(tmp_path):
    model = network()

    def dtype(net: nn.Module) -> float:
        return float(net(X[:2]).dtype == torch.float32)

    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        recorder = es.Recorder(run, {"wide": dtype})
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert model(X[:2]).dtype == torch.bfloat16
            recorder.record(model, 0)
        assert recorder.history().series("wide")[1].tolist() == [1.0]


class Late(nn.Module):
    """Makes buffers and attributes when it is first called, by the mode it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)
        self.scale: Tensor | None = None
        self.shifts: dict[int, float] = {}
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        made = 2.0 if self.training else 3.0
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.full((3,), made))
        if self.scale is None:
            self.scale = torch.full((3,), made)
        shift = self.shifts.setdefault(x.shape[1], made)
        self.calls += 1
        noise = 0.1 * self.calls if self.training else 0.0
        late = self.scale * self.get_buffer("late")
        return torch.tanh(self.map(late * x)) + shift + noise


def hooked() -> nn.Module:
    """Clips one gradient, and counts gradients in a buffer by which it is scaled."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    model.register_buffer("seen", torch.zeros(()))

    def counted(*_: Any) -> None:
        model.get_buffer("seen").add_(1.0)

    first, last = model[0], model[2]
    assert isinstance(first, nn.Linear)
    first.weight.register_hook(
        lambda g: g.clamp(-0.01, 0.01) + 1e-3 * model.get_buffer("seen")
    )
    first.weight.register_hook(counted)
    last.register_full_backward_hook(counted)
    return model


PECULIAR: dict[str, Any] = {
    "late": Late,
    "hooked": hooked,
    "compiled": lambda: torch.compile(nn.Linear(3, 3), backend="aot_eager"),
    "compiled in place": lambda: compiled_in_place(nn.Linear(3, 3)),
}


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


def stepped(make: Any, recorder: es.Recorder | None) -> dict[str, Tensor]:
    torch.default_generator.manual_seed(0)
    model, x, y = make(), X[:, 0, 0, :3], Y
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        if recorder is not None:
            recorder.record(model, step)
        cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.state_dict())


@pytest.mark.message
@pytest.mark.parametrize("name", PECULIAR)
def test_a_peculiar_network_is_trained_to_the_same_bits(tmp_path, name):
    loss, data = nn.CrossEntropyLoss(), (X[:5, 0, 0, :3], Y[:5])
    peculiar: dict[str, Any] = {
        "trace": es.CurvatureTrace(data, loss, num_matvecs=4),
        "hessian": es.CurvatureSpectra(data, loss, layers="weights"),
    }
    with torch.random.fork_rng(devices=[]):
        without = stepped(PECULIAR[name], None)
        with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
            recorder = es.Recorder(run, peculiar)
            found = stepped(PECULIAR[name], recorder)
    assert recorder.history().numbers == (0, 1, 2)
    assert not any("_orig_mod" in known for known in recorder.history().names)
    assert found.keys() == without.keys()
    for key, value in without.items():
        assert torch.equal(found[key], value), key


@pytest.mark.message
def test_what_is_measured_between_forward_and_backward_leaves_the_graph(tmp_path):
    model = network()
    outputs = model(X)  # keeps running statistics, which `as_is` would change
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        measure: dict[str, Any] = {"mean": lambda net: net(X).mean().item()}
        es.Recorder(run, measure, mode="as_is").record(model, 0)
    cross_entropy(outputs, Y).backward()
    assert model[0].weight.grad is not None


class Drawing:
    """A sink that draws from every global generator."""

    def write(self, number: int, found: Any) -> None:
        del number, found
        torch.rand(1)
        random.random()
        np.random.rand()  # noqa: NPY002


@pytest.mark.message
def test_sinks_and_loaders_leave_the_random_states(tmp_path):
    model, own = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(X[:, 0, 0, :3]), batch_size=8, generator=own)
    before = own.get_state(), torch.get_rng_state(), random.getstate()
    numpy: Any = np.random.get_state()  # noqa: NPY002
    words = numpy[1].copy()
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        measure = {"jacobian": es.JacobianSpectrum(loader)}
        es.Recorder(run, measure, sinks=[Drawing()]).record(model, 0)
    assert torch.equal(own.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]
    numpy = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(numpy[1], words)


@pytest.mark.message
def test_a_network_without_shapes_is_refused_before_it_is_measured(tmp_path):
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Tanh())
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        recorder = es.Recorder(run, {"weights": es.WeightSpectra()})
        with pytest.raises(ValueError, match="the lazy '0' have none before"):
            recorder.record(lazy, 0)
        lazy(X[:2, 0, 0])
        assert recorder.record(lazy, 0)
