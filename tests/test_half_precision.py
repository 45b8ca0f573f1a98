"""Sums over many rows in half precision keep growing and stay right."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.store import Run

N = 600  # a bfloat16 sum of equal terms stops growing after 256 of them
ROUNDING: Any = {"rtol": 2**-7, "atol": 0.0}  # of the result, once


@pytest.fixture(params=["input", "parameter", "stored"])
def jacobian(request, generator, tmp_path):
    net = nn.Linear(3, 2).to(torch.float16 if request.param == "stored" else None)
    net = net if request.param == "stored" else net.bfloat16()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(0.5, 1.0, generator=generator)
    x = torch.full((N, 3), 0.25, dtype=net.weight.dtype)
    problem = es.Problem(net, x, batch_size=2)
    if request.param == "input":
        yield es.InputJacobian(problem)
    elif request.param == "parameter":
        yield es.ParameterJacobian(problem)
    else:
        with Run.create(tmp_path / "run", verb="jacobian", arguments={}) as run:
            yield es.ParameterJacobian(problem).write(run)


def test_sums_over_rows_are_those_of_float64(jacobian):
    exact = jacobian.dense().double()
    ones = torch.ones(len(exact), 1, dtype=jacobian.dtype)
    norms = jacobian.squared_column_norms()
    torch.testing.assert_close(norms.double(), exact.square().sum(0), **ROUNDING)
    sums = jacobian.T @ ones
    torch.testing.assert_close(sums.double(), exact.T @ ones.double(), **ROUNDING)
    gram = es.gram(jacobian, side="columns")
    vectors = torch.ones(exact.shape[1], 2, dtype=jacobian.dtype)
    found, expected = gram @ vectors, exact.T @ (exact @ vectors.double())
    torch.testing.assert_close(found.double(), expected, **ROUNDING)


def test_a_sketch_is_that_of_the_same_signs_in_float64():
    net = nn.Linear(3, 2).bfloat16()
    x = torch.zeros(N, 3, dtype=torch.bfloat16)
    jacobian = es.InputJacobian(es.Problem(net, x, batch_size=2))
    wide = copy.deepcopy(net).double()
    exact = es.InputJacobian(es.Problem(wide, x.double(), batch_size=2))
    torch.testing.assert_close(
        jacobian.sketch(4).double(), exact.sketch(4), rtol=2**-7, atol=1e-3
    )
