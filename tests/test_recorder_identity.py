"""A training under every ready-made measure ends with the bits of one without."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
