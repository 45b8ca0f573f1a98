"""∂z/∂x against loops over samples, on the fast path and on the plain one."""

from typing import Any

import numpy as np
import oracles
import pytest
import torch
import zoo
from engine_blocks import blocks
from torch import Tensor, nn
from torch.testing import assert_close

import eigenscope as es
from eigenscope.jacobian import InputJacobianEngine


def cube(z: Tensor) -> Tensor:
    return z**3 + z.flatten(1).sum(1).view(-1, *[1] * (z.ndim - 1))


OUTPUTS: list[Any] = ["logits", "probabilities", "log_probabilities", cube]


@pytest.fixture(params=["fast", "plain"])
def path(request, monkeypatch) -> None:
    rows = {"fast": 0, "plain": 10**9}[request.param]
    monkeypatch.setattr("eigenscope.jacobian.inputs._MIN_ROWS_TO_ACCELERATE", rows)


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: getattr(o, "__name__", o))
@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.usefixtures("path")
def test_the_engine_agrees_with_a_loop_over_samples(name, output):
    case = zoo.make(name)
    found = blocks(es.Problem(case.model, case.batches, output=output))
    expected = oracles.jacobian(case.model, case.batches, output)
    # The same products in another order, after folding: some hundred roundings.
    assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: getattr(o, "__name__", o))
@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_loop_over_samples_agrees_with_finite_differences(name, output):
    case = zoo.make(name)
    exact = oracles.jacobian(case.model, case.batches, output)
    differences = oracles.difference_jacobian(case.model, case.batches, output)
    # Central differences with a step of 1e-6: rounding of 1e-16 · |z| / 1e-6.
    scale = max(1.0, float(exact.abs().max()))
    assert_close(differences, exact, rtol=1e-7, atol=1e-8 * scale)


@pytest.mark.parametrize("name", [n for n in zoo.NAMES if n != "mapping"])
def test_one_batch_in_a_tensor_agrees_with_a_loop_over_samples(name):
    case = zoo.make(name)
    x = torch.cat([inputs for inputs, _ in case.batches])
    found = es.input_jacobian(case.model, x, output="probabilities")
    expected = oracles.jacobian(case.model, case.batches, "probabilities")
    assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.usefixtures("path")
def test_several_outputs_share_one_pass_and_agree_with_their_own(name):
    case = zoo.make(name)
    problem = es.Problem(case.model, case.batches)
    engine = InputJacobianEngine(problem)
    batch = problem.batches.first(7)
    outputs: list[Any] = [*OUTPUTS, "logits"]
    sizes = [problem.with_output(output).num_outputs for output in outputs]
    results = [torch.empty(7, k, *engine.sample_shape).double() for k in sizes]
    raw = engine.fill(batch, outputs, results)
    assert_close(raw, problem.raw(batch.inputs).detach(), rtol=1e-12, atol=1e-12)
    for output, result in zip(outputs, results, strict=True):
        assert_close(
            result, blocks(problem.with_output(output)), rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: getattr(o, "__name__", o))
@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_part_of_the_outputs_agrees_with_the_whole(name, output):
    case = zoo.make(name)
    problem = es.Problem(case.model, case.batches, output=output)
    engine = InputJacobianEngine(problem)
    whole = blocks(problem)
    batch = problem.batches.first(7)
    for columns in (range(1), range(1, 3), range(whole.shape[1] - 1, whole.shape[1])):
        part = torch.empty(7, len(columns), *engine.sample_shape).double()
        engine.fill_part(batch, output, columns, part)
        expected = whole[:, columns.start : columns.stop]
        assert_close(part, expected, rtol=1e-12, atol=1e-14)


def test_a_confident_softmax_keeps_the_relative_accuracy_of_tiny_rows(generator):
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.normal_(generator=generator)
        model.bias.copy_(torch.tensor([30.0, 0.0, -20.0]))
    x = torch.randn(5, 4, generator=generator)
    weight, bias = model.weight.detach().numpy(), model.bias.detach().numpy()
    for output in ("probabilities", "log_probabilities"):
        found = es.input_jacobian(model, x, output=output).numpy()
        expected = oracles.softmax_regression(weight, bias, x.numpy(), output)
        # Logits of 30 in float32 are off by 1e-6, and so is the size of every row.
        sizes = np.abs(expected).max(2, keepdims=True)
        assert sizes.min() < 1e-12
        assert (np.abs(found - expected) / sizes).max() < 2e-5


def test_a_confident_softmax_keeps_it_in_parts_and_through_a_bottleneck(generator):
    first, last = nn.Linear(4, 2), nn.Linear(2, 3)
    model = nn.Sequential(first, last)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
        last.bias.copy_(torch.tensor([30.0, 0.0, -20.0]))
    x = torch.randn(5, 4, generator=generator)
    problem = es.Problem(model, x, output="probabilities")
    engine = InputJacobianEngine(problem)
    assert engine.settings.bottleneck == "1"
    exact = [p.detach().double() for p in model.parameters()]
    weight = (exact[2] @ exact[0]).numpy()
    bias = (exact[2] @ exact[1] + exact[3]).numpy()
    expected = oracles.softmax_regression(weight, bias, x.numpy(), "probabilities")
    sizes = np.abs(expected).max(2, keepdims=True)
    whole, part = torch.empty(5, 3, 4), torch.empty(5, 2, 4)
    batch = problem.batches.first(5)
    engine.fill(batch, ["probabilities"], [whole])
    engine.fill_part(batch, "probabilities", range(2), part)
    assert (np.abs(whole.numpy() - expected) / sizes).max() < 1e-4
    assert (np.abs(part.numpy() - expected[:, :2]) / sizes[:, :2]).max() < 1e-4


MODES = [torch.no_grad, torch.inference_mode, torch.enable_grad]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.usefixtures("path")
def test_the_mode_of_the_caller_does_not_matter(name, mode):
    case = zoo.make(name)
    expected = oracles.jacobian(case.model, case.batches, "probabilities")
    with mode():
        problem = es.Problem(case.model, case.batches, output="probabilities")
        operator = es.InputJacobian(problem, layout="outputs")
        dense = operator.dense()
        x = torch.ones(dense.shape[1]).double()
        product, adjoint = operator @ x, operator.T @ dense.sum(1)
        norms = operator.squared_row_norms()
        gram = es.gram(operator, side="columns").dense()
    assert not dense.requires_grad
    exact = oracles.laid_out(expected, "outputs")
    assert_close(dense, exact, rtol=1e-12, atol=1e-13)
    assert_close(product, exact.sum(1), rtol=1e-10, atol=1e-12)
    assert_close(adjoint, exact.T @ exact.sum(1), rtol=1e-10, atol=1e-12)
    assert_close(norms, exact.square().sum(1), rtol=1e-10, atol=1e-13)
    assert_close(gram, exact.T @ exact, rtol=1e-10, atol=1e-13)
    dense += 1  # an ordinary tensor, whatever mode it was made in


@pytest.mark.usefixtures("path")
def test_data_made_in_inference_mode_serves():
    case = zoo.make("mapping")
    with torch.inference_mode():
        data = [{key: v.clone() for key, v in batch.items()} for batch in case.batches]
    found = blocks(es.Problem(case.model, data))
    expected = oracles.jacobian(case.model, case.batches, "logits")
    assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.usefixtures("path")
def test_frozen_parameters_do_not_matter(name):
    case = zoo.make(name)
    case.model.requires_grad_(False)
    found = blocks(es.Problem(case.model, case.batches))
    expected = oracles.jacobian(case.model, case.batches, "logits")
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


# Rounding of weights, activations and products to the unit roundoff of the type.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)]
)
@pytest.mark.parametrize("name", zoo.NAMES)
@pytest.mark.usefixtures("path")
def test_lower_precision_is_right_to_its_own_rounding(name, dtype, tolerance):
    case = zoo.make(name)
    problem = es.Problem(case.model, case.batches, output="probabilities")
    expected = blocks(problem)
    case.model.to(dtype)
    found = blocks(es.Problem(case.model, case.batches, output="probabilities"))
    assert found.dtype == dtype
    error = torch.linalg.vector_norm(found.double() - expected)
    assert error < tolerance * torch.linalg.vector_norm(expected)


class Upcasting(nn.Module):
    """Gives float64 logits from a float32 network, as large models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).double()


@pytest.mark.usefixtures("path")
def test_a_model_that_casts_its_output_gives_jacobians_in_that_dtype(generator):
    model = Upcasting()
    x = torch.randn(5, 4, generator=generator)
    found = es.input_jacobian(model, x, output="probabilities")
    assert found.dtype == torch.float64
    exact = oracles.jacobian(model.inner.double(), [x.double()], "probabilities")
    assert_close(found, exact, rtol=1e-4, atol=1e-6)
