"""What parameter Jacobians refuse, and what they say."""

import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import Function
from torch import Tensor, nn

import eigenscope as es


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
        es.ParameterJacobian(es.Problem(model, x, batch_size=2)).dense()


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


@pytest.mark.message
def test_models_that_mix_samples_ever_so_little_are_refused():
    torch.default_generator.manual_seed(0)
    with pytest.raises(ValueError, match="depends on other samples of its batch"):
        es.parameter_jacobian(Mixes(lambda h: h + 1e-6 * h.flip(0)), torch.randn(3, 4))


@pytest.mark.message
def test_jacobians_that_exceed_the_budget_are_refused_with_the_way_out():
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    assert es.parameter_jacobian(model, x, memory=15 * 15 * 4)
    with pytest.raises(
        ValueError,
        match=r"the 15 × 15 Jacobian .* of 899 B; 900 B are needed.*params=, or write "
        r"it to a run: es\.ParameterJacobian\(problem\)\.write\(run\)",
    ):
        es.parameter_jacobian(model, x, memory=15 * 15 * 4 - 1)


@pytest.mark.message
def test_gradients_that_exceed_the_budget_are_refused_with_the_way_out():
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"the 5 × 15 Jacobian .*some samples at a ti"):
        es.per_sample_gradients(
            model, nn.MSELoss(), x, torch.randn(5, 3), memory="200 B"
        )


@pytest.mark.message
@pytest.mark.parametrize(
    ("output", "shape"),
    [
        (lambda raw: raw.sum(), r"\(\)"),
        (lambda raw: raw.mean(0), r"\(3,\)"),
        (lambda raw: raw[:, :0], r"\(4, 0\)"),
    ],
    ids=["a scalar", "no samples", "nothing"],
)
def test_outputs_that_are_not_a_row_per_sample_are_refused(output, shape):
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    with pytest.raises(ValueError, match=f"must keep the . samples .* shape {shape}"):
        es.parameter_jacobian(model, x, output=output)


@pytest.mark.message
def test_models_without_a_sample_axis_are_refused():
    model = nn.Sequential(nn.Linear(4, 3), zoo.Lambda(lambda x: x.sum(0)))
    with pytest.raises(ValueError, match=r"one row per sample; 4 samples gave shape"):
        es.parameter_jacobian(model, torch.randn(4, 4))


class Root(nn.Module):
    """Has finite outputs, and no derivative where its layer gives zero."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3, bias=False)
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).abs() ** self.power


def _problem_of(power: float) -> es.Problem:
    torch.default_generator.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64)
    x[3] = 0
    targets = torch.tensor([0, 1, 2, 0, 1])
    loss = nn.CrossEntropyLoss()
    return es.Problem(Root(power).double(), (x, targets), loss=loss, batch_size=2)


PRODUCTS = {
    "J V": lambda p: es.ParameterJacobian(p) @ torch.ones(12, 2).double(),
    "few": lambda p: es.ParameterJacobian(p).T @ torch.ones(15).double(),
    "many": lambda p: es.ParameterJacobian(p).T @ torch.ones(15, 5).double(),
    "row norms": lambda p: es.ParameterJacobian(p).squared_row_norms(),
    "column norms": lambda p: es.ParameterJacobian(p).squared_column_norms(),
    "kernel": lambda p: es.NTK(p) @ torch.ones(15).double(),
    "kernel diagonal": lambda p: es.NTK(p).diagonal(),
    "Hessian": lambda p: es.Hessian(p) @ torch.ones(12).double(),
    "Gauss-Newton": lambda p: es.GaussNewton(p) @ torch.ones(12).double(),
    "Fisher": lambda p: es.Fisher(p, kind="empirical") @ torch.ones(12).double(),
}


@pytest.mark.message
@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_products_name_the_sample_whose_derivative_is_infinite(product):
    problem = _problem_of(0.5)
    named = r"must be finite; .*(sample 3 by 'layer.wei|samples 2 to 3 give NaN)"
    with pytest.raises(ValueError, match=named):
        product(problem)


@pytest.mark.message
def test_an_infinite_second_derivative_is_refused():
    hessian = es.Hessian(_problem_of(1.5))
    with pytest.raises(ValueError, match="must be finite; samples 2 to 3 give NaN"):
        _ = hessian @ torch.ones(12).double()


@pytest.mark.message
def test_models_without_parameters_have_no_parameter_jacobian():
    with pytest.raises(ValueError, match="Jacobian needs parameters; the model has no"):
        es.parameter_jacobian(nn.ReLU(), torch.eye(2))
    x = torch.eye(2)
    with pytest.raises(ValueError, match="gradients need parameters; the model has no"):
        es.per_sample_gradients(nn.ReLU(), nn.MSELoss(), x, x)


@pytest.mark.message
@pytest.mark.parametrize(
    ("loss", "y", "error", "message"),
    [
        (None, torch.zeros(3), TypeError, "need a loss; got None"),
        (nn.CrossEntropyLoss(), [0, 1, 1], ValueError, "got list"),
        (nn.CrossEntropyLoss(), torch.tensor([0, 1, 2]), ValueError, "sample 2 has 2"),
        (nn.MSELoss(), torch.zeros(3), ValueError, r"same shape; got shape \(3,\)"),
        (nn.MSELoss(), None, ValueError, "same shape; got NoneType"),
    ],
)
def test_targets_that_do_not_fit_the_loss_are_refused(loss, y, error, message):
    with pytest.raises(error, match=message):
        es.per_sample_gradients(nn.Linear(4, 2), loss, torch.ones(3, 4), y)


@pytest.mark.message
def test_targets_that_would_be_broadcast_over_outputs_are_refused():
    model, x = nn.Linear(4, 3), torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"L1Loss .* same shape; got shape \(3,\)"):
        es.per_sample_gradients(model, nn.L1Loss(), x, torch.ones(3))
