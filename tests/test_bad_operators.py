"""Operators say what they take, what they were given and what to do."""

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import nn

import eigenscope as es
from eigenscope.jacobian import EngineSettings, InputJacobianEngine
from eigenscope.operators import InputJacobian

pytestmark = pytest.mark.message

X = torch.arange(12.0).reshape(4, 3) / 10
LINEAR = nn.Linear(3, 2)


@pytest.mark.parametrize("change", ["weights", "mode", "buffer"])
def test_a_model_that_changes_while_its_jacobian_is_used_is_noticed(change):
    model = zoo.make("residual").model
    jacobian = es.InputJacobian(es.Problem(model, zoo.make("residual").batches))
    jacobian.dense()
    if change == "weights":
        with torch.no_grad():
            model.head.weight[0, 0] += 1e-7
    elif change == "mode":
        model.head.train()
    else:
        model.norm.running_mean[1] += 1e-7
    for use in (jacobian.dense, jacobian.squared_row_norms, jacobian.raw_outputs):
        with pytest.raises(es.DataChangedError, match="weights, buffers or mode have"):
            use()


def test_an_unknown_layout_or_side_is_refused():
    problem = es.Problem(LINEAR, X)
    wrong: Any = "rows"
    with pytest.raises(
        ValueError, match="layout must be one of 'samples', 'outputs'; got"
    ):
        es.InputJacobian(problem, layout=wrong)
    with pytest.raises(
        ValueError, match="layout must be one of 'samples', 'outputs'; got"
    ):
        es.InputJacobian(problem).with_layout(wrong)
    wrong = "samples"
    with pytest.raises(
        ValueError, match="side must be one of 'auto', 'rows', 'columns'"
    ):
        es.gram(X, side=wrong)


def test_an_unknown_output_of_a_stored_jacobian_is_refused(tmp_path):
    wrong: Any = "logit"
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        es.InputJacobian(es.Problem(LINEAR, X)).write(run)
        with pytest.raises(
            ValueError, match="output must be one of 'logits', 'probabi"
        ):
            InputJacobian.open(run, output=wrong)
        with pytest.raises(
            KeyError, match="jacobian, jacobian_raw_outputs; got 'other'"
        ):
            InputJacobian.open(run, name="other")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.ones(4), r"4 × 3 and takes a vector \(3,\) or a block \(3, m\); got sh"),
        (
            torch.ones(2, 3),
            r"got shape \(2, 3\). If the vectors are rows, pass vectors.T",
        ),
        (torch.ones(3, 1, 1), r"got shape \(3, 1, 1\)"),
        (torch.tensor(1.0), r"got shape \(\)"),
        (
            torch.ones(3).double(),
            "must be torch.float32 on cpu.*got torch.float64 on cpu",
        ),
        (torch.ones(3, device="meta"), "got torch.float32 on meta. Use x.to"),
    ],
)
def test_vectors_of_another_shape_dtype_or_device_are_refused(vectors, message):
    for operator in (es.Dense(X), es.Dense(X.T.contiguous()).T):
        with pytest.raises(ValueError, match=message):
            _ = operator @ vectors


def test_vectors_that_are_no_tensor_are_refused():
    vectors: Any = torch.ones(3).numpy()
    with pytest.raises(
        TypeError, match=r"a torch tensor; got ndarray\. Use torch\.from_num"
    ):
        _ = es.Dense(X) @ vectors


def test_a_gram_matrix_of_something_else_is_refused():
    for wrong in (es.Dense(X).T, es.gram(X), [[1.0]]):
        given: Any = wrong
        with pytest.raises(
            TypeError, match=rf"can be read; got {type(given).__name__}\."
        ):
            es.gram(given)
    with pytest.raises(ValueError, match=r"two axes; got shape \(2, 2, 3\). Flatten"):
        es.gram(X.reshape(2, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_accumulating_in_a_narrower_dtype_is_refused(dtype):
    with pytest.raises(
        ValueError, match=rf"Jacobian's torch\.float32; got {dtype}\. Use to"
    ):
        es.gram(X, accumulate=dtype)


def test_a_result_beyond_the_budget_is_refused():
    jacobian = es.InputJacobian(es.Problem(LINEAR, X))
    with pytest.raises(
        ValueError, match="4 × 4 Gram matrix takes 64 B and must fit the"
    ):
        es.gram(jacobian, side="rows", memory=64).dense()
    with pytest.raises(
        ValueError, match="the 4 × 6 matrix takes 96 B and must fit in me"
    ):
        es.gram(jacobian, side="rows", memory=100).dense()


def test_a_sketch_without_rows_is_refused():
    with pytest.raises(
        ValueError, match=r"num_rows must be at least 1; got 0\. Take 100 or"
    ):
        es.InputJacobian(es.Problem(LINEAR, X)).sketch(0)


def test_an_engine_that_cannot_be_set_up_again_is_refused():
    settings = EngineSettings(
        accelerated=True,
        num_folded=3,
        channels_last=False,
        bottleneck=None,
        chunk_size=8,
    )
    with pytest.raises(ValueError, match=r"cannot be set up again.*Start a new run"):
        InputJacobianEngine(es.Problem(LINEAR, X), settings=settings)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (np.log, "function must be finite on the whole spectrum; it is nan at -1"),
        (lambda v: v[..., :1], r"one number for each eigenvalue; .* it gave .*1,?\)"),
        (lambda _: 2.0, r"one number for each eigenvalue; .* it gave \(\)\. Write it"),
    ],
)
def test_a_function_that_a_spectrum_has_no_values_of_is_refused(function, message):
    matrix = np.diag([-1.0, 2.0, 3.0])
    uses = (
        lambda: es.spectral_sum(matrix, function),
        lambda: es.apply_function(matrix, function, torch.ones(3).double()),
    )
    for use in uses:
        with pytest.raises(ValueError, match=message):
            use()
