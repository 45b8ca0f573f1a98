"""What is wrong only beyond the first samples, or only in whole chunks, is found."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eigenscope as es
from eigenscope.store import Run

N = 24
ENGINES = {"input": es.InputJacobian, "parameter": es.ParameterJacobian}
EVERY = pytest.mark.parametrize("engine", ENGINES)


class Around(nn.Module):
    """A linear map and what is done with its output."""

    def __init__(self, after: Any) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.map(x), x)


def samples(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.message
@EVERY
def test_an_output_of_a_later_sample_that_is_not_finite_is_named(engine):
    x = samples(N, 3).abs()
    x[17, 0] = -1
    # The derivative of log is finite where log is not.
    model = Around(lambda z, x: z + torch.log(x[:, :1].detach()) * 1)
    with pytest.raises(ValueError, match="output must be finite; sample 17 gives NaN"):
        ENGINES[engine](es.Problem(model, x, batch_size=8)).dense()


@pytest.mark.message
def test_raw_outputs_that_are_not_finite_are_named():
    x = samples(N, 3).abs()
    x[17, 0] = -1
    model = Around(lambda z, x: z + torch.log(x[:, :1].detach()))
    jacobian = es.InputJacobian(es.Problem(model, x, batch_size=8))
    with pytest.raises(ValueError, match="output must be finite; sample 17 gives NaN"):
        jacobian.raw_outputs()


def by_eights(z: Tensor, x: Tensor) -> Tensor:
    del x
    if len(z) % 8:
        return z
    return z - z.unflatten(0, (-1, 8)).mean(1).repeat_interleave(8, 0)


@pytest.mark.message
@EVERY
@pytest.mark.parametrize(
    "after",
    [
        by_eights,
        lambda z, x: z.roll(2, 0) if len(x) > 3 else z,
        lambda z, x: z + torch.rand(2) if len(x) > 4 else z,
        lambda z, x: chaotic(z, x) + 0.1 * (len(x) > 8),
    ],
    ids=["groups", "roll", "noise", "size"],
)
@pytest.mark.parametrize("size", [16, 64])
def test_mixing_that_needs_a_whole_chunk_is_found(after, engine, size):
    problem = es.Problem(Around(after), samples(size + 8, 3), batch_size=size)
    with pytest.raises(ValueError, match=f"without the others of the batch of {size}"):
        ENGINES[engine](problem).dense()


def chaotic(z: Tensor, x: Tensor) -> Tensor:
    """Double every difference fourteen times, as hundreds of layers may do."""
    z = torch.tanh(z) * (1 + len(x) % 2 * torch.finfo(z.dtype).eps)
    for _ in range(14):
        z = 1 - 2 * z.abs()
    return z


@EVERY
def test_rounding_that_a_deep_network_amplifies_is_not_taken_for_mixing(engine):
    x = samples(32, 3)
    model = Around(chaotic)
    with torch.no_grad():
        outputs = model(x)
        apart = (outputs[5:8] - model(x[5:8])).abs().max()
    assert apart > 2e-4 * outputs.abs().max()  # more than the checks let pass
    problem = es.Problem(model, x, batch_size=32)
    assert ENGINES[engine](problem).dense().isfinite().all()


@pytest.mark.message
def test_a_batch_of_another_shape_is_refused_by_its_first_sample():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(3, 8, 1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.conv(x)).mean(2))

    for width in (1, 5):
        data = [samples(8, 3, 6), samples(8, 3, width)]
        jacobian = es.InputJacobian(es.Problem(Pooled(), data, batch_size=8))
        with pytest.raises(ValueError, match=r"\(3, 6\); sample 8 has \(3, \d\)\. Pad"):
            jacobian.dense()


@pytest.mark.message
def test_complex_outputs_are_refused():
    model = Around(lambda z, _: torch.fft.fft(z))
    with pytest.raises(TypeError, match="the model must return real numbers; got torc"):
        es.Problem(model, samples(4, 3))
    wrong: Any = {"torch.complex64": lambda z: z * 1j, "list": lambda z: [z]}
    for found, output in wrong.items():
        with pytest.raises(TypeError, match=f"tensor of real numbers; got {found}"):
            es.Problem(nn.Linear(3, 2), samples(4, 3), output=output)


@pytest.mark.message
def test_a_folded_copy_that_went_stale_is_noticed():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.scale = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)).mean((2, 3)) * self.scale

    model = Scaled().eval()
    jacobian = es.InputJacobian(es.Problem(model, samples(80, 3, 5, 5)))
    assert jacobian.engine is not None
    assert jacobian.engine.accelerated
    jacobian.dense()
    model.scale = 3.0
    with pytest.raises(es.DataChangedError, match="gives other outputs than when the"):
        jacobian.dense()


def test_dead_first_samples_are_no_reason_to_refuse():
    model: Any = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU())
    x = samples(N, 3)
    x[:5] = 0
    model[0].weight.data.abs_()
    x[:5] -= 1  # every unit is off
    found = es.input_jacobian(model, x)
    assert not found[:5].any()
    assert found[5:].any()


def test_scalar_samples_have_a_jacobian():
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x.unsqueeze(1).square() * self.scale

    x = torch.tensor([1.0, 3.0, -2.0])
    problem = es.Problem(Squares(), x)
    expected = 2 * x[:, None] * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(es.input_jacobian(Squares(), x), expected)
    torch.testing.assert_close(es.InputJacobian(problem).dense(), expected)
    outputs = es.InputJacobian(problem, layout="outputs")
    torch.testing.assert_close(outputs.dense(), expected.reshape(6, 1))


@pytest.mark.message
def test_a_softmax_of_one_output_is_refused_from_a_run(tmp_path):
    problem = es.Problem(nn.Linear(3, 1), samples(4, 3))
    with Run.create(tmp_path / "run", verb="jacobian", arguments={}) as run:
        es.InputJacobian(problem).write(run)
        with pytest.raises(ValueError, match="'probabilities' needs at least two cla"):
            es.InputJacobian.open(run, output="probabilities")


def test_a_model_can_be_copied_after_its_spectral_norm_was_applied():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 2))).eval()
    copy.deepcopy(model)
    es.input_jacobian(model, samples(4, 3))
    copy.deepcopy(model)
