"""Plans: what is predicted is what happens."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.planning.counting import Counting
from eigenscope.planning.plan import Step, format_seconds
from eigenscope.planning.rehearsal import grown

CPU = torch.device("cpu")


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 11 * 11, 5),
    )


@pytest.fixture
def images(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(300, 1, 28, 28, generator=generator)


def problem_of(images: torch.Tensor) -> es.Problem:
    labels = torch.arange(len(images)) % 5
    return es.Problem(convolutions(), (images, labels), loss=nn.CrossEntropyLoss())


def matrices(images: torch.Tensor) -> dict[str, Any]:
    return {
        "input": es.InputJacobian(es.Problem(convolutions(), images)),
        "parameters": es.ParameterJacobian(es.Problem(convolutions(), images[:60])),
        "kernel": es.NTK(es.Problem(convolutions(), images), outputs="trace"),
        "gram": es.gram(es.InputJacobian(es.Problem(convolutions(), images))),
    }


FUNCTIONS: dict[str, dict[str, Any]] = {
    "input_jacobian": {},
    "parameter_jacobian": {},
    "ntk": {"outputs": "trace"},
    "ntk_components": {"outputs": "trace"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_bytes_and_flops_of_a_function_are_as_planned(name, images):
    model, options = convolutions(), FUNCTIONS[name]
    x = images[:80] if name == "parameter_jacobian" else images
    made = es.plan(name, model, x, effort=0.5, **options)
    with Counting(CPU) as counted:
        kept = getattr(es, name)(model, x, **options)
    del kept
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)
    assert made.device_bytes == made.host_bytes  # one memory
    if "ntk" in name:  # BLAS takes triangles that the counter does not see
        assert 0.65 * counted.flops < made.flops < 4 * counted.flops
    else:
        assert made.flops == pytest.approx(counted.flops, rel=0.35)


@pytest.mark.parametrize("name", ["input", "parameters", "kernel", "gram"])
def test_the_bytes_of_a_dense_form_are_as_planned(name, images):
    operator = matrices(images)[name]
    made = es.plan(operator.dense, effort=0.5)
    with Counting(CPU) as counted:
        kept = operator.dense()
    del kept
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


def test_what_is_recorded_for_products_is_planned(images):
    hessian = es.Hessian(problem_of(images))
    block = torch.ones(hessian.shape[0], 4)
    made = es.plan(hessian, block, effort=60.0)  # all samples, however slow it is
    with Counting(CPU) as counted:
        kept = hessian @ block
    del kept
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)
    assert made.passes == 1


def test_what_is_written_is_planned(images, tmp_path):
    jacobian = es.InputJacobian(es.Problem(convolutions(), images[:50]))
    made = es.plan(jacobian.write, None, effort=0.2)
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        jacobian.write(run)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert made.disk_bytes == pytest.approx(
        sum(path.stat().st_size for path in files), rel=0.15
    )


def test_a_plan_takes_the_method_that_the_call_takes(images):
    hessian = es.Hessian(problem_of(images[:20]))
    assert "LAPACK" not in es.plan(es.spectrum, hessian, effort=0.1).method
    small = es.plan(es.spectrum, es.layer_blocks(hessian)["0.weight"], effort=0.1)
    assert small.steps[-1].method == "LAPACK evr"
    assert es.spectrum(es.layer_blocks(hessian)["0.weight"]).exact


def test_the_products_of_an_estimate_are_counted(images):
    hessian = es.Hessian(problem_of(images[:20]))
    options: dict[str, Any] = {"method": "slq", "tolerance": 0}
    options |= {"max_probes": 3, "max_steps": 4}
    made = es.plan(es.spectrum, hessian, num_outer=0, effort=0.1, **options)
    found = es.spectrum(hessian, num_outer=0, **options)
    symmetry = 2  # products that are compared before the first probe
    assert made.backward / 20 / 2 == 3 * 4
    assert found.provenance["num_matvecs"] == 3 * 4 + symmetry
    assert made.at_most == pytest.approx(made.seconds)


def test_an_estimate_that_may_take_longer_says_so(images):
    made = es.plan(es.spectrum, es.Hessian(problem_of(images[:20])), effort=0.1)
    assert made.at_most > 5 * made.seconds
    assert "products expected" in made.reason
    assert "at most" in str(made)


def test_a_plan_beyond_the_budget_does_not_fit(images):
    model = convolutions()
    call = partial(es.plan, "ntk", model, images, outputs="trace", effort=0.1)
    assert call(memory="1GiB").fits
    with pytest.raises(ValueError, match="memory budget"):
        call(memory="100kB")
    large = es.plan("input_jacobian", model, images, effort=0.1)
    assert not with_budget(large, budget=1000).fits


def with_budget(made: es.Plan, *, budget: int) -> es.Plan:
    return es.Plan(operation="same", steps=made.steps, budget=budget)


def test_a_plan_leaves_the_model_as_it_was(images):
    model = convolutions().train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    es.plan("ntk", model, images[:30], effort=0.1)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_plan_is_plain_json(images):
    made = es.plan("conjugate_kernel", convolutions(), images, effort=0.1)
    assert json.loads(json.dumps(made.to_json()))["fits"] is True


def test_the_seconds_of_steps_add_up_and_their_bytes_don_t():
    steps = tuple(
        Step(name="x", method="y", seconds=2.0, host_bytes=size, device_bytes=0)
        for size in (10, 30, 20)
    )
    made = es.Plan(operation="x", steps=steps, budget=30)
    assert (made.seconds, made.host_bytes, made.fits) == (6.0, 30, True)
    assert es.Plan.joined("two", [made, steps[0]]).seconds == 8.0


def test_memory_that_numpy_made_counts_once_it_is_met():
    with Counting(CPU) as counted:
        x = torch.ones(1000, dtype=torch.float64)
        y = torch.from_numpy(x.numpy().copy())
        y.add_(1)
        del x
        z = y @ y
    assert counted.peak == 16_000
    assert counted.flops in {0, 2000}  # a dot product has no formula in every version
    del y, z


def test_tensors_without_memory_of_their_own_do_not_disturb_the_count():
    lazy = nn.LazyLinear(3)  # its parameters have no memory yet
    left: list[torch.Tensor] = []
    torch.func.vmap(lambda row: left.append(row) or row)(torch.ones(2, 3))
    with Counting(CPU) as counted:
        y = torch.ones(5) + 1
    assert counted.peak >= y.nbytes
    del lazy, left


def test_the_flops_of_convolutions_know_their_groups():
    x = torch.ones(2, 6, 9, 9, requires_grad=True)
    weight = torch.ones(12, 2, 3, 3, requires_grad=True)
    with Counting(CPU) as counted:
        y = torch.nn.functional.conv2d(x, weight, groups=3)
        forward = counted.flops
        torch.autograd.grad(y.sum(), [x, weight])
    assert forward == 2 * y.numel() * 2 * 3 * 3
    assert counted.flops == 3 * forward


def test_what_was_there_before_counts_nothing():
    x = torch.ones(1000)
    with Counting(CPU) as counted:
        x.mul_(2)
        y = x + 1
    assert counted.peak == y.nbytes


def test_growth_is_fitted_without_negative_parts():
    assert grown([1, 2, 4], [1.0, 4.0, 16.0], powers=(2,), size=10) == pytest.approx(
        100
    )
    assert grown([1, 2, 4], [5.0, 5.0, 5.0], powers=(0, 1), size=1000) == pytest.approx(
        5, rel=0.01
    )
    assert grown([1, 2], [0.0, 0.0], powers=(0, 1), size=9) == 0.0


def test_a_time_is_said_in_two_units():
    assert format_seconds(59.99) == "60.0 s"
    assert format_seconds(3600) == "1 h"


@pytest.mark.message
def test_a_call_without_a_plan_is_refused():
    with pytest.raises(TypeError, match="call must be one of input_jacobian"):
        es.plan(es.fit_power_law, [1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="or a method of an operator"):
        es.plan("hessian")
    with pytest.raises(ValueError, match="effort must be more than 0"):
        es.plan("ntk", nn.Linear(2, 2), torch.ones(3, 2), effort=0)
    with pytest.raises(ValueError, match="goes through no samples"):
        es.plan(es.Dense(torch.eye(3)).dense)
