"""Rules that users register for their own modules: checked before they serve."""

from typing import Any

import pytest
import torch
from parameter_oracles import assert_same, loop_jacobian
from parameter_zoo import Lambda
from torch import Tensor, nn

import eigenscope as es
from eigenscope.jacobian import ParameterEngine


class Scale(nn.Module):
    """Has no rule of its own unless a test registers one."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([2.0, 3.0, 4.0, 5.0]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,d->nd", x, self.factor.exp())


def scale_rule(module: Any, inputs: tuple[Any, ...], g: Tensor) -> dict[str, Tensor]:
    return {"factor": g * inputs[0] * module.factor.exp()}


@pytest.fixture
def registered():
    yield lambda rule: es.register_rule(Scale, rule)
    es.register_rule(Scale, None)


def scale_model() -> nn.Sequential:
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), Scale(), nn.Linear(4, 3)).double()


def test_a_registered_rule_serves_its_module(registered):
    model, x = scale_model(), torch.randn(5, 4, dtype=torch.float64)
    expected = loop_jacobian(model, x)
    without = ParameterEngine(es.Problem(model, x)).coverage["1.factor"]
    assert without.path == "vmap"
    registered(scale_rule)
    served = ParameterEngine(es.Problem(model, x)).coverage["1.factor"]
    assert (served.path, served.reason) == ("rules", "rule for Scale")
    assert_same(es.parameter_jacobian(model, x), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_registered_rule_sees_the_forward_inside_the_users_hooks(registered):
    model, x = scale_model(), torch.randn(5, 4, dtype=torch.float64)
    model[1].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model[1].register_forward_hook(lambda _, __, output: output.square())
    registered(scale_rule)
    engine = ParameterEngine(es.Problem(model, x))
    assert engine.coverage["1.factor"].path == "rules"
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


def test_a_wrong_rule_is_found_out_and_not_used(registered):
    model, x = scale_model(), torch.randn(5, 4, dtype=torch.float64)
    registered(lambda _, inputs, g: {"factor": g * inputs[0]})
    served = ParameterEngine(es.Problem(model, x)).coverage["1.factor"]
    assert (served.path, served.reason) == ("vmap", "the rule disagrees with autograd")
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


def test_a_registered_rule_is_not_used_where_samples_are_not_on_axis_0(registered):
    fold = Lambda(lambda x: x.transpose(0, 1).reshape(-1, 4))
    unfold = Lambda(lambda x: x.reshape(3, -1, 4).sum(0))
    model = nn.Sequential(fold, Scale(), unfold).double()
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    registered(scale_rule)
    assert ParameterEngine(es.Problem(model, x)).coverage["1.factor"].path == "vmap"
    assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))


class Halves(nn.Module):
    """A module that leaves half of its work on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([2.0, 3.0, 4.0, 5.0]))
        self.aside: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.aside = x * self.factor
        return self.aside.square()


class UsesHalves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.halves = Halves()

    def forward(self, x: Tensor) -> Tensor:
        y = self.halves(x)
        # Nothing of it shows in the first samples.
        return y + self.halves.aside * (x[:, :1] > 0)


def test_a_rule_is_not_used_where_its_module_leaves_work_aside():
    def rule(module: Any, inputs: tuple[Any, ...], g: Tensor) -> dict[str, Tensor]:
        return {"factor": 2 * g * inputs[0].square() * module.factor}

    x = torch.randn(5, 4, dtype=torch.float64).abs()
    x[:2] *= -1
    model = UsesHalves().double()
    es.register_rule(Halves, rule)
    try:
        assert_same(es.parameter_jacobian(model, x), loop_jacobian(model, x))
    finally:
        es.register_rule(Halves, None)


@pytest.mark.message
def test_a_rule_that_forgets_a_parameter_is_refused(registered):
    registered(lambda *_: {})
    x = torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must return .* for 'factor'.*nothing"):
        es.parameter_jacobian(scale_model(), x)


@pytest.mark.message
def test_rules_are_registered_for_types_of_modules():
    with pytest.raises(TypeError, match=r"must be a subclass of torch\.nn\.Module"):
        es.register_rule(nn.Linear(2, 2), None)  # type: ignore[arg-type]
