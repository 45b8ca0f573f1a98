"""What is alive at the same time is what plans say, phase by phase."""

import gc
from typing import Any

import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.experiments import JacobianPlan
from eigenscope.experiments.matrix_costs import gram_steps
from eigenscope.jacobian.acceleration import accelerate
from eigenscope.planning.algebra import algebra_seconds
from eigenscope.planning.counting import Counting
from eigenscope.planning.operators import chunk_of

CPU = torch.device("cpu")
BRIEF = 1e-3


def wide() -> nn.Module:
    """Return a network whose proof on two samples takes most of the memory."""
    return nn.Sequential(
        nn.Linear(900, 400), nn.ReLU(), nn.Linear(400, 30), nn.ReLU(), nn.Linear(30, 5)
    )


def test_what_is_proven_on_two_samples_is_over_before_gradients_are_kept():
    model, x = wide(), torch.randn(400, 900)
    made = es.plan("ntk", model, x, outputs="trace", effort=BRIEF)
    with Counting(CPU) as counted:
        kept = es.ntk(model, x, outputs="trace")
    del kept
    assert made.rehearsed_samples < len(x)
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


def test_the_tile_that_rows_are_written_from_is_planned(tmp_path):
    jacobian = es.InputJacobian(es.Problem(wide(), torch.randn(900, 900)))
    made = es.plan(jacobian.write, None, effort=BRIEF)
    run = es.Run.create(tmp_path / "run", verb="test", arguments={})
    with run, Counting(CPU) as counted:
        jacobian.write(run)
    assert made.rehearsed_samples < 900
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("memory", ["14MB", None])
def test_the_blocks_that_a_gram_matrix_is_made_of_are_planned(
    side, output, memory, tmp_path
):
    model = nn.Sequential(nn.Linear(500, 9), nn.Tanh(), nn.Linear(9, 3))
    jacobian = es.InputJacobian(es.Problem(model, torch.randn(1500, 500)))
    wanted = JacobianPlan(side=side, memory=memory)
    is_derived = output != "logits"
    step: Any = gram_steps(jacobian, "g", wanted, is_derived=is_derived)[0]
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        jacobian.write(run, memory=memory)
        stored = es.InputJacobian.open(run, output=output)
        matrix = es.gram(stored, side=side, memory=memory)
        with Counting(CPU) as counted:
            matrix.write(run)
    assert step.host_bytes == pytest.approx(counted.peak, rel=0.15)


def copies_in_float64() -> int:
    return sum(
        type(own) is nn.Parameter and own.dtype == torch.float64 and not own.is_meta
        for own in gc.get_objects()
    )


def test_a_network_that_gains_nothing_leaves_no_copies():
    model, x = wide(), torch.randn(2, 900)
    gc.collect()
    gc.disable()
    try:
        before = copies_in_float64()
        assert accelerate(model, x, entry=None) is None
        assert copies_in_float64() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton])
def test_the_vectors_of_a_verification_are_planned(kind):
    data = (torch.randn(6, 700), torch.arange(6) % 5)
    net = nn.Sequential(nn.Linear(700, 60), nn.Tanh(), nn.Linear(60, 5))
    problem = es.Problem(net, data, loss=nn.CrossEntropyLoss())
    made = es.plan(es.verify, kind(problem), effort=BRIEF)
    with Counting(CPU) as counted:
        es.verify(kind(problem))
    assert made.host_bytes == pytest.approx(counted.peak, rel=0.15)


def test_the_seconds_of_vectors_are_those_of_a_matrix_that_costs_nothing():
    sizes: list[int] = []

    def estimate(matrix: Any, *, num_steps: int, **others: Any) -> None:
        assert matrix.shape == (2**21, 2**21)
        assert others == {"generator": None, "run": None}
        torch.testing.assert_close(
            (matrix @ torch.ones(2**21))[[0, -1]], torch.tensor([2.0**-21, 1.0])
        )
        sizes.append(num_steps)

    found = algebra_seconds(
        estimate,
        {"generator": torch.Generator()},
        dim=2**22,
        dtype=torch.float32,
        device=CPU,
        sizes="num_steps",
        least=2,
        total=50,
        effort=1e-9,
    )
    assert sizes == [2, 2, 4, 4]
    assert found > 0


def test_a_parameter_jacobian_is_planned_by_the_chunks_that_it_takes(monkeypatch):
    jacobian = es.ParameterJacobian(es.Problem(wide(), torch.randn(90, 900)))
    assert chunk_of(jacobian) == jacobian.chunk_size
    monkeypatch.setattr(es.ParameterJacobian, "chunk_size", property(lambda _: 7))
    assert chunk_of(jacobian) == 7
