"""Plans of sums, repetitions and shares, and of functions of numbers."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.kernels import KernelEngine
from eigenscope.planning import Plan, Step, plan_of_job
from eigenscope.planning.calls import JOBS
from eigenscope.planning.estimates import ESTIMATES
from eigenscope.planning.job import Job
from eigenscope.planning.pairs import measured_pair_seconds
from eigenscope.planning.rehearsal import Measurement
from eigenscope.training.measurement import Composed
from eigenscope.zoo import save_weights

BRIEF = 1e-3
# They compute nothing by themselves, or moments after another call.
WITHOUT_PLANS = {
    *("find_checkpoints", "gram", "layer_blocks", "lightning_callback"),
    *("next_token_loss", "plan", "register_rule", "transformers_callback"),
}


def job(**changed: Any) -> Job:
    given: dict[str, Any] = {
        "name": "work",
        "method": "by hand",
        "num_samples": 1000,
        "device": torch.device("cpu"),
        "call_on": lambda size: lambda: size,
        "chunk": 10,
        "budget": 10_000,
    }
    return Job(**(given | changed))


def measured(size: int, **values: Any) -> Measurement:
    found: dict[str, Any] = {"seconds": 0.0, "flops": 0.0, "bytes": 0, "held": 0}
    return Measurement(size=size, **(found | values))


def test_every_function_that_computes_has_a_plan():
    functions = {
        name for name in es.__all__ if inspect.isfunction(getattr(es, name))
    } - WITHOUT_PLANS
    planned = {own.__name__ for own in (*JOBS, *ESTIMATES)}
    assert functions == planned | {"weight_spectra", "record_series"}


def test_every_measure_says_its_calls():
    data, loss = (torch.eye(3), torch.arange(3)), nn.CrossEntropyLoss()
    spectra = es.CurvatureSpectra(data, loss)
    measures = [
        spectra,
        es.CurvatureEigenvalues(data, loss),
        es.CurvatureTrace(data, loss, num_matvecs=6),
        es.JacobianSpectrum(torch.eye(3)),
        es.WeightSpectra(),
        es.TargetAlignment(data),
        es.LayerDistances(spectra),
        es.TailExponent(spectra),
    ]
    for measure in measures:
        assert isinstance(measure, Composed)
        made = es.plan(measure, nn.Linear(3, 3), effort=BRIEF)  # type: ignore[arg-type]
        assert made.operation == type(measure).__name__
    made = es.plan(spectra, nn.Linear(3, 3), effort=BRIEF)  # type: ignore[arg-type]
    names = {step.name.partition(":")[0] for step in made.steps}
    assert names == {"full", "weight", "bias"}


def test_a_measure_finds_what_its_calls_find():
    net, data = nn.Linear(3, 3), (torch.eye(3), torch.arange(3))
    spectra = es.CurvatureSpectra(data, nn.CrossEntropyLoss())
    for name, call in spectra.calls(net).items():
        np.testing.assert_allclose(call().values, spectra(net)[name].values, atol=1e-12)


def test_pairs_grow_with_the_square_and_the_rest_with_the_samples():
    found = (measured(2), measured(10, seconds=1.2), measured(100, seconds=30.0))
    planned = job(pair_seconds=lambda size: 0.002 + 0 * size).step(found)
    # 30 s of 100 samples are 20 s of pairs and 10 s of samples, 1.2 s of 10 are
    # 0.2 s and 1 s.
    assert planned.seconds == pytest.approx(0.002 * 1000**2 + 100, rel=1e-3)


def test_pairs_of_a_kernel_are_measured_on_both_sets():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    problem = es.Problem(net, torch.randn(9, 4))
    other = es.Problem(net, torch.randn(5, 4))
    options: dict[str, Any] = {"outputs": "trace", "method": "auto"}
    options["free_bytes"] = 10**8
    for second in (None, other):
        engine = KernelEngine(problem, second, **options)
        seconds = measured_pair_seconds(
            problem,
            second,
            7,
            settings=engine.settings(9),
            **options,
        )
        assert 0 < seconds < 1


def test_the_most_samples_that_fit_are_said():
    found = tuple(measured(size, bytes=100 * size, held=0) for size in (2, 16, 128))
    step = job(kept_bytes=lambda size: 90 * size).step(found)
    assert step.most_samples is not None
    within = 90 * step.most_samples + 10 * 128
    assert within <= 10_000 < within + 90
    made = Plan(operation="work", steps=(step,), budget=10_000)
    assert not made.fits
    assert f"--num-samples {step.most_samples}" in str(made)


def test_what_is_taken_after_the_chunks_does_not_add_to_them():
    found = tuple(measured(size, bytes=5000) for size in (2, 16))
    kept = {"kept_bytes": lambda size: size, "result_last": True}
    assert job(**kept).step(found).host_bytes == 5000
    assert job(kept_bytes=lambda size: size).step(found).host_bytes == 1000 + 4998


def test_a_rehearsal_of_all_samples_is_the_plan():
    calls: list[int] = []
    planned = plan_of_job(
        "work",
        job(call_on=lambda size: lambda: calls.append(size), num_samples=20),
        effort=1e6,
    )
    assert max(calls) == 20 == planned.rehearsed_samples


def test_plans_are_repeated_shared_and_merged():
    step = Step(
        name="x", method="y", passes=1, forward=10, backward=20, flops=1e9,
        host_bytes=7, disk_bytes=4, seconds=2.0, at_most=3.0, is_shared=True,
    )  # fmt: skip
    solve = Step(name="solve", method="z", seconds=1.0)
    made = Plan(operation="x", steps=(step, solve), budget=30)
    twice = made.times(2)
    assert (twice.seconds, twice.at_most, twice.disk_bytes) == (6.0, 8.0, 8)
    assert (twice.host_bytes, twice.backward) == (7, 40)
    half = made.among(2)
    assert (half.seconds, half.passes, half.disk_bytes) == (2.0, 1, 4)
    one = made.merged("all").steps
    assert [(s.name, s.seconds, s.host_bytes) for s in one] == [("all", 3.0, 7)]
    assert Plan.joined("two", [made, step]).seconds == 5.0
    assert Plan.joined("none", []).fits


def test_a_plan_that_does_not_fit_says_what_would():
    step = Step(name="x", method="y", host_bytes=2**20, device_bytes=2**20)
    said = str(Plan(operation="x", steps=(step,), budget=2**10))
    assert "does not fit: 1.0 MiB exceed the memory budget of 1.0 KiB" in said
    assert "--memory 1.1MiB" in said
    assert "device" not in said.splitlines()[1]
    on_gpu = Step(name="x", method="y", host_bytes=5, device_bytes=2**20)
    made = Plan(operation="x", steps=(on_gpu,), budget=1)
    assert "device" in str(made).splitlines()[1]


def test_the_matrices_of_weights_are_counted():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 5))
    for kernels, products in (("slices", 9 * 3 * 2 * 2), ("matrix", 3 * 18 * 3)):
        made = es.plan(es.weight_spectra, net, kernels=kernels)
        assert made.flops == 4 * (products + 12 * 5 * 5)
        assert made.host_bytes == 24 * max(3 * 18, 60)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fit_power_law", (np.arange(1.0, 700.0),)),
        ("fit_bulk", (es.Spectrum.from_eigenvalues(np.arange(1.0, 700.0)),)),
        ("wasserstein", (np.arange(300.0), np.arange(400.0))),
        ("condition_number", (torch.eye(300),)),
        ("kernel_target_alignment", (torch.eye(300), torch.arange(300) % 3)),
        ("kernel_alignment", (torch.eye(300), torch.eye(300))),
        ("principal_angles", (torch.eye(300)[:, :3], torch.eye(300)[:, 1:4])),  # local
    ],
)
def test_functions_of_numbers_are_rehearsed_on_some_of_them(name, arguments):
    made = es.plan(name, *arguments, effort=BRIEF)
    assert made.steps[0].name == name.replace("_", " ")
    assert made.fits


def test_a_series_takes_the_measures_once_for_every_checkpoint(tmp_path: Path):
    net = nn.Linear(3, 2)
    for number in range(4):
        save_weights(net, tmp_path / f"epoch_{number}.safetensors")
    weights = {"weights": es.WeightSpectra()}
    options: dict[str, Any] = {"schedule": es.Schedule.every(2)}
    one = es.plan(es.WeightSpectra(), net)  # type: ignore[arg-type]
    made = es.plan(es.record_series, None, net, tmp_path, weights, **options)
    assert made.steps[0].name == "weights of 2 checkpoints"
    assert made.flops == 2 * one.flops
    own = {"size": lambda model: model.weight.norm().item()}
    called = es.plan(es.record_series, None, net, tmp_path, own)
    assert called.steps[1].method == "a function of the network"


def test_a_decomposition_by_classes_takes_two_passes():
    data = (torch.randn(30, 4), torch.arange(30) % 3)
    problem = es.Problem(nn.Linear(4, 3), data, loss=nn.CrossEntropyLoss())
    made = es.plan(es.decompose_by_class, es.Hessian(problem), effort=BRIEF)
    assert (made.passes, made.backward) == (2, 3 * 30)
