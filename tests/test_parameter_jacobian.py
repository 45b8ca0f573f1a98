"""Parameter Jacobians and per-sample gradients against a loop of backward passes."""

import copy
from collections.abc import Callable
from typing import Any

import parameter_zoo as zoo
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import eigenscope as es
from eigenscope.jacobian import ParameterEngine

Function = Callable[[Tensor], Tensor]


def loop_jacobian(
    model: nn.Module, inputs: Any, output: Function = lambda raw: raw
) -> dict[str, Tensor]:
    """One plain backward pass for every sample and output."""
    names, leaves = zip(*model.named_parameters(), strict=True)
    required = [leaf.requires_grad for leaf in leaves]
    model.requires_grad_()
    rows: list[list[Tensor]] = []
    for index in range(zoo.count(inputs)):
        one = zoo.sample(inputs, index)
        z = output(model(**one) if isinstance(one, dict) else model(one)).flatten()
        grads = [
            torch.autograd.grad(
                value,
                leaves,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for value in z
        ]
        rows.append([torch.stack(column) for column in zip(*grads, strict=True)])
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    for leaf, own in zip(leaves, required, strict=True):
        leaf.requires_grad = own
    return dict(zip(names, columns, strict=True))


def assert_close(found: Tensor, expected: Tensor, name: str = "") -> None:
    # Both sides are float64: sums of some hundred terms in different orders.
    torch.testing.assert_close(
        found, expected, rtol=1e-10, atol=1e-12, msg=lambda text: f"{name} {text}"
    )


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == [name for name in expected if name in found]
    for name, value in found.items():
        assert_close(value, expected[name], name)


def data_of(inputs: Any) -> Any:
    return [inputs] if isinstance(inputs, dict) else inputs


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
    monkeypatch.setattr("eigenscope.jacobian.engine._COTANGENT_BYTES", 1)
    model, inputs = zoo.build("twice")
    assert_same(es.parameter_jacobian(model, inputs), loop_jacobian(model, inputs))


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


@pytest.mark.message
def test_models_that_mix_samples_ever_so_little_are_refused():
    torch.default_generator.manual_seed(0)
    with pytest.raises(ValueError, match="depends on other samples of its batch"):
        es.parameter_jacobian(Mixes(lambda h: h + 1e-6 * h.flip(0)), torch.randn(3, 4))


class Mixes(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else self.embedding(x).sum(1)
        return self.function(self.layer(x))


@pytest.mark.message
@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize(
    "function",
    [
        lambda h: h - h.mean(0),
        lambda h: h.cumsum(0),
        lambda h: h + 1e-3 * h.flip(0),
        lambda h: h * (h.detach().sum() > 0),
    ],
    ids=["mean", "cumulative sum", "weak", "gate"],
)
def test_models_that_mix_samples_are_refused(function, tokens):
    torch.default_generator.manual_seed(0)
    model = Mixes(function)
    inputs = torch.tensor([[1, 2], [3, 4], [5, 6]]) if tokens else torch.randn(3, 4)
    if function(torch.tensor([[-3.0], [1.0]]))[1] == 0:  # needs samples that matter
        with torch.no_grad():
            model.layer.bias.zero_()
            model.layer.weight.fill_(1)
            model.embedding.weight.copy_(torch.arange(7.0).unsqueeze(1).expand(7, 4))
            model.embedding.weight[1:3] *= -20
        inputs = inputs if tokens else torch.tensor([[-3.0] * 4, [1.0] * 4])
    with pytest.raises(ValueError, match="depends on other samples of its batch"):
        es.parameter_jacobian(model, inputs)


class Overwrites(nn.Module):
    """Changes a layer's input once the layer is done, if it holds large entries."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.clone()
        y = self.layer(h)
        return y + (h.mul_(2) if (x > 5).any() else h)


def test_inputs_of_layers_that_are_overwritten_are_refused_as_autograd_does():
    model, x = Overwrites(), torch.randn(4, 4)
    assert es.parameter_jacobian(model, x)
    x[-1] = 6
    y = model(x).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, model.layer.weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        fill(ParameterEngine(es.Problem(model, x)), 2)


@pytest.mark.message
def test_batch_norm_in_training_mode_is_refused():
    model, inputs = zoo.build("vgg")
    with pytest.raises(ValueError, match="BatchNorm is in training mode"):
        es.parameter_jacobian(model.train(), inputs)


@pytest.mark.message
def test_patterns_that_match_nothing_are_refused():
    model, inputs = zoo.build("twice")
    with pytest.raises(
        ValueError, match=r"'layer.wieght' matches none.*'layer.weight'"
    ):
        es.parameter_jacobian(model, inputs, params="layer.wieght")


@pytest.mark.message
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_is_refused():
    torch.default_generator.manual_seed(0)
    model = zoo.Checkpointed(reentrant=True).double()
    with pytest.raises(ValueError, match="use_reentrant=False"):
        es.parameter_jacobian(model, torch.randn(3, 4, dtype=torch.float64))


@pytest.mark.message
def test_an_overflow_names_the_sample_and_the_parameter():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight)
    model = nn.Sequential(layer, zoo.Lambda(lambda x: x * 1e30))
    x = torch.ones(4, 2)
    x[2] = 1e20
    with pytest.raises(ValueError, match=r"sample 2 by '0.weight' holds NaN or inf"):
        es.parameter_jacobian(model, x)


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


CLASS_WEIGHTS = torch.tensor([1.0, 0.2, 3.0], dtype=torch.float64)


def loop_gradients(model: nn.Module, loss: Any, x: Any, y: Any) -> dict[str, Tensor]:
    found = [
        loop_jacobian(
            model,
            zoo.sample(x, index),
            lambda raw, index=index: loss(raw, y[index : index + 1]).reshape(1),
        )
        for index in range(zoo.count(x))
    ]
    return {name: torch.cat([f[name] for f in found])[:, 0] for name in found[0]}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("loss", "numerator"),
    [
        (nn.CrossEntropyLoss, functional.cross_entropy),
        (
            lambda reduction: nn.CrossEntropyLoss(
                weight=CLASS_WEIGHTS, ignore_index=1, reduction=reduction
            ),
            lambda raw, y: functional.cross_entropy(
                raw, y, weight=CLASS_WEIGHTS, ignore_index=1, reduction="sum"
            ),
        ),
        (
            lambda reduction: (
                lambda raw, y: functional.cross_entropy(raw, y, reduction=reduction)
            ),
            functional.cross_entropy,
        ),
    ],
    ids=["plain", "weighted", "callable"],
)
def test_gradients_are_those_of_each_samples_own_numerator(loss, numerator, reduction):
    model, x = zoo.build("vision transformer")
    y = torch.tensor([0, 1, 2, 0, 1])
    found = es.per_sample_gradients(model, loss(reduction=reduction), x, y)
    assert_same(found, loop_gradients(model, numerator, x, y))


def test_functions_of_torch_are_evaluated_without_their_mean():
    model, x = zoo.build("language model")
    y = torch.randint(0, 7, (5, 5))
    found = es.per_sample_gradients(model, functional.cross_entropy, x, y)

    def total(raw: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(raw, target, reduction="sum")

    assert_same(found, loop_gradients(model, total, x, y))


def test_a_squared_error_is_summed_over_a_samples_outputs():
    model, x = zoo.build("twice")
    y = torch.randn(5, 3, dtype=torch.float64)
    found = es.per_sample_gradients(model, nn.MSELoss(), x, y)

    def total(raw: Tensor, target: Tensor) -> Tensor:
        return (raw - target).square().sum()

    assert_same(found, loop_gradients(model, total, x, y))


def test_gradients_of_a_loop_path_model_see_their_own_targets():
    model, x = zoo.build("lstm")
    y = torch.tensor([0, 1, 1, 0, 1])
    found = es.per_sample_gradients(model, nn.CrossEntropyLoss(), x, y)
    assert_same(found, loop_gradients(model, functional.cross_entropy, x, y))


def test_gradients_take_mappings_and_parameter_patterns():
    model, x = zoo.build("dictionary")
    y = torch.randn(5, 2, dtype=torch.float64)
    found = es.per_sample_gradients(model, nn.L1Loss(), x, y, params="other.*")
    assert list(found) == ["other.weight", "other.bias"]
    whole = es.per_sample_gradients(
        model, lambda raw, target: (raw - target).abs().sum(), x, y
    )
    torch.testing.assert_close(found["other.weight"], whole["other.weight"])


def test_per_sample_gradients_can_be_differentiated():
    model, x = zoo.build("twice")
    y = torch.tensor([0, 1, 2, 0, 1])
    found = es.per_sample_gradients(
        model, nn.CrossEntropyLoss(), x, y, create_graph=True
    )
    plain = es.per_sample_gradients(model, nn.CrossEntropyLoss(), x, y)
    assert_same({k: v.detach() for k, v in found.items()}, plain)
    assert found["layer.weight"].requires_grad


@pytest.mark.message
def test_a_loss_without_one_number_per_sample_is_refused():
    model, x = zoo.build("twice")
    with pytest.raises(ValueError, match="must give one number for a batch of one"):
        es.per_sample_gradients(model, lambda raw, _: raw, x, torch.zeros(5))


@pytest.mark.message
def test_a_torch_loss_that_sums_over_samples_by_itself_is_refused():
    class Summed(nn.MSELoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
            return (input - target).sum()

    Summed.__module__ = "torch.nn.modules.loss"
    model, x = zoo.build("twice")
    with pytest.raises(ValueError, match="must have a term for every sample"):
        es.per_sample_gradients(model, Summed(), x, torch.zeros(5, 3))


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
