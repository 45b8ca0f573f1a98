"""The recorder: what it saves, and that the training cannot tell."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eigenscope as es
from eigenscope.store import Run

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(24, 6, generator=SOURCE)
Y = torch.randint(3, (24,), generator=SOURCE)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        parts = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        return nn.Sequential(*parts, nn.Linear(8, 3))


def jacobian(model: nn.Module) -> dict[str, Any]:
    spectrum = es.spectrum(es.gram(es.InputJacobian(es.Problem(model, X))))
    return {"spectrum": spectrum, "lambda max": spectrum.values[-1]}


def careless(model: nn.Module) -> Tensor:
    """Leave traces everywhere that a recorder has to remove."""
    model.train()
    loss = model(X + torch.rand(24, 6)).square().mean()
    loss.backward()
    for parameter in model.parameters():
        parameter.requires_grad = False
    np.random.rand()  # noqa: NPY002 - the global state is what is tested
    return loss.detach()


MEASURES: dict[str, Any] = {"jacobian": jacobian, "careless": careless}


def trained(recorder: es.Recorder | None, *, epochs: int = 3) -> dict[str, Tensor]:
    """Train with dropout, momentum and gradients that add up over two batches."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        for epoch in range(epochs):
            for half in (slice(12), slice(12, 24)):
                nn.functional.cross_entropy(model(X[half]), Y[half]).backward()
                if recorder is not None:
                    recorder.record(model, 2 * epoch + (half.stop == 24))
            optimizer.step()
            optimizer.zero_grad()
        state = dict(model.state_dict()) | {"random": torch.rand(3)}
    state["modes"] = torch.tensor([module.training for module in model.modules()])
    state["required"] = torch.tensor([p.requires_grad for p in model.parameters()])
    return state


@pytest.mark.parametrize("mode", ["eval", "as_is"])
def test_a_training_is_the_same_to_the_bit_with_and_without(tmp_path, mode):
    measures = MEASURES if mode == "eval" else {"careless": careless}
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        recorder = es.Recorder(run, measures, mode=mode)
        with_it, without = trained(recorder), trained(None)
    assert len(recorder.history().numbers) == 6
    assert with_it.keys() == without.keys()
    for name, value in without.items():
        assert torch.equal(with_it[name], value), name


def test_what_was_measured_is_read_back(tmp_path):
    model = network().eval()
    expected = jacobian(model)
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        recorder = es.Recorder(run, MEASURES, schedule=es.Schedule.at([4, 2]))
        assert [recorder.record(model, n) for n in range(6)] == [
            *[False, False, True, False, True, False]
        ]
    history = es.History.load(Run.open(tmp_path / "run"))
    assert history.numbers == (2, 4)
    assert history.names == ("jacobian/spectrum", "jacobian/lambda max", "careless")
    assert history.spectra("jacobian/spectrum")[4].values.tolist() == (
        expected["spectrum"].values.tolist()
    )
    numbers, values = history.series("jacobian/lambda max")
    assert numbers.tolist() == [2, 4]
    assert values.tolist() == [expected["lambda max"]] * 2


class Estimate:
    value, stderr = 2.0, 0.5


def test_estimates_and_numbers_that_are_not_finite_are_kept(tmp_path):
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        measures: Any = {"trace": lambda _: Estimate(), "bad": lambda _: float("inf")}
        recorder = es.Recorder(run, measures)
        recorder.record(network(), 0)
        assert recorder.history().entries[0]["trace"] == [2.0, 0.5]
        assert np.isnan(recorder.history().series("bad")[1]).all()


def test_what_is_there_is_not_measured_again_and_half_a_recording_is(tmp_path):
    path, calls = tmp_path / "run", []

    def counted(model: nn.Module) -> float:
        del model
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 1.0

    with Run.create(path, verb="train", arguments={}) as run:
        recorder = es.Recorder(run, {"count": counted})
        recorder.record(network(), 0)
        with pytest.raises(KeyboardInterrupt):
            recorder.record(network(), 1)
        assert recorder.history().numbers == (0,)
    with Run.resume(path, verb="train", arguments={}) as run:
        recorder = es.Recorder(run, {"count": counted})
        assert [recorder.record(network(), n) for n in range(3)] == [False, True, True]
    assert len(calls) == 4


def test_a_schedule_knows_what_is_due():
    assert [n for n in range(10) if es.Schedule.every(4).is_due(n)] == [0, 4, 8]
    assert es.Schedule.log_spaced(100, 3).numbers == (0, 1, 10, 100)
    assert es.Schedule.log_spaced(4, 9).numbers == (0, 1, 2, 3, 4)
    assert json.dumps(es.Schedule.at([3]).to_json())


@pytest.mark.message
def test_wrong_measures_and_schedules_are_refused(tmp_path):
    model = network()
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        with pytest.raises(ValueError, match="measures must hold at least one"):
            es.Recorder(run, {})
        with pytest.raises(ValueError, match="mode must be one of 'eval', 'as_is'"):
            es.Recorder(run, MEASURES, mode="train")  # pyright: ignore[reportArgumentType]
        text: Any = {"text": lambda _: "high"}
        recorder = es.Recorder(run, text)
        with pytest.raises(TypeError, match="'text' gave str"):
            recorder.record(model, 0)
        with pytest.raises(ValueError, match="must stay as they were recorded"):
            es.Recorder(run, MEASURES)
    with pytest.raises(KeyError, match="those recorded, nothing yet; got 'text'"):
        recorder.history().series("text")
    with pytest.raises(ValueError, match="interval must be at least 1; got 0"):
        es.Schedule.every(0)
    with pytest.raises(ValueError, match=r"none below 0; got \[-1, 3\]"):
        es.Schedule.at([3, -1])
    with pytest.raises(ValueError, match="count at least 2; got last=5 and count=1"):
        es.Schedule.log_spaced(5, 1)


@pytest.mark.message
def test_a_measure_that_changes_a_weight_is_refused(tmp_path):
    model = network()
    before = copy.deepcopy(model.state_dict())

    def pruning(net: Any) -> float:
        with torch.no_grad():
            net[0].weight[0, 0] += 1
        return 0.0

    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        recorder = es.Recorder(run, {"pruning": pruning})
        with pytest.raises(
            es.DataChangedError, match=r"changed during 'pruning'\. Work"
        ):
            recorder.record(model, 0)
        assert recorder.history().numbers == ()
    assert model.training
    assert before.keys() == model.state_dict().keys()


@pytest.mark.message
def test_spectra_and_scalars_are_not_mixed_up(tmp_path):
    with Run.create(tmp_path / "run", verb="train", arguments={}) as run:
        recorder = es.Recorder(run, {"jacobian": jacobian})
        recorder.record(network(), 0)
        with pytest.raises(TypeError, match="is a spectrum; use spectra"):
            recorder.history().series("jacobian/spectrum")
        with pytest.raises(TypeError, match="is a scalar; use series"):
            recorder.history().spectra("jacobian/lambda max")
