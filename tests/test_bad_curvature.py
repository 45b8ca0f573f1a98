"""Curvature operators say what they need."""

from typing import Any

import curvature_zoo as zoo
import pytest
import torch
from torch import nn

import eigenscope as es

pytestmark = pytest.mark.message


@pytest.fixture
def problem() -> es.Problem:
    return zoo.problem(zoo.make("tanh"))


@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton, es.Fisher])
def test_a_model_without_parameters_has_no_curvature(kind):
    loss = nn.MSELoss()
    problem = es.Problem(nn.Tanh(), (torch.ones(3, 2), torch.ones(3, 2)), loss=loss)
    with pytest.raises(ValueError, match="needs parameters; the model has none that r"):
        kind(problem)


@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton, es.Fisher])
def test_parameters_without_any_influence_have_zero_curvature(kind):
    class Constant(nn.Linear):
        def forward(self, input):  # noqa: A002 - as torch calls it
            return input

    data = (torch.ones(3, 2), torch.tensor([0, 1, 1]))
    problem = es.Problem(Constant(2, 2), data, loss=nn.CrossEntropyLoss())
    for found in (kind(problem) @ torch.ones(6, 2), kind(problem).dense()):
        assert torch.count_nonzero(found) == 0


@pytest.mark.parametrize("loss", ["mse", nn.MSELoss])
def test_a_loss_that_is_no_function_is_refused_at_once(loss):
    with pytest.raises(TypeError, match=r"loss must be a callable .*got .*Pass an ins"):
        es.Problem(nn.Linear(2, 2), (torch.ones(3, 2), torch.ones(3, 2)), loss=loss)


@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton])
def test_a_second_derivative_that_is_not_finite_never_reaches_a_result(kind):
    class Root(nn.Linear):
        def forward(self, input):  # noqa: A002 - as torch calls it
            return (super().forward(input) - self.bias).abs().sqrt()

    inputs = torch.ones(7, 2).double()
    inputs[5] = 0
    data = (inputs, torch.zeros(7, 2).double())
    model = Root(2, 2).double()
    loss = nn.MSELoss()
    operator = kind(es.Problem(model, data, loss=loss, batch_size=3))
    vector = torch.ones(6).double()
    for use in (lambda: operator @ vector, operator.dense):
        with pytest.raises(ValueError, match=r"sample.* (3 to )?5 .* NaN or infinity"):
            use()


def test_vectors_that_are_not_finite_are_refused(problem):
    operator = es.Hessian(problem)
    vector = torch.full(operator.shape[:1], torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="vectors must be finite; a column holds NaN"):
        _ = operator @ vector


def test_an_unknown_kind_or_number_of_draws_is_refused(problem):
    wrong: Any = "joint"
    with pytest.raises(ValueError, match="kind must be one of 'true', 'empirical', 's"):
        es.Fisher(problem, kind=wrong)
    with pytest.raises(ValueError, match="num_draws must be at least 1; got 0"):
        es.Fisher(problem, kind="sampled", num_draws=0)


def test_a_loss_without_a_likelihood_is_refused_before_work():
    with pytest.raises(ValueError, match="kind='true' needs a loss that is a known ne"):
        es.Fisher(zoo.problem(zoo.make("tanh", "any")))


def test_blocks_of_foreign_parameters_are_refused(problem):
    first = es.Hessian(problem).restricted("0.*")
    with pytest.raises(ValueError, match=r"own; '2\.weight' is not among '0\.weight'"):
        first.restricted("2.*")
    with pytest.raises(ValueError, match=r"params must match .*'first' matches none"):
        es.layer_blocks(first, by={"a": "first"})


def test_an_unknown_grouping_is_refused(problem):
    wrong: Any = "layer"
    with pytest.raises(ValueError, match="by must be one of 'parameter', 'module'; go"):
        es.layer_blocks(es.Hessian(problem), by=wrong)


def test_operators_without_parameters_have_no_layer_blocks(problem):
    matrix = es.gram(torch.ones(27, 3, dtype=torch.float64), side="rows")
    with pytest.raises(TypeError, match="or a sum or multiple of these; got Gram"):
        es.layer_blocks(matrix)
    operator = es.Hessian(problem)
    swapped = es.Hessian(problem.with_params(["0.weight", "2.bias"]))
    other = es.Hessian(problem.with_params(["2.weight", "2.bias"]))
    assert swapped.shape == other.shape
    with pytest.raises(ValueError, match="must be over the same parameters to have l"):
        es.layer_blocks(swapped + other)
    assert operator.shape != other.shape


def test_sums_need_symmetric_operators_of_one_shape(problem):
    operator = es.Hessian(problem)
    wrong: Any = 2.0
    with pytest.raises(TypeError, match=r"and numbers; got float\. Use A\.shifted\(c"):
        _ = operator + wrong
    with pytest.raises(ValueError, match=r"same shape, dtype and device; got 31 × 31"):
        _ = operator - es.Hessian(problem.with_params("0.*"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda a: a * a, r"and numbers; got Hessian\. .* A @ X for a product"),
        (lambda a: a * "2", r"and numbers; got str\."),
        (lambda a: a * 1j, r"and numbers; got complex\."),
        (lambda a: a / True, r"and numbers; got bool\."),
        (lambda a: 1 + a, r"and numbers; got int\. Use A\.shifted\(c\) for A \+ c I"),
        (lambda a: torch.eye(31).double() - a, r"and numbers; got Tensor\."),
        (lambda a: a.shifted("1"), r"and numbers; got str\."),
        (
            lambda a: a @ a,
            r"a torch tensor; got Hessian\. .*for a product of operators",
        ),
    ],
)
def test_what_cannot_be_composed_is_refused(problem, build, message):
    with pytest.raises(TypeError, match=message):
        build(es.Hessian(problem))


def test_factors_are_finite_and_divisors_not_zero(problem):
    operator = es.Hessian(problem)
    with pytest.raises(ValueError, match=r"divided by any number but 0"):
        _ = operator / 0
    for factor in (float("nan"), torch.tensor(float("inf"))):
        with pytest.raises(ValueError, match=r"must be finite; got (nan|inf)"):
            _ = operator * factor  # type: ignore[operator]


@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton, es.Fisher])
def test_a_budget_that_is_no_size_is_refused_at_once(problem, kind):
    with pytest.raises(ValueError, match=r"a memory size must be .*got 'lots'"):
        kind(problem, memory="lots")


def test_entries_that_overflow_are_refused():
    data = (torch.full((3, 2), 1e25), torch.zeros(3, 2))
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    operator = es.GaussNewton(es.Problem(model, data, loss=nn.MSELoss()))
    for use in (operator.diagonal, operator.dense):
        with pytest.raises(
            ValueError, match=r"must be finite; number 0 holds .* overflow torch"
        ):
            use()


def test_a_model_that_changed_is_noticed_by_every_use(problem):
    operators = [es.Hessian(problem), es.GaussNewton(problem)]
    vector = torch.ones(operators[0].shape[0], dtype=torch.float64)
    for operator in operators:
        _ = operator @ vector
    with torch.no_grad():
        problem.model[0].weight[0, 0] += 1e-9  # type: ignore[operator,index]
    for operator in operators:
        for use in (operator.dense, operator.diagonal, lambda op=operator: op @ vector):
            with pytest.raises(es.DataChangedError, match="Make a new one after every"):
                use()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_is_refused():
    model = zoo.parameter_zoo.Checkpointed(reentrant=True).double()
    data = (torch.ones(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2]))
    operator = es.Hessian(es.Problem(model, data, loss=nn.CrossEntropyLoss()))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        _ = operator @ torch.ones(operator.shape[0], dtype=torch.float64)


@pytest.mark.parametrize("kind", [es.GaussNewton, es.Fisher])
def test_derivatives_infinite_for_every_sample_are_not_taken_for_mixing(kind):
    class Root(nn.Linear):
        def forward(self, input):  # noqa: A002 - as torch calls it
            return super().forward(input).abs().sqrt()

    model = Root(2, 2, bias=False).double()
    data = (torch.zeros(5, 2).double(), torch.tensor([0, 1, 1, 0, 1]))
    operator = kind(es.Problem(model, data, loss=nn.CrossEntropyLoss()))
    for use in (operator.diagonal, operator.dense):
        with pytest.raises(ValueError, match=r"sample 0 by 'weight' holds NaN or inf"):
            use()


@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton, es.Fisher])
def test_a_model_in_the_place_of_a_problem_is_refused(kind):
    with pytest.raises(TypeError, match=r"made of an es\.Problem; got Linear\. Pass"):
        kind(nn.Linear(2, 2))
