"""Plans: what is predicted is what happens."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.planning.counting import Bystanders, Counting
from eigenscope.planning.rehearsal import grown
from eigenscope.planning.words import format_count, format_passes, format_seconds

CPU = torch.device("cpu")
ALL = 1e6  # seconds that no rehearsal takes: all samples, however slow it is
BRIEF = 1e-3


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 5)
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(96, 1, 12, 12, generator=torch.Generator().manual_seed(7))


def problem_of(images: torch.Tensor) -> es.Problem:
    labels = torch.arange(len(images)) % 5
    return es.Problem(convolutions(), (images, labels), loss=nn.CrossEntropyLoss())


MATRICES: dict[str, Any] = {
    "input": lambda x: es.InputJacobian(es.Problem(convolutions(), x)),
    "parameters": lambda x: es.ParameterJacobian(es.Problem(convolutions(), x)),
    "kernel": lambda x: es.NTK(es.Problem(convolutions(), x), outputs="trace"),
    "gram": lambda x: es.gram(es.InputJacobian(es.Problem(convolutions(), x))),
}

FUNCTIONS: dict[str, dict[str, Any]] = {
    "input_jacobian": {},
    "parameter_jacobian": {},
    "ntk": {"outputs": "trace"},
    "ntk_components": {"outputs": "trace"},
    "projected_ntk": {"outputs": "trace", "num_projections": 16},
    "conjugate_kernel": {},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_bytes_and_flops_of_a_function_are_as_planned(name, images):
    model, options = convolutions(), FUNCTIONS[name]
    made = es.plan(name, model, images, effort=0.05, **options)
    with Counting(CPU) as counted:
        kept = getattr(es, name)(model, images, **options)
    del kept
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)
    assert made.device_bytes == made.host_bytes  # one memory
    if "ntk" in name:  # BLAS takes triangles that the counter does not see
        assert 0.65 * counted.flops < made.flops < 4 * counted.flops
    elif name != "conjugate_kernel":
        assert made.flops == pytest.approx(counted.flops, rel=0.35)


@pytest.mark.parametrize("name", MATRICES)
def test_the_bytes_of_a_dense_form_are_as_planned(name, images):
    operator = MATRICES[name](images)
    made = es.plan(operator.dense, effort=BRIEF)
    with Counting(CPU) as counted:
        kept = operator.dense()
    del kept
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


def test_the_diagonal_of_a_gauss_newton_matrix_is_planned_by_its_rows(images):
    operator = es.GaussNewton(problem_of(images.repeat(8, 1, 1, 1)))
    made = es.plan(operator.diagonal, effort=0.01)
    with Counting(CPU) as counted:
        operator.diagonal()
    assert made.rehearsed_samples < len(images) * 8
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


def test_what_is_recorded_for_products_is_planned(images):
    hessian = es.Hessian(problem_of(images))
    block = torch.ones(hessian.shape[0], 4)
    made = es.plan(hessian, block, effort=ALL)
    with Counting(CPU) as counted:
        kept = hessian @ block
    del kept
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)
    assert made.passes == 1


def test_what_is_written_is_planned(images, tmp_path):
    jacobian = es.InputJacobian(es.Problem(convolutions(), images[:50]))
    made = es.plan(jacobian.write, None, effort=BRIEF)
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        jacobian.write(run)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert made.disk_bytes == pytest.approx(
        sum(path.stat().st_size for path in files), rel=0.15
    )


@pytest.mark.parametrize("memory", ["300kB", None])
def test_the_bytes_of_a_kernel_that_is_written_are_as_planned(memory, images, tmp_path):
    problem = es.Problem(convolutions(), images)
    kernel = es.NTK(problem, outputs="trace", method="jacobian", memory=memory)
    made = es.plan(kernel.write, None, effort=BRIEF)
    run = es.Run.create(tmp_path / "run", verb="test", arguments={})
    with run, Counting(CPU) as counted:
        kernel.write(run)
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


def test_a_plan_takes_the_method_that_the_call_takes(images):
    hessian = es.Hessian(problem_of(images[:20]))
    block = es.layer_blocks(hessian)["0.weight"]
    small = es.plan(es.spectrum, block, effort=BRIEF)
    assert small.steps[-1].method == "LAPACK evr"
    assert es.spectrum(block).exact


def test_the_products_of_an_estimate_are_counted(images):
    hessian = es.Hessian(problem_of(images[:20]))
    options: dict[str, Any] = {"method": "slq", "tolerance": 0}
    options |= {"max_probes": 3, "max_steps": 4}
    made = es.plan(es.spectrum, hessian, num_outer=0, effort=BRIEF, **options)
    found = es.spectrum(hessian, num_outer=0, **options)
    symmetry = 2  # products that are compared before the first probe
    assert made.backward / 20 / 2 == 3 * 4
    assert found.provenance["num_matvecs"] == 3 * 4 + symmetry
    assert made.at_most == pytest.approx(made.seconds)


def test_an_estimate_that_may_take_longer_says_so(images):
    hessian = es.Hessian(problem_of(images[:20]))
    made = es.plan(es.spectrum, hessian, method="slq", effort=BRIEF)
    assert made.at_most > 5 * made.seconds
    assert "products expected" in made.reason
    assert "at most" in str(made)


@pytest.mark.parametrize("count", [24, 40])
@pytest.mark.parametrize("method", ["xtrace", "hutch++", "hutchinson"])
def test_the_vectors_of_a_trace_are_counted(method, count):
    problem = es.Problem(
        nn.Linear(200, 50),
        (torch.ones(4, 200), torch.arange(4)),
        loss=nn.CrossEntropyLoss(),
    )
    options: dict[str, Any] = {"num_matvecs": count, "method": method}
    made = es.plan(es.trace, es.Hessian(problem), effort=BRIEF, **options)
    with Counting(CPU) as counted:
        es.trace(es.Hessian(problem), **options)
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)
    assert made.backward / 4 / 2 == count


@pytest.mark.parametrize("method", ["slq", "kpm"])
@pytest.mark.parametrize("outer", [0, 20])
def test_the_vectors_of_a_density_are_counted(method, outer):
    problem = es.Problem(
        nn.Linear(1000, 50),
        (torch.ones(4, 1000), torch.arange(4)),
        loss=nn.CrossEntropyLoss(),
    )
    options: dict[str, Any] = {"method": method, "num_outer": outer, "tolerance": 0}
    options |= {"max_probes": 8, "max_steps": 6}
    made = es.plan(es.spectrum, es.Hessian(problem), effort=BRIEF, **options)
    with Counting(CPU) as counted:
        es.spectrum(es.Hessian(problem), **options)
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


def test_a_verification_takes_the_products_that_are_planned(images):
    operator = es.GaussNewton(problem_of(images[:20]))
    made = es.plan(es.verify, operator, effort=BRIEF)
    taken = es.verify(operator).num_matvecs
    expected = made.backward / 20 / 2
    assert expected <= taken <= expected * made.at_most / made.seconds


def test_functions_of_a_spectrum_that_is_there_cost_nothing(images):
    found = es.Spectrum.from_eigenvalues([1.0, 2.0])
    assert es.plan(es.log_determinant, found).seconds == 0
    operator = es.GaussNewton(problem_of(images[:20]))
    through = es.plan(es.norm, operator, "spectral", effort=BRIEF)
    assert "1 eigenpairs" in [step.name for step in through.steps]


def test_a_plan_beyond_the_budget_does_not_fit(images):
    call = partial(
        es.plan, "ntk", convolutions(), images, outputs="trace", effort=BRIEF
    )
    assert call(memory="1GiB").fits
    with pytest.raises(ValueError, match="memory budget"):
        call(memory="10kB")


def test_a_basis_beyond_the_budget_is_planned_on_disk(images):
    hessian = es.Hessian(problem_of(images))
    options: dict[str, Any] = {"method": "slq", "effort": BRIEF}
    roomy = es.plan(es.spectrum, hessian, **options)
    small = es.plan(es.spectrum, hessian, memory="100kB", **options)
    assert roomy.disk_bytes == 0
    whole = small.disk_bytes + 100_000  # of the basis
    assert roomy.host_bytes - small.host_bytes == pytest.approx(
        whole - 100_000, rel=0.15
    )


def test_a_plan_takes_the_budget_of_its_operator(images):
    problem = problem_of(images)
    made = es.plan(es.NTK(problem, memory="90kB").write, None, effort=BRIEF)
    assert made.budget == 90_000
    roomy = es.Hessian(problem)
    block = torch.ones(roomy.shape[1], 2)
    held = es.plan(roomy, block, effort=BRIEF).host_bytes
    small = es.plan(es.Hessian(problem, memory=held // 4), block, effort=BRIEF)
    assert small.budget == held // 4
    operator = es.Hessian(problem, memory=held // 4)
    with Counting(CPU) as counted:
        kept = operator @ block
    del kept
    assert small.host_bytes == pytest.approx(counted.peak, rel=0.3)
    assert small.host_bytes < 0.5 * held


def test_a_plan_leaves_the_model_as_it_was(images):
    model = convolutions().train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    es.plan("ntk", model, images[:30], effort=BRIEF)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_plan_is_plain_json(images):
    made = es.plan("conjugate_kernel", convolutions(), images, effort=BRIEF)
    assert json.loads(json.dumps(made.to_json()))["fits"] is True


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


def test_what_came_between_two_counts_counts_nothing_and_is_not_kept():
    with Bystanders() as before:
        between = torch.ones(1000)
        with Counting(CPU, before) as counted:
            y = between + 1
            held = counted.now
            del y
            left = counted.now
    assert (counted.peak, held, left) == (4000, 4000, 0)


def test_growth_is_fitted_without_negative_parts():
    assert grown([1, 2, 4], [1.0, 4.0, 16.0], powers=(2,), size=10) == pytest.approx(
        100
    )
    assert grown([1, 2, 4], [5.0, 5.0, 5.0], powers=(0, 1), size=1000) == pytest.approx(
        5, rel=0.01
    )
    assert grown([1, 2], [0.0, 0.0], powers=(0, 1), size=9) == 0.0


def test_numbers_are_said_as_people_read_them():
    assert format_seconds(59.99) == "1 min"
    assert format_seconds(3600) == "1 h"
    assert format_seconds(0.0999) == "< 0.1 s"
    assert format_count(2.5e12) == "2.5 T"
    assert format_count(99_999_999) == "100 M"
    assert format_passes(2.0, 600, 1800) == "2 + 6"


@pytest.mark.message
def test_a_call_without_a_plan_is_refused():
    with pytest.raises(TypeError, match="call must be one of input_jacobian"):
        es.plan(es.gram, [1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="or a method of an operator"):
        es.plan("hessian")
    with pytest.raises(ValueError, match="effort must be more than 0"):
        es.plan("ntk", nn.Linear(2, 2), torch.ones(3, 2), effort=0)
    with pytest.raises(ValueError, match="goes through no samples"):
        es.plan(es.Dense(torch.eye(3)).dense)
