"""Every acceleration of the input Jacobian: where it is taken, and that it is exact."""

from typing import Any

import oracles
import pytest
import torch
import zoo
from engine_blocks import blocks, gradients_at
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

import eigenscope as es
from eigenscope.jacobian import EngineSettings, InputJacobianEngine


@pytest.fixture(autouse=True)
def _fast(monkeypatch) -> None:
    monkeypatch.setattr("eigenscope.jacobian.inputs._MIN_ROWS_TO_ACCELERATE", 0)


@pytest.mark.parametrize("output", ["logits", "probabilities", "log_probabilities"])
def test_a_bottleneck_takes_as_many_backward_passes_as_it_has_features(output):
    case = zoo.make("bottleneck")
    problem = es.Problem(case.model, case.batches, output=output)
    engine = InputJacobianEngine(problem)
    assert engine.settings.bottleneck == "2"
    passes = gradients_at(case.model[0])
    result = torch.empty(7, 7, 8).double()
    engine.fill(problem.batches.first(7), [output], [result])
    assert len(passes) == 3
    expected = oracles.jacobian(case.model, case.batches, output)
    assert_close(result, expected, rtol=1e-12, atol=1e-13)


class InPlace(nn.Module):
    """A wide last layer whose output is changed afterwards."""

    def __init__(self, change) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)
        self.last = nn.Linear(2, 6)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.last(torch.tanh(self.inner(x))))


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z.mul_(2),
        lambda z: z.relu_(),
        lambda z: z + z**2,
        torch.sigmoid,
    ],
    ids=["in place", "relu in place", "square", "sigmoid"],
)
def test_a_wide_layer_that_is_not_the_output_is_no_bottleneck(change):
    model = zoo.randomized(InPlace(change), torch.Generator().manual_seed(0))
    problem = es.Problem(model, torch.randn(5, 4).double())
    assert InputJacobianEngine(problem).settings.bottleneck is None


def test_a_layer_that_is_the_output_for_the_first_samples_only_is_no_bottleneck():
    model = InPlace(lambda z: z.relu_()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
        model.last.bias.zero_()
    x = torch.tensor([[1.0], [2.0], [-9.0], [-8.0]]).expand(4, 4).double()
    problem = es.Problem(model, x)
    assert InputJacobianEngine(problem).settings.bottleneck is None
    expected = oracles.jacobian(model, [x], "logits")
    assert not expected[2:].any()
    assert_close(blocks(problem), expected, rtol=1e-12, atol=1e-13)


def test_a_wide_layer_with_a_hook_or_a_forward_of_its_own_is_no_bottleneck():
    hooked = zoo.make("bottleneck")
    hooked.model[2].register_forward_hook(lambda *call: call[2] * 3)
    patched = zoo.make("bottleneck")
    forward = patched.model[2].forward
    patched.model[2].forward = lambda x: torch.tanh(forward(x))
    for case in (hooked, patched):
        problem = es.Problem(case.model, case.batches)
        assert InputJacobianEngine(problem).settings.bottleneck is None
        expected = oracles.jacobian(case.model, case.batches, "logits")
        assert_close(blocks(problem), expected, rtol=1e-12, atol=1e-13)


FOLDED = {"conv_norm": 2, "residual": 2}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_batch_norms_are_folded_where_they_follow_a_layer(name):
    case = zoo.make(name)
    engine = InputJacobianEngine(es.Problem(case.model, case.batches))
    assert engine.settings.num_folded == FOLDED.get(name, 0)
    assert engine.settings.accelerated == (name in FOLDED)


class OnTheWay(nn.Module):
    """BatchNorm folds only where nobody else sees or shares the layer before it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
        self.other = nn.Conv2d(2, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.last = nn.BatchNorm2d(2)
        if kind == "tied weight":
            self.other = nn.Conv2d(2, 2, 3, padding=1)
            self.other.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        last = self.norm if self.kind == "twice the norm" else self.last
        z = self.conv(x)
        if self.kind == "twice the layer":
            z = self.norm(self.conv(z))
        elif self.kind == "seen by another":
            z = self.norm(z) * z
        else:
            z = self.norm(z)
        return last(self.other(torch.tanh(z))).flatten(1)


@pytest.mark.parametrize(
    ("kind", "num_folded"),
    [
        ("twice the layer", 1),
        ("seen by another", 1),
        ("twice the norm", 2),
        ("tied weight", 2),
        ("layer in training mode", 2),
    ],
)
def test_shared_layers_and_norms_fold_only_where_that_is_exact(
    kind, num_folded, generator
):
    model = zoo.randomized(OnTheWay(kind), generator)
    model.conv.train(kind == "layer in training mode")
    data = [torch.randn(n, 2, 4, 4, generator=generator).double() for n in (2, 3)]
    problem = es.Problem(model, data)
    engine = InputJacobianEngine(problem)
    assert engine.settings.num_folded == num_folded
    expected = oracles.jacobian(model, data, "logits")
    assert_close(blocks(problem), expected, rtol=1e-12, atol=1e-12)


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).view(x.size(0), -1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(self.conv(x), 2).flatten(1)


class Method(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).amax((2, 3))


@pytest.mark.parametrize(
    ("build", "channels", "expected"),
    [
        (zoo.conv_norm, 2, True),
        (zoo.Residual, 2, True),
        (zoo.lenet, 1, False),
        (Functional, 1, False),
        (Method, 1, False),
        (Viewed, 2, False),
    ],
    ids=["conv_norm", "residual", "lenet", "functional", "method", "view"],
)
def test_channels_last_is_taken_where_no_tie_and_no_view_forbids_it(
    build, channels, expected, generator
):
    model = zoo.randomized(build(), generator).float()
    x = torch.randn(6, channels, 10, 10, generator=generator)
    engine = InputJacobianEngine(es.Problem(model, x))
    assert engine.settings.channels_last == expected
    assert engine.settings.accelerated == (expected or build is Viewed)
    found = es.input_jacobian(model, x)
    exact = oracles.jacobian(model.double(), [x.double()], "logits")
    # Single precision through a handful of layers.
    assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


def test_tied_maxima_keep_the_rule_of_the_plain_path():
    case = zoo.make("lenet")
    flat = torch.zeros(40, 1, 10, 10)
    flat[:, :, 4:6, 4:6] = torch.randn(40, 1, 2, 2, generator=torch.Generator())
    model = case.model.float()
    found = es.input_jacobian(model, flat)
    expected = oracles.jacobian(model, [flat], "logits")
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_settings_of_an_engine_repeat_it_bit_for_bit(name):
    case = zoo.make(name)
    first = InputJacobianEngine(es.Problem(case.model, case.batches))
    recorded: Any = first.settings.to_json()
    again = EngineSettings(**recorded)
    problem = es.Problem(case.model, case.batches)
    assert InputJacobianEngine(problem, settings=again).settings == first.settings
    assert torch.equal(blocks(problem, again), blocks(problem))


SEEN: list[object] = []  # what networks were called with


class Weird(nn.Module):
    """What tracing, copying or another dtype cannot cope with."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(2, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.offset = self.conv.weight.sum()  # not a leaf
        if kind != "non-leaf tensor":
            self.offset = self.offset.detach()
        if kind == "parametrized":
            nn.utils.parametrizations.weight_norm(self.conv)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        SEEN.append(x)
        if self.kind == "single precision":
            x = x.float() @ torch.ones(5, 5)
        if self.kind == "python type" and not isinstance(x, Tensor):
            x = x * 2
        if scale is not None:
            x = x * scale
        z = self.norm(self.conv(x)).flatten(1)
        return z + self.offset.to(z.dtype) if self.kind == "non-leaf tensor" else z


@pytest.mark.parametrize(
    "kind",
    ["non-leaf tensor", "single precision", "python type", "parametrized", "optional"],
)
def test_what_cannot_be_accelerated_takes_the_plain_path(kind, generator):
    model = zoo.randomized(Weird(kind), generator).float()
    x = torch.randn(5, 2, 5, 5, generator=generator)
    problem = es.Problem(model, x)
    SEEN.clear()
    found = blocks(problem)
    assert isinstance(SEEN[-1], Tensor)
    assert not InputJacobianEngine(problem).settings.num_folded
    expected = oracles.jacobian(model, [x], "logits")
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_two_kinds_of_weights_are_not_cast_to_one(generator):

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3)
            self.norm = nn.BatchNorm2d(2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).double()).flatten(1)

    model = Mixed().eval()
    x = torch.randn(3, 2, 4, 4, generator=generator)
    engine = InputJacobianEngine(es.Problem(model, x))
    assert not engine.settings.accelerated


def test_a_hook_of_the_user_runs_in_every_pass_and_on_tensors():
    case = zoo.make("conv_norm")
    seen: list[Any] = []
    case.model[0].register_forward_hook(lambda *call: seen.append(call[2]))
    problem = es.Problem(case.model, case.batches)
    assert not InputJacobianEngine(problem).settings.accelerated
    seen.clear()
    blocks(problem)
    assert all(isinstance(output, Tensor) for output in seen)
    # The first chunk is compared with two parts of it.
    assert [len(output) for output in seen[-5:]] == [3, 2, 2, 3, 1]


def test_autocast_gives_the_jacobian_of_the_cast_network():
    case = zoo.make("bottleneck")
    case.model.float()
    expected = blocks(es.Problem(case.model, case.batches, output="probabilities"))
    with torch.autocast("cpu", torch.bfloat16):
        problem = es.Problem(case.model, case.batches, output="probabilities")
        assert InputJacobianEngine(problem).settings.bottleneck == "2"
        found = blocks(problem)
    assert found.dtype == torch.bfloat16
    assert_close(found.float(), expected, rtol=0.1, atol=0.01)


def test_the_chunk_holds_no_more_rows_than_memory(monkeypatch):
    monkeypatch.setattr("eigenscope.jacobian.inputs.resolve", lambda _: 4 * 5000)
    case = zoo.make("mlp")
    engine = InputJacobianEngine(es.Problem(case.model, case.batches))
    # Rows of one sample twice, 2 · 4 · 6 · 8 bytes, and its activations of 160 bytes.
    assert 5000 // 700 <= engine.settings.chunk_size <= 5000 // 384
