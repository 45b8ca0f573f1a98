"""A stored array is never taken for another's; a network that turns is followed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import eigenscope as es


@pytest.fixture
def run(tmp_path):
    with es.Run.create(Path(tmp_path) / "run", verb="x", arguments={}) as made:
        yield made


def problem(output: Any = "logits", seed=0):
    source = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=source)
    inputs = torch.randn(9, 6, generator=torch.Generator().manual_seed(1)).double()
    return es.Problem(net, inputs, output=output)


def test_the_gram_matrix_of_another_output_is_refused(run):
    logits = problem()
    es.gram(es.InputJacobian(logits)).write(run)
    other = es.InputJacobian(logits.with_output("probabilities"))
    with pytest.raises(ValueError, match="gram"):
        es.gram(other).write(run)
    found = es.gram(other).write(run, name="second").dense()
    torch.testing.assert_close(found, es.gram(other).dense())


def test_the_gram_matrix_of_another_model_is_refused(run):
    one = es.InputJacobian(problem(seed=0)).write(run, name="one")
    two = es.InputJacobian(problem(seed=1)).write(run, name="two")
    es.gram(one).write(run)
    with pytest.raises(ValueError, match="gram"):
        es.gram(two).write(run)


def test_the_jacobian_of_another_callable_is_refused(run):
    es.InputJacobian(problem(lambda z: z[:, :2])).write(run)
    es.InputJacobian(problem(lambda z: z[:, :2])).write(run)
    with pytest.raises(ValueError, match="jacobian"):
        es.InputJacobian(problem(lambda z: z[:, 1:])).write(run)


class Clamping(nn.Module):
    """Leaves by another way than its last layer once a sample is large."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 3), nn.Linear(3, 20)

    def forward(self, x):
        z = self.outer(self.inner(x).relu())
        return z.clamp(-5, 5) if (z.abs() > 5).any() else z


def test_a_bottleneck_is_used_only_where_the_output_comes_from_it():
    source = torch.Generator().manual_seed(0)
    small = torch.randn(2, 4, generator=source, dtype=torch.float64) * 0.1
    large = torch.randn(30, 4, generator=source, dtype=torch.float64) * 20
    model, inputs = Clamping().double(), torch.cat([small, large])
    expected = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda v: model(v[None])[0], x)
            for x in inputs
        ]
    )
    # A float64 chain of two layers: a few roundings.
    torch.testing.assert_close(es.input_jacobian(model, inputs), expected)


class OwnDtype(nn.Module):
    """Casts its input to the dtype of its weights, as many do."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = x.to(next(self.parameters()).dtype)
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def test_a_forward_that_asks_for_its_dtype_takes_the_plain_path():
    model = OwnDtype().eval()
    inputs = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = es.input_jacobian(model, inputs)
    parts = [es.input_jacobian(model, part) for part in inputs.split(10)]
    # The same float32 network on other batches: some hundred roundings.
    torch.testing.assert_close(found, torch.cat(parts), rtol=1e-4, atol=1e-6)


def test_an_accelerated_network_runs_in_inference_mode():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 9),
    ).eval()
    inputs = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = es.input_jacobian(model, inputs)
    with torch.inference_mode():
        found = es.input_jacobian(model, inputs)
    assert torch.equal(found, expected)


class Standardizing(nn.Module):
    """Divides by a statistic of the batch that carries no gradient."""

    def forward(self, x):
        return x / x.std(0).detach()


@pytest.mark.message
def test_mixing_through_detached_statistics_is_refused():
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="changes with the inputs of the samples bes"):
        es.input_jacobian(Standardizing(), inputs)
