"""Parameter Jacobians against a loop of plain backward passes."""

import copy
from typing import Any

import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import assert_close, assert_same, data_of, loop_jacobian
from torch import Tensor, nn

import eigenscope as es
from eigenscope.jacobian import ParameterEngine


def engine_of(name: str) -> ParameterEngine:
    model, inputs = zoo.build(name)
    return ParameterEngine(es.Problem(model, data_of(inputs)))


def fill(engine: ParameterEngine, chunk_size: int) -> dict[str, Tensor]:
    problem = engine.problem
    shape = (problem.num_samples, engine.num_outputs)
    results = {
        name: torch.full((*shape, *p.shape), torch.nan, dtype=p.dtype)
        for name, p in problem.params.items()
    }
    for batch in engine.chunks(chunk_size):
        rows = slice(batch.start, batch.start + batch.size)
        engine.fill(batch, {name: r[rows] for name, r in results.items()})
    return results


@pytest.mark.parametrize("name", zoo.CASES)
def test_the_jacobian_is_that_of_a_loop_over_samples_and_outputs(name):
    model, inputs = zoo.build(name)
    found = es.parameter_jacobian(model, inputs)
    assert list(found) == [n for n, p in model.named_parameters() if p.requires_grad]
    assert_same(found, loop_jacobian(model, inputs))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "name", ["vgg", "language model", "raw use", "lstm", "experts", "windows"]
)
def test_any_chunking_gives_the_same(name, chunk_size):
    model, inputs = zoo.build(name)
    assert_same(fill(engine_of(name), chunk_size), loop_jacobian(model, inputs))


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("vgg", {"rules"}),
        ("resnet", {"rules"}),
        ("convnext", {"rules"}),
        ("vision transformer", {"rules"}),
        ("language model", {"rules"}),
        ("squared", {"rules"}),
        ("weight norm", {"rules"}),
        ("elementwise", {"rules"}),
        ("dictionary", {"rules"}),
        ("embedding bag", {"rules"}),
        ("twice", {"rules"}),
        ("stash", {"rules"}),
        ("custom", {"rules"}),
        ("cross attention", {"rules"}),
        ("attention with extras", {"rules"}),
        ("class token by repeat", {"rules"}),
        ("windows", {"rules"}),
        ("checkpointed", {"rules"}),
        ("raw use", {"rules", "vmap"}),
        ("looped", {"vmap"}),
        ("lstm", {"rules", "loop"}),
        ("experts", {"loop"}),
        ("unused", {"rules", "unused"}),
    ],
)
def test_the_coverage_says_which_path_served_a_parameter(name, paths):
    engine = engine_of(name)
    fill(engine, zoo.SAMPLES)
    assert {served.path for served in engine.coverage.values()} == paths
    assert list(engine.coverage) == list(engine.problem.params)


def test_a_raw_use_of_a_layers_weight_sends_only_that_weight_to_autograd():
    engine = engine_of("raw use")
    by_autograd = {n for n, s in engine.coverage.items() if s.path != "rules"}
    assert by_autograd == {"layer.weight"}


@pytest.mark.parametrize(
    ("output", "function"),
    [
        ("probabilities", lambda raw: torch.softmax(raw, 1)),
        ("log_probabilities", lambda raw: torch.log_softmax(raw, 1)),
        (lambda raw: raw[:, 1:].square(), lambda raw: raw[:, 1:].square()),
    ],
    ids=["probabilities", "log_probabilities", "callable"],
)
@pytest.mark.parametrize("name", ["vgg", "lstm", "raw use"])
def test_outputs_are_transformed_before_they_are_differentiated(name, output, function):
    model, inputs = zoo.build(name)
    found = es.parameter_jacobian(model, inputs, output=output)
    assert_same(found, loop_jacobian(model, inputs, function))


def test_frozen_parameters_are_left_out_unless_they_are_named():
    model, inputs = zoo.build("unused")
    assert "frozen.weight" not in es.parameter_jacobian(model, inputs)
    found = es.parameter_jacobian(model, inputs, params=["frozen.*", "used.bias"])
    assert list(found) == ["used.bias", "frozen.weight", "frozen.bias"]
    assert_same(found, loop_jacobian(model, inputs))


def test_unused_parameters_have_zero_rows():
    model, inputs = zoo.build("unused")
    found = es.parameter_jacobian(model, inputs)["unused.weight"]
    assert found.shape == (zoo.SAMPLES, 3, 3, 4)
    assert not found.any()


def test_tied_parameters_count_all_their_uses_under_their_first_name():
    model, inputs = zoo.build("language model")
    found = es.parameter_jacobian(model, inputs)
    assert "decoder.weight" not in found
    expected = loop_jacobian(model, inputs)["tokens.weight"]
    assert_close(found["tokens.weight"], expected)


@pytest.mark.parametrize("name", ["vision transformer", "lstm", "unused", "twice"])
def test_the_model_is_left_as_it_was(name):
    model, inputs = zoo.build(name)
    model.train()  # no dropout, no batch norm
    before = copy.deepcopy(model.state_dict())
    required = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    for dropout in model.modules():
        if isinstance(dropout, nn.Dropout):
            dropout.p = 0.0
        if isinstance(dropout, nn.MultiheadAttention):
            dropout.dropout = 0.0
    es.parameter_jacobian(model, inputs, params="*")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [p.requires_grad for p in model.parameters()] == required
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_gradient_modes_of_the_caller_do_not_matter():
    model, inputs = zoo.build("vgg")
    expected = loop_jacobian(model, inputs)
    with torch.no_grad():
        assert_same(es.parameter_jacobian(model, inputs), expected)
    with torch.inference_mode():
        found = es.parameter_jacobian(model, inputs.clone())
    assert_same(found, expected)


def test_input_shapes_may_change_between_batches():
    model, _ = zoo.build("vision transformer")
    draw = torch.Generator().manual_seed(1)
    sizes = [(4, 6), (3, 4), (2, 6)]
    batches = [
        torch.randn(n, 1, s, s, generator=draw, dtype=torch.float64) for n, s in sizes
    ]
    engine = ParameterEngine(es.Problem(model, batches))
    for batch in engine.chunks():
        results = {
            name: torch.empty(batch.size, 3, *p.shape, dtype=p.dtype)
            for name, p in engine.problem.params.items()
        }
        engine.fill(batch, results)
        assert_same(results, loop_jacobian(model, batch.inputs))


def test_half_the_outputs_at_a_time_give_the_same(monkeypatch):
    monkeypatch.setattr("eigenscope.jacobian.engine.COTANGENT_BYTES", 1)
    model, inputs = zoo.build("twice")
    assert_same(es.parameter_jacobian(model, inputs), loop_jacobian(model, inputs))


def test_large_activations_go_through_in_smaller_chunks():
    def chunk_size(side: int) -> int:
        model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.AvgPool2d(side), nn.Flatten())
        x = torch.ones(2, 1, side, side, dtype=torch.float64)
        return ParameterEngine(es.Problem(model.double(), x)).chunk_size

    assert chunk_size(8) == 128
    assert chunk_size(256) == 2**26 // (8 * 8 * 256**2)


def test_gradients_of_layers_whose_activations_are_dead_on_the_first_samples():
    """Layouts that the first samples cannot show are found later."""
    torch.default_generator.manual_seed(0)
    layer = nn.Linear(4, 4)
    fold = zoo.Lambda(lambda x: x.transpose(0, 1).reshape(-1, 4))
    unfold = zoo.Lambda(lambda x: x.reshape(3, -1, 4).sum(0))
    model = nn.Sequential(fold, nn.ReLU(), layer, unfold).double()
    gate = zoo.Lambda(lambda x: x * (x.mean((1, 2), keepdim=True) > 0))
    first = nn.Linear(4, 4)
    nn.init.constant_(first.bias, -1)
    model = nn.Sequential(gate, first, nn.ReLU(), model).double()
    inputs = torch.rand(6, 3, 4, dtype=torch.float64)
    inputs[:2] = -inputs[:2]
    assert_same(es.parameter_jacobian(model, inputs), loop_jacobian(model, inputs))


def test_rows_that_data_move_are_traced_in_every_chunk():
    """Each expert always gets as many rows as there are samples, but whose?"""
    torch.default_generator.manual_seed(0)
    model = zoo.Experts().double()
    x = torch.randn(4, 2, 4, dtype=torch.float64)
    signs = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    x[:, :, 0] = x[:, :, 0].abs() * signs
    engine = ParameterEngine(es.Problem(model, x))
    assert {served.path for served in engine.coverage.values()} == {"rules"}
    assert_same(fill(engine, 2), loop_jacobian(model, x))
    assert {served.path for served in engine.coverage.values()} == {"loop"}


class Hidden(nn.Module):
    """Keeps a second reference to its parameter where no module looks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.aside = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,de->ne", x, self.aside[0]).tanh()


def test_hidden_references_to_parameters_are_differentiated_all_the_same():
    torch.default_generator.manual_seed(0)
    model, x = Hidden(), torch.randn(4, 4, dtype=torch.float64)
    model.weight.data = model.weight.data.double()
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


class Counts(nn.Module):
    """Counts its calls and draws numbers that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += torch.rand(()) + 1
        return self.layer(x)


def test_buffers_and_random_states_that_passes_change_are_given_back():
    model, x = Counts(), torch.randn(4, 4)
    state = torch.get_rng_state()
    es.parameter_jacobian(model, x)
    assert model.calls == 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["vgg", "squared", "vision transformer", "raw use"])
def test_the_result_can_be_differentiated_by_the_parameters(name):
    model, inputs = zoo.build(name)
    names = [n for n, _ in model.named_parameters()][:3]
    found = es.parameter_jacobian(model, inputs, create_graph=True)
    ours = torch.stack([found[n].pow(3).sum() for n in names]).sum()
    leaves = list(model.parameters())
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        cubes = [_cubes(model, inputs, index, names) for index in range(5)]
        wanted = torch.autograd.grad(torch.stack(cubes).sum(), leaves, **options)
    got = torch.autograd.grad(ours, leaves, **options)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def _cubes(model: nn.Module, inputs: Tensor, index: int, names: list[str]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    leaves = [dict(model.named_parameters())[name] for name in names]
    for value in model(inputs[index : index + 1]).flatten():
        for grad in torch.autograd.grad(value, leaves, create_graph=True):
            total = total + grad.pow(3).sum()
    return total


def test_the_result_can_be_differentiated_by_the_inputs():
    model, _ = zoo.build("twice")
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    J = es.parameter_jacobian(model, x, create_graph=True)["layer.weight"]
    (found,) = torch.autograd.grad(J.pow(2).sum(), x)
    step = 1e-6 * torch.eye(4, dtype=torch.float64)[2]
    for row in range(3):
        moved = [x.detach().clone() for _ in range(2)]
        moved[0][row] += step
        moved[1][row] -= step
        above, below = (
            loop_jacobian(model, m)["layer.weight"].pow(2).sum() for m in moved
        )
        slope = (above - below) / 2e-6
        # Central differences of step 1e-6 err by about 1e-8 relatively.
        torch.testing.assert_close(found[row, 2], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_models_dtype(dtype):
    model, inputs = zoo.build("vgg")
    expected = loop_jacobian(model, inputs)
    found = es.parameter_jacobian(model.to(dtype), inputs)
    for name, value in found.items():
        assert value.dtype == dtype
        # A few rounding errors of the working precision, relative to the largest.
        error = (value.double() - expected[name]).abs().max()
        assert error <= 30 * torch.finfo(dtype).eps * expected[name].abs().max()
