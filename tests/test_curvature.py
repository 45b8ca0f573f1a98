"""Curvature matrices against dense float64 oracles, model by model and loss by loss."""

from functools import cache
from typing import Any

import curvature_zoo as zoo
import pytest
import torch
from curvature_zoo import LOSSES, MODELS, NAMES, PIECEWISE_LINEAR
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.testing import assert_close

import eigenscope as es
from eigenscope.autodiff import twice_differentiable_bags

# Sums of some hundred terms in float64, in other orders.
EXACT: Any = {"rtol": 1e-9, "atol": 1e-12}
CASES = [
    *((name, loss) for name in MODELS for loss in ("classes", "squared", "any")),
    *(
        (name, loss)
        for name in ("linear", "tanh", "lenet", "sequence")
        for loss in ("weighted", "sum", "logistic")
    ),
    *((name, "absolute") for name in ("tanh", "lenet")),
    ("causal", "classes"),
]
every = pytest.mark.parametrize(("name", "loss"), CASES)


@cache
def hessian(name: str, loss: str) -> tuple[es.Hessian, Tensor]:
    case = zoo.make(name, loss)
    return es.Hessian(zoo.problem(case)), zoo.hessian_oracle(case)


@cache
def gauss_newton(name: str, loss: str) -> tuple[es.GaussNewton, Tensor]:
    case = zoo.make(name, loss)
    return es.GaussNewton(zoo.problem(case)), zoo.gauss_newton_oracle(case)


def check(operator: Any, matrix: Tensor) -> None:
    """Products with a vector and a block, dense form, diagonal and SciPy's products."""
    source = torch.Generator().manual_seed(1)
    block = torch.randn(len(matrix), 3, generator=source, dtype=torch.float64)
    assert operator.shape == tuple(matrix.shape)
    assert_close(operator @ block, matrix @ block, **EXACT)
    assert_close(operator @ block[:, 0], matrix @ block[:, 0], **EXACT)
    assert_close(operator.dense(), matrix, **EXACT)
    assert_close(operator.diagonal(), matrix.diagonal(), **EXACT)
    product: Any = operator.to_scipy() @ block.numpy()
    assert_allclose(product, (matrix @ block).numpy(), **EXACT)


@every
def test_a_hessian_is_that_of_the_oracle(name, loss):
    check(*hessian(name, loss))


@every
def test_a_gauss_newton_matrix_is_that_of_the_oracle(name, loss):
    check(*gauss_newton(name, loss))


@pytest.mark.parametrize("loss", ["classes", "squared", "logistic", "weighted"])
@pytest.mark.parametrize("name", ["linear", "tanh", "sequence"])
def test_the_true_fisher_matrix_is_the_gauss_newton_matrix(name, loss):
    case = zoo.make(name, loss)
    check(es.Fisher(zoo.problem(case)), zoo.gauss_newton_oracle(case))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        *((name, "classes") for name in NAMES),
        *((name, "squared") for name in MODELS),
    ],
)
def test_an_empirical_fisher_matrix_sums_gradients_of_terms(name, loss):
    case = zoo.make(name, loss)
    operator = es.Fisher(zoo.problem(case), kind="empirical")
    check(operator, zoo.empirical_fisher_oracle(case))


@pytest.mark.parametrize("loss", ["classes", "squared"])
@pytest.mark.parametrize("name", ["tanh", "sequence"])
def test_a_sampled_fisher_matrix_approaches_the_true_one(name, loss):
    case = zoo.make(name, loss)
    few = es.Fisher(zoo.problem(case), kind="sampled", num_draws=2)
    check(few, few.dense())
    many = es.Fisher(zoo.problem(case), kind="sampled", num_draws=3000)
    expected = zoo.gauss_newton_oracle(case)
    found = many @ torch.eye(len(expected), dtype=torch.float64)
    gap = torch.linalg.matrix_norm(found - expected)
    # The relative error of a mean of 3000 draws; a wrong weight moves it by a third.
    assert gap <= 0.1 * torch.linalg.matrix_norm(expected)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7])
@pytest.mark.parametrize("kind", ["hessian", "true", "empirical", "sampled"])
def test_no_cut_into_batches_changes_a_matrix(kind, batch_size):
    case = zoo.make("sequence", "weighted")
    data = tuple(torch.cat(part) for part in zip(*case.batches, strict=True))
    made = [
        es.Hessian(problem) if kind == "hessian" else es.Fisher(problem, kind=kind)
        for problem in (
            zoo.problem(case),
            es.Problem(case.model, data, loss=case.loss, batch_size=batch_size),
        )
    ]
    ones = torch.ones(made[0].shape[0], 1, dtype=torch.float64)
    assert_close(made[1].dense(), made[0].dense(), **EXACT)
    assert_close(made[1] @ ones, made[0] @ ones, **EXACT)


@pytest.mark.parametrize("share", [0, 0.8, 4])
@pytest.mark.parametrize("name", ["tanh", "checkpointed", "attention"])
def test_no_memory_budget_changes_a_product(name, share):
    problem = zoo.problem(zoo.make(name), batch_size=3)
    _, matrix = hessian(name, "classes")
    roomy = es.Hessian(problem)
    _ = roomy @ matrix[0]
    memory = max(1, int(share * roomy.products.recordings.bytes))
    operator = es.Hessian(problem, memory=memory)
    block = torch.randn(
        len(matrix), 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    for _ in range(3):
        assert_close(operator @ block, matrix @ block, **EXACT)
    part = es.layer_blocks(operator)
    last = list(part)[-1]
    rows = operator.layout.columns[last]
    expected = matrix[rows, rows] @ block[rows]
    assert_close(part[last] @ block[rows], expected, **EXACT)
    kept = operator.products.recordings
    assert kept.bytes <= memory
    # Nothing, a part, everything is kept; chunks are smaller where memory is.
    assert len(kept.kept) in {0: {0}, 0.8: set(range(1, 7)), 4: {3}}[share]
    assert kept.num_chunks == (3 if share == 4 else 7)


@pytest.mark.parametrize("name", ["tied", "scaled", "attention", "resnet", "causal"])
@pytest.mark.parametrize("make", [hessian, gauss_newton])
def test_layer_blocks_are_the_diagonal_blocks_of_the_oracle(make, name):
    operator, matrix = make(name, "classes")
    blocks = es.layer_blocks(operator)
    assert list(blocks) == list(operator.problem.params)
    for parameter, block in blocks.items():
        rows = operator.layout.columns[parameter]
        check(block, matrix[rows, rows])


def test_blocks_of_modules_and_of_own_groups_hold_several_parameters():
    operator, matrix = hessian("scaled", "classes")
    columns = operator.layout.columns
    modules = es.layer_blocks(operator, by="module")
    assert list(modules) == ["", "first", "last"]
    own = es.layer_blocks(operator, by={"a": "*.bias", "b": ["scale", "first.*"]})
    places = {
        "": ["scale", "offset"],
        "first": ["first.weight", "first.bias"],
        "a": ["first.bias", "last.bias"],
        "b": ["scale", "first.weight", "first.bias"],
    }
    for group, names in places.items():
        rows = torch.cat([torch.arange(len(matrix))[columns[name]] for name in names])
        block = (modules | own)[group]
        check(block, matrix[rows][:, rows])


def test_parameters_are_chosen_by_name_also_when_they_are_frozen():
    case = zoo.make("relu")
    _, matrix = hessian("relu", "classes")
    full = es.Hessian(zoo.problem(case)).layout.columns
    case.model[2].requires_grad_(requires_grad=False)
    operator = es.Hessian(zoo.problem(case, params="2.*"))
    rows = slice(full["2.weight"].start, full["2.bias"].stop)
    check(operator, matrix[rows, rows])
    assert not case.model[2].weight.requires_grad


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_blocks_of_piecewise_linear_layers_are_gauss_newton_blocks(name):
    operator, matrix = hessian(name, "classes")
    _, other = gauss_newton(name, "classes")
    for parameter, block in es.layer_blocks(operator).items():
        rows = operator.layout.columns[parameter]
        # Equal but for rounding: no tolerance that a curved layer would meet.
        assert_close(matrix[rows, rows], other[rows, rows], rtol=0, atol=1e-12)
        assert block.comparison.is_equal  # type: ignore[attr-defined]
    assert not operator.comparison.is_equal


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_of_a_curved_network_only_the_last_layer_is_a_gauss_newton_block(name):
    operator, _ = hessian(name, "classes")
    equal = {
        parameter: block.comparison.is_equal  # type: ignore[attr-defined]
        for parameter, block in es.layer_blocks(operator).items()
    }
    assert equal == {
        "0.weight": False,
        "0.bias": False,
        "2.weight": True,
        "2.bias": True,
    }


def test_the_hessian_of_a_linear_model_is_its_gauss_newton_matrix():
    operator, matrix = hessian("linear", "classes")
    assert operator.comparison.is_equal
    assert_close(matrix, gauss_newton("linear", "classes")[1], **EXACT)


def test_softmax_regression_has_its_closed_form():
    case = zoo.make("linear")
    x = torch.cat([batch[0] for batch in case.batches])
    p = torch.softmax(x @ case.model.weight.T + case.model.bias, 1).detach()
    extended = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    terms = [
        torch.kron(torch.diag(own) - torch.outer(own, own), torch.outer(row, row))
        for own, row in zip(p, extended, strict=True)
    ]
    expected = torch.stack(terms).mean(0)
    # Weights come before biases, not each class's bias behind its weights.
    order = [c * 5 + j for c in range(3) for j in range(4)] + [4, 9, 14]
    found, _ = hessian("linear", "classes")
    assert_close(found.dense(), expected[order][:, order], **EXACT)


def test_sums_multiples_and_shifts_are_operators_with_blocks():
    (h, hessian_matrix), (g, other) = (
        hessian("sigmoid", "classes"),
        gauss_newton("sigmoid", "classes"),
    )
    eye = torch.eye(len(other), dtype=torch.float64)
    check(h - g, hessian_matrix - other)
    combined = 2.0 * (h + g).shifted(0.5) - g * 3.0 + (-h)
    expected = 2 * (hessian_matrix + other + 0.5 * eye) - 3 * other - hessian_matrix
    check(combined, expected)
    check(sum([h, g]) / 4, (hessian_matrix + other) / 4)
    three: Any = torch.tensor(3.0)
    check(three * h, 3 * hessian_matrix)
    for name, block in es.layer_blocks(combined).items():
        rows = h.layout.columns[name]
        check(block, expected[rows, rows])


def test_the_risk_has_a_value():
    case = zoo.make("sequence", "weighted")
    value = case.whole(*zoo.flattened(case, zoo.outputs(case)))
    assert es.Hessian(zoo.problem(case)).risk.value == pytest.approx(value.item())


@pytest.mark.parametrize("loss", list(LOSSES))
def test_float32_gives_the_same_to_its_precision(loss):
    case = zoo.make("tanh", loss)
    matrix = zoo.hessian_oracle(case)
    operator = es.Hessian(es.Problem(case.model.float(), case.batches, loss=case.loss))
    assert operator.dtype == torch.float32
    assert_close(operator.dense().double(), matrix, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_was_found():
    case = zoo.make("resnet")
    before = {k: v.clone() for k, v in case.model.state_dict().items()}
    operator = es.Hessian(zoo.problem(case))
    operator.diagonal()
    _ = operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    assert all(torch.equal(before[k], v) for k, v in case.model.state_dict().items())
    assert all(p.grad is None for p in case.model.parameters())
    assert all(p.requires_grad for p in case.model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_operators_work_where_nothing_is_recorded(mode):
    _, matrix = hessian("tanh", "classes")
    case = zoo.make("tanh")
    with mode():
        operator = es.Hessian(zoo.problem(case))
        ones = torch.ones(len(matrix), dtype=torch.float64)
        found = (operator @ ones, operator.diagonal())
    assert_close(found[0].clone(), matrix.sum(1), **EXACT)
    assert_close(found[1].clone(), matrix.diagonal(), **EXACT)


class Bags(nn.Module):
    """Bags of words of unequal length behind a curved layer, two at a time."""

    def __init__(self, mode: Any, *, plain: bool) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(7, 3, mode=mode, padding_idx=6).double()
        self.head = nn.Linear(3, 4).double()
        self.mode, self.plain = mode, plain

    def forward(self, words: Tensor) -> Tensor:
        if not self.plain:
            return self.head(torch.tanh(self.bag(words)))
        pooled: list[Tensor] = []
        for row in words:
            rows = self.bag.weight[row[row != 6]]
            if not len(rows):
                pooled.append(torch.zeros(3).double())
            elif self.mode == "max":
                pooled.append(torch.stack([column.max() for column in rows.T]))
            else:
                pooled.append(rows.sum(0) / (len(rows) if self.mode == "mean" else 1))
        return self.head(torch.tanh(torch.stack(pooled)))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton])
def test_bags_of_embeddings_have_second_derivatives(mode, kind):
    words = torch.tensor([[0, 1, 1], [2, 6, 3], [6, 6, 6], [4, 5, 0], [1, 6, 6]])
    labels = torch.tensor([0, 1, 2, 3, 0])
    found: list[Any] = []
    for plain in (False, True):
        torch.default_generator.manual_seed(0)
        model = Bags(mode, plain=plain)
        problem = es.Problem(
            model, (words, labels), loss=nn.CrossEntropyLoss(), batch_size=2
        )
        operator = kind(problem)
        found.append(operator @ torch.eye(operator.shape[0]).double())
    assert_close(found[0], found[1], **EXACT)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("has_last", [True, False])
def test_bags_by_offsets_are_those_of_torch(mode, has_last):
    bag = nn.EmbeddingBag(
        9, 3, mode=mode, padding_idx=-2, include_last_offset=has_last
    ).double()
    words, offsets = torch.tensor([0, 1, 7, 2, 3, 8, 8]), torch.tensor([0, 3, 3, 6])
    offsets = torch.cat([offsets, torch.tensor([7])]) if has_last else offsets
    weights = torch.linspace(-1, 2, 7).double() if mode == "sum" else None
    expected = bag(words, offsets, weights)
    with twice_differentiable_bags(bag):
        assert_close(bag(words, offsets, weights), expected, **EXACT)
