"""Risks and their output matrices against torch's own losses of the whole data set."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.nn import functional
from torch.testing import assert_close

import eigenscope as es
from eigenscope.losses import Risk
from eigenscope.losses.interpret import known_loss

SIZES = (1, 4, 2)
N, K, T = sum(SIZES), 3, 4
# Sums of some dozens of terms in float64, in another order.
EXACT: Any = {"rtol": 1e-11, "atol": 1e-13}


def normal(*shape: int) -> Tensor:
    source = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=source, dtype=torch.float64)


WEIGHT = torch.tensor([1.0, 0.25, 3.0], dtype=torch.float64)
INDEX = torch.tensor([0, 1, 2, 2, 1, 0, 2])
IGNORED = torch.tensor([-100, 1, 2, -100, 1, 0, -100])
SEQUENCE = torch.arange(N * T).reshape(N, T) % K
PADDED = SEQUENCE.masked_fill(torch.ones(N, T).triu(1).bool(), -100)
SHARES = torch.softmax(normal(N, K), 1)
BINARY = (normal(N, K) > 0).double()
CLASSES: dict[str, tuple[Any, Tensor, Tensor]] = {
    "plain": (nn.CrossEntropyLoss, normal(N, K), INDEX),
    "weighted": (partial(nn.CrossEntropyLoss, weight=WEIGHT), normal(N, K), INDEX),
    "ignored": (nn.CrossEntropyLoss, normal(N, K), IGNORED),
    "smoothed": (
        partial(nn.CrossEntropyLoss, label_smoothing=0.3),
        normal(N, K),
        INDEX,
    ),
    "all at once": (
        partial(nn.CrossEntropyLoss, weight=WEIGHT, label_smoothing=0.3),
        normal(N, K),
        IGNORED,
    ),
    "shares": (nn.CrossEntropyLoss, normal(N, K), SHARES),
    "weighted shares": (
        partial(nn.CrossEntropyLoss, weight=WEIGHT, label_smoothing=0.3),
        normal(N, K),
        SHARES,
    ),
    "sequence": (nn.CrossEntropyLoss, normal(N, K, T), SEQUENCE),
    "padded sequence": (
        partial(nn.CrossEntropyLoss, weight=WEIGHT),
        normal(N, K, T),
        PADDED,
    ),
    "sequence of shares": (
        nn.CrossEntropyLoss,
        normal(N, K, T),
        torch.softmax(normal(N, K, T), 1),
    ),
}
ELEMENTWISE: dict[str, tuple[Any, Tensor, Tensor]] = {
    "squared": (nn.MSELoss, normal(N, K), normal(N, K) + 1),
    "squared sequence": (nn.MSELoss, normal(N, K, T), normal(N, T, K).mT),
    "logistic": (nn.BCEWithLogitsLoss, normal(N, K), BINARY),
    "weighted logistic": (
        partial(nn.BCEWithLogitsLoss, weight=WEIGHT, pos_weight=WEIGHT.flip(0)),
        normal(N, K),
        BINARY,
    ),
}
OTHERS: dict[str, tuple[Any, Tensor, Tensor]] = {
    "absolute": (nn.L1Loss, normal(N, K), normal(N, K) + 1),
    "huber": (nn.HuberLoss, normal(N, K), normal(N, K) + 1),
    "log-likelihood": (
        partial(nn.NLLLoss, weight=WEIGHT),
        normal(N, K).log_softmax(1),
        IGNORED,
    ),
    "divergence": (nn.KLDivLoss, normal(N, K).log_softmax(1), SHARES),
    "counts": (nn.PoissonNLLLoss, normal(N, K), BINARY * 3),
    "margins": (nn.MultiLabelSoftMarginLoss, normal(N, K), BINARY),
}
ALL = CLASSES | ELEMENTWISE | OTHERS


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def problem(loss: Any, raw: Tensor, targets: Tensor) -> es.Problem:
    pairs = zip(raw.split(SIZES), targets.split(SIZES), strict=True)
    return es.Problem(nn.Identity(), list(pairs), loss=loss)


def check_value(loss: Any, raw: Tensor, targets: Tensor) -> None:
    found = Risk(problem(loss, raw, targets))
    assert_close(number(found.value), loss(raw, targets), **EXACT)


# torch announces another meaning of KLDivLoss's mean.
announced = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")


@announced
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ALL)
def test_a_risk_is_the_loss_of_the_whole_data_set_at_once(name, reduction):
    make, raw, targets = ALL[name]
    check_value(make(reduction=reduction), raw, targets)


def test_a_divergence_may_be_averaged_over_samples():
    make, raw, targets = OTHERS["divergence"]
    check_value(make(reduction="batchmean"), raw, targets)


@pytest.mark.parametrize(
    "loss",
    [
        functional.cross_entropy,
        partial(functional.cross_entropy, weight=WEIGHT, reduction="sum"),
        partial(functional.cross_entropy, label_smoothing=0.1),
    ],
)
def test_functions_of_torch_mean_what_their_modules_do(loss):
    check_value(loss, normal(N, K), IGNORED)
    assert known_loss(loss).name == "cross-entropy"  # type: ignore[union-attr]


def squares(raw: Tensor, targets: Tensor) -> Tensor:
    return (raw.softmax(1)[:, 0] - targets).square()


def test_callables_may_be_means_or_sums_over_samples():
    check_value(lambda z, y: squares(z, y).mean(), normal(N, K), INDEX)
    check_value(lambda z, y: squares(z, y).sum(), normal(N, K), INDEX)


def test_a_callable_may_return_sum_and_count():
    def masked(raw: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        kept = targets >= 0
        return (squares(raw, targets) * kept).sum(), kept.sum()

    found = Risk(problem(masked, normal(N, K), IGNORED))
    kept = IGNORED >= 0
    expected = squares(normal(N, K), IGNORED)[kept].mean()
    assert_close(number(found.value), expected, **EXACT)


def test_tokens_count_alike_whatever_batch_they_are_in():
    logits, labels = normal(N, T, K), PADDED
    found = Risk(problem(es.next_token_loss, logits, labels))
    expected = functional.cross_entropy(
        logits[:, :-1].reshape(-1, K), labels[:, 1:].reshape(-1)
    )
    assert_close(number(found.value), expected, **EXACT)


def outer_sum(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return flat.T @ flat


def matrix_of(product: Any, raw: Tensor) -> Tensor:
    units = torch.eye(raw.numel(), dtype=raw.dtype)
    columns = [product(unit.view_as(raw)).flatten() for unit in units]
    return torch.stack(columns, 1)


def check_matrix(found: Any, raw: Tensor, expected: Tensor) -> None:
    """Products, and products of the factor with itself, are the matrix."""
    assert_close(matrix_of(found.product, raw), expected, **EXACT)
    total = torch.zeros_like(expected)
    for sign, project in ((1, found.project), (-1, found.project_negative)):
        rows = project(raw).shape[1]
        if rows:
            roots: Any = jacobian(project, raw)
            total += sign * outer_sum(roots.flatten(0, 1))
    assert_close(total, expected, **EXACT)


@announced
@pytest.mark.parametrize("name", ALL)
def test_curvature_is_the_second_derivative_of_the_numerator(name):
    make, raw, targets = ALL[name]
    total = make(reduction="sum")
    expected: Any = hessian(lambda z: total(z, targets), raw)
    risk = Risk(problem(make(), raw, targets))
    found = risk.loss.curvature(raw, targets)
    check_matrix(found, raw, expected.reshape(raw.numel(), -1))


def test_curvature_of_an_indefinite_loss_has_both_signs():
    def saddle(raw: Tensor, targets: Tensor) -> Tensor:
        return (raw[:, 0] * raw[:, 1] ** 2 - raw[:, 2] ** 2 * targets).mean()

    raw = normal(N, K)
    expected: Any = hessian(lambda z: saddle(z, INDEX) * N, raw)
    found = Risk(problem(saddle, raw, INDEX)).loss.curvature(raw, INDEX)
    check_matrix(found, raw, expected.reshape(raw.numel(), -1))


def test_curvature_of_the_next_token_is_shifted():
    raw = normal(N, T, K)
    expected: Any = hessian(lambda z: es.next_token_loss(z, PADDED)[0], raw)
    loss = known_loss(es.next_token_loss)
    assert loss is not None
    check_matrix(loss.curvature(raw, PADDED), raw, expected.reshape(raw.numel(), -1))


@pytest.mark.parametrize("name", CLASSES)
def test_the_true_fisher_of_classes_is_their_curvature(name):
    make, raw, targets = CLASSES[name]
    loss = known_loss(make())
    assert loss is not None
    expected = matrix_of(loss.curvature(raw, targets).product, raw)
    check_matrix(loss.fisher("true", raw, targets, None), raw, expected)


@pytest.mark.parametrize("name", ["plain", "ignored", "smoothed", "sequence"])
def test_the_empirical_fisher_sums_gradients_of_single_terms(name):
    make, raw, targets = CLASSES[name]
    loss = known_loss(make())
    assert loss is not None
    terms = make(reduction="none")
    rows: Any = jacobian(lambda z: terms(z, targets).flatten(), raw)
    found = loss.fisher("empirical", raw, targets, None)
    check_matrix(found, raw, outer_sum(rows))


@pytest.mark.parametrize("name", ["weighted", "all at once", "padded sequence"])
def test_class_weights_enter_the_empirical_fisher_once(name):
    make, raw, targets = CLASSES[name]
    loss = known_loss(make())
    assert loss is not None
    terms = make(reduction="none")
    rows: Any = jacobian(lambda z: terms(z, targets).flatten(), raw)
    # A constant shift of the logits of a term shows its weight: m = -ℓ'(softmax = 0).
    smoothing = 0.3 if name == "all at once" else 0.0
    kept = (targets != -100).flatten()
    own = WEIGHT[targets.flatten().clamp(min=0)]
    mass = (1 - smoothing) * own + smoothing * WEIGHT.mean()
    scale = torch.where(kept, mass, 1).rsqrt()
    expected = outer_sum(rows.flatten(1) * scale[:, None])
    check_matrix(loss.fisher("empirical", raw, targets, None), raw, expected)


@pytest.mark.parametrize("name", [*ELEMENTWISE, "huber", "counts"])
def test_other_empirical_fishers_sum_gradients_of_samples(name):
    make, raw, targets = ALL[name]
    loss = known_loss(make())
    assert loss is not None
    terms = make(reduction="none")
    rows: Any = jacobian(lambda z: terms(z, targets).reshape(N, -1).sum(1), raw)
    found = loss.fisher("empirical", raw, targets, None)
    check_matrix(found, raw, outer_sum(rows))


SAMPLED = ["plain", "weighted", "padded sequence", "squared", "squared sequence"]


@pytest.mark.parametrize("name", [*SAMPLED, "logistic"])
def test_the_sampled_fisher_approaches_the_true_one(name):
    make, raw, targets = ALL[name]
    loss = known_loss(make())
    assert loss is not None
    source = torch.Generator().manual_seed(1)
    shape = (N, *loss.draw_shape(targets), 4000)
    uniform = torch.rand(shape, generator=source, dtype=torch.float64)
    found = matrix_of(loss.fisher("sampled", raw, targets, uniform).product, raw)
    expected = matrix_of(loss.fisher("true", raw, targets, None).product, raw)
    # Entries are means of 4000 draws of variance about one: four standard errors.
    assert_close(found, expected, rtol=0, atol=4 * 3 / 4000**0.5)
    few = loss.fisher("sampled", raw, targets, uniform[..., :2])
    check_matrix(few, raw, matrix_of(few.product, raw))
