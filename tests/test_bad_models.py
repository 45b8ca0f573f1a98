"""Models and outputs that have no per-sample Jacobian are refused, with the reason."""

from typing import Any, cast

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional

import eigenscope as es

pytestmark = pytest.mark.message

X = torch.arange(12.0).reshape(4, 3) / 10
LINEAR = nn.Linear(3, 2)


class Wrong(nn.Module):
    """A linear map with something wrong around it."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2)
        self.wrong = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.wrong(self.map, x)


class Attending(nn.Module):
    """Attention and a recurrent network with dropout inside; one is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, dropout=0.1, batch_first=True)
        self.recurrent = nn.LSTM(2, 2, dropout=0.1, num_layers=2).eval()
        self.single = nn.LSTM(2, 2)

    def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
        z = layer(x).unsqueeze(1)
        return self.attention(z, z, z)[0].squeeze(1)


def test_weights_and_buffers_that_are_not_finite_are_named():
    model = zoo.make("residual").model
    with torch.no_grad():
        model.inner_norm.running_var[1] = torch.nan
    with pytest.raises(ValueError, match=r"'inner_norm\.running_var' holds NaN or inf"):
        es.Problem(model, torch.ones(2, 2, 5, 5))
    with torch.no_grad():
        model.head.bias[0] = torch.inf
    with pytest.raises(
        ValueError, match=r"'head\.bias' holds NaN or infinity, as after"
    ):
        es.Problem(model, torch.ones(2, 2, 5, 5))


def test_an_output_that_is_not_finite_is_named():
    model = Wrong(lambda layer, x: layer(x) / (x[:, :1] - 0.3))
    with pytest.raises(ValueError, match="output must be finite; sample 1 gives NaN"):
        es.Problem(model, X)


@pytest.mark.parametrize("output", ["logits", "probabilities", lambda z: z * 1])
def test_a_jacobian_that_is_not_finite_names_its_sample(output):
    # The root is finite at zero, its derivative is not.
    model = Wrong(lambda layer, x: torch.sqrt((x - 2).abs()) @ layer.weight.T)
    x = torch.full((9, 3), 0.5)
    x[7] = 2
    problem = es.Problem(model, x, output=output, batch_size=4)
    jacobian = es.InputJacobian(problem)
    message = "that of sample 7 holds NaN or infinity. Look at"
    with pytest.raises(ValueError, match=message):
        jacobian.dense()
    with pytest.raises(ValueError, match=message):
        list(jacobian.column_panels(9 * 3 * 4))
    with pytest.raises(ValueError, match=message):
        es.input_jacobian(model, x, output=output)


def test_a_large_jacobian_whose_sum_overflows_is_finite():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(2e38)
    assert es.input_jacobian(model, X / 100).isfinite().all()


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(LINEAR, nn.Dropout()), "dropout is active in '1'"),
        (
            Wrong(lambda layer, x: functional.dropout(layer(x), 0.3)),
            "something is random",
        ),
        (Wrong(lambda layer, x: layer(x) + torch.rand(2)), "something is random"),
        (
            Wrong(lambda layer, x: layer(x) * (1 + 1e-6 * torch.rand(2))),
            "something is random",
        ),
        (nn.Sequential(LINEAR, nn.RReLU()), "dropout is active in '1'"),
        (
            Wrong(Attending()),
            r"dropout is active in 'wrong\.attention'",
        ),
    ],
)
def test_a_random_model_is_refused(model, found):
    with pytest.raises(ValueError, match=rf"{found}\. Call model\.eval"):
        es.Problem(model, X)


def test_a_model_whose_shape_is_random_is_refused():
    sizes = iter([1, 2, 3, 4])
    model = Wrong(lambda layer, x: layer(x)[:, :1].expand(-1, next(sizes)))
    with pytest.raises(ValueError, match="something is random"):
        es.Problem(model, X)


def test_a_model_that_writes_into_its_input_is_refused_and_the_data_stays():
    x = X.clone()
    model = Wrong(lambda layer, z: layer(z.mul_(2)))
    with pytest.raises(ValueError, match=r"writes into its 'input'\. Use an out-of"):
        es.Problem(model, x)
    assert torch.equal(x, X)


def test_many_active_dropouts_are_counted():
    model = nn.Sequential(LINEAR, *[nn.Dropout() for _ in range(8)])
    with pytest.raises(ValueError, match="'1', '2', '3', '4', '5' and 3 more"):
        es.Problem(model, X)


def test_batch_norm_in_training_mode_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    problem = es.Problem(model, X)
    with pytest.raises(
        ValueError, match="is in training mode in '1' and normalizes by"
    ):
        es.InputJacobian(problem)


def test_batch_norm_without_running_statistics_is_refused():
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    problem = es.Problem(nn.Sequential(nn.Linear(3, 4), norm).eval(), X)
    with pytest.raises(
        ValueError, match=r"no running statistics in '1'.*Use track_runn"
    ):
        es.InputJacobian(problem)


@pytest.mark.parametrize(
    ("forward", "output"),
    [
        (lambda layer, x: layer(x) - layer(x).mean(0), "logits"),
        (lambda layer, x: layer(x).softmax(0), "probabilities"),
        (lambda layer, x: layer(x), lambda z: z / z.norm()),
        (lambda layer, x: layer(x + x.roll(1, 0)), "log_probabilities"),
    ],
    ids=["mean", "softmax", "callable", "roll"],
)
@pytest.mark.parametrize("sizes", [[4], [1, 3], [1, 1, 2]])
def test_a_model_that_mixes_samples_is_refused(forward, output, sizes):
    problem = es.Problem(Wrong(forward), list(X.split(sizes)), output=output)
    with pytest.raises(
        ValueError, match="output of sample 0 depends on the input of s"
    ):
        es.InputJacobian(problem)


def test_a_model_that_mixes_samples_is_refused_with_one_sample():
    with pytest.raises(ValueError, match="independent of the others"):
        es.input_jacobian(Wrong(lambda layer, x: layer(x) - layer(x).mean(0)), X[:1])


@pytest.mark.parametrize(
    ("forward", "output"),
    [
        (lambda layer, x: layer(x.detach()), "logits"),
        (lambda layer, x: layer(x).detach(), "logits"),
        (lambda layer, x: layer.weight.sum(1).expand(len(x), 2), "probabilities"),
        (lambda layer, x: layer(x), lambda z: z.detach()),
        (lambda layer, x: layer(x), lambda z: torch.ones(len(z), 2)),
        (lambda layer, x: (layer(x) > 0).long(), "logits"),
    ],
)
@pytest.mark.parametrize("trained", [True, False])
def test_an_output_that_no_gradient_connects_to_the_input_is_refused(
    forward, output, trained
):
    model = Wrong(forward).requires_grad_(trained)
    problem = es.Problem(model, X, output=output)
    with pytest.raises(
        ValueError, match=r"no gradient reaches the input\. Look for \.det"
    ):
        es.InputJacobian(problem)


def test_an_output_that_is_constant_is_refused():
    model = Wrong(lambda layer, x: layer(x) * 0)
    with pytest.raises(
        ValueError, match="derivative is zero and other inputs give the"
    ):
        es.input_jacobian(model, X)


def test_a_saturated_first_sample_is_no_reason_to_refuse():
    model = Wrong(lambda layer, x: functional.relu(x[:, :2]) + 0 * layer(x))
    x = torch.tensor([[-1.0, -1, 0], [-2, -2, 0], [3, 3, 0]])
    assert es.input_jacobian(model, x)[2].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_inputs_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"fails on {dtype}.*as by images / 255"):
        es.Problem(LINEAR, X.to(dtype))
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Flatten())
    if dtype == torch.int64:
        with pytest.raises(TypeError, match=r"floating-point inputs; got torch\.int64"):
            es.input_jacobian(tokens, X.to(dtype))


@pytest.mark.parametrize(
    ("forward", "shape"),
    [
        (lambda layer, x: layer(x).sum(), r"\(\)"),
        (lambda layer, x: layer(x)[:1], r"\(1, 2\)"),
        (lambda layer, x: layer(x)[:, :0], r"\(4, 0\)"),
    ],
)
def test_a_model_without_one_row_for_each_sample_is_refused(forward, shape):
    with pytest.raises(
        ValueError, match=rf"4 samples gave shape {shape}\. Give the data"
    ):
        es.Problem(Wrong(forward), X)


class Returns(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return [x]


def test_a_model_that_returns_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"tensor `logits`; got list\. Wrap the model"):
        es.Problem(Returns(), X)


def test_what_is_no_module_is_refused():
    with pytest.raises(
        TypeError, match=r"torch\.nn\.Module; got function\. Put a function"
    ):
        es.Problem(cast("Any", lambda x: x), X)


@pytest.mark.parametrize("output", ["logit", "softmax", 3])
def test_an_unknown_output_is_refused(output):
    message = (
        "output must be one of 'logits', 'probabilities', 'log_probabilities'; got"
    )
    with pytest.raises(ValueError, match=message):
        es.Problem(LINEAR, X, output=output)
    with pytest.raises(ValueError, match=message):
        es.Problem(LINEAR, X).with_output(output)


@pytest.mark.parametrize("output", ["probabilities", "log_probabilities"])
def test_a_softmax_of_a_single_output_is_refused(output):
    message = f"output='{output}' needs at least two classes.*Pass a callable such as"
    with pytest.raises(ValueError, match=message):
        es.input_jacobian(nn.Linear(3, 1), X, output=output)
    with pytest.raises(ValueError, match=message):
        es.input_jacobian(Wrong(lambda layer, x: layer(x)[:, 0]), X, output=output)


@pytest.mark.parametrize("output", [lambda z: z.sum(), lambda z: z.sum(0)])
def test_a_callable_output_that_loses_the_samples_is_refused(output):
    with pytest.raises(
        ValueError, match=r"keep the 4 samples on axis 0 and at least one.*returned sh"
    ):
        es.Problem(LINEAR, X, output=output)


def test_a_parameter_that_is_not_there_is_refused_with_its_nearest_names():
    with pytest.raises(
        ValueError, match=r"'wieght' matches none.*names: 'weight', 'bias'"
    ):
        es.Problem(LINEAR, X, params=["bias", "wieght"])
    with pytest.raises(ValueError, match="nearest names: none at all"):
        es.Problem(nn.Tanh(), X, params="*")
