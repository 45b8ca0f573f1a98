"""The trace penalty against traces of dense Hessians and their gradients."""

from typing import Any

import oracles_measures as oracles
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import eigenscope as es
from eigenscope.estimators.probes import draw_probes

SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(6, 3, generator=SOURCE, dtype=torch.float64)
Y = torch.randint(2, (6,), generator=SOURCE)
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def network(activation: type[nn.Module] = nn.Tanh) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        net = nn.Sequential(nn.Linear(3, 2), activation(), nn.Linear(2, 2))
    return net.double()


def exact_block(model: nn.Module, chosen: list[str]) -> Tensor:
    """Return the Hessian by some parameters with its graph, row by row."""
    params = [p for n, p in model.named_parameters() if n in chosen]
    grads = torch.autograd.grad(cross_entropy(model(X), Y), params, create_graph=True)
    return torch.stack(
        [
            torch.cat(
                [
                    row.flatten()
                    for row in torch.autograd.grad(entry, params, create_graph=True)
                ]
            )
            for grad in grads
            for entry in grad.flatten()
        ]
    )


def exact_trace(model: nn.Module, chosen: list[str]) -> Tensor:
    return exact_block(model, chosen).trace()


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    grads = torch.autograd.grad(
        value, [*model.parameters()], retain_graph=True, materialize_grads=True
    )
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("law", ["normal", "sign"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("params", ["all", ["2.*"]])
def test_value_and_gradient_are_unbiased_estimates_of_the_exact_trace(
    law, activation, params
):
    model = network(activation)
    term = es.TracePenalty(model, weight=1.0, params=params, law=law)
    chosen = NAMES if params == "all" else ["2.weight", "2.bias"]
    exact = exact_trace(model, chosen)
    expected = torch.cat([exact.detach()[None], gradient(exact, model)])
    drawn = []
    for step in range(300):
        value = term.trace(cross_entropy(model(X), Y), step=step)
        drawn.append(torch.cat([value.detach()[None], gradient(value, model)]))
    terms = torch.stack(drawn)
    stderr = terms.std(0) / len(terms) ** 0.5
    # 4.5 standard errors: once in 150,000 entries by chance.
    assert bool(((terms.mean(0) - expected).abs() <= 4.5 * stderr + 1e-12).all())
    assert float(stderr[0]) < 0.3 * float(expected[0])


@pytest.mark.parametrize("params", ["all", ["2.*"]])
def test_value_and_gradient_are_those_of_the_quadratic_form_of_each_probe(params):
    model = network()
    chosen = NAMES if params == "all" else ["2.weight", "2.bias"]
    term = es.TracePenalty(model, weight=1.0, params=params, num_probes=2, seed=3)
    found = term.trace(cross_entropy(model(X), Y), step=5)
    block = exact_block(model, chosen)
    probes = draw_probes(range(10, 12), len(block), seed=3, law="normal")
    expected = ((probes @ block) * probes).sum() / 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    # Third derivatives of float64, to rounding.
    torch.testing.assert_close(
        gradient(found, model), gradient(expected, model), rtol=1e-9, atol=1e-12
    )


def test_probes_of_a_step_are_averaged_and_repeat():
    model = network()
    loss = cross_entropy(model(X), Y)
    many = es.TracePenalty(model, weight=1.0, params="all", num_probes=3)
    one = es.TracePenalty(model, weight=1.0, params="all")
    singles = [one.trace(loss, step=step) for step in (6, 7, 8)]
    assert len({value.item() for value in singles}) == 3
    mean = torch.stack(singles).mean()
    torch.testing.assert_close(many.trace(loss, step=2), mean)
    assert torch.equal(many.trace(loss, step=2), many.trace(loss, step=2))
    other = es.TracePenalty(model, weight=1.0, params="all", num_probes=3, seed=9)
    assert not torch.equal(other.trace(loss, step=2), mean)


def test_it_is_added_where_it_is_due_and_reaches_every_parameter():
    model = network()
    term = es.TracePenalty(model, weight=0.5, every=4, first_step=6)
    loss = cross_entropy(model(X), Y)
    assert [step for step in range(20) if term.is_due(step)] == [8, 12, 16]
    assert term(loss, step=7) is loss
    assert es.TracePenalty(model, weight=0.0)(loss, step=0) is loss
    penalized = term(loss, step=8)
    torch.testing.assert_close(penalized, loss + 0.5 * term.trace(loss, step=8))
    penalized.backward()
    assert all(float(p.grad.norm()) > 0 for p in model.parameters())


def test_the_middle_is_that_of_the_published_study():
    lenet = nn.Sequential(*[nn.Linear(2, 2) for _ in range(5)])
    found = es.TracePenalty(lenet, weight=1.0).params
    expected = list(dict(lenet.named_parameters()))
    assert list(found) == [n for i, n in enumerate(expected) if 2.5 <= i <= 7.5]
    assert es.TracePenalty(nn.Linear(2, 2), weight=1.0).params == ("bias",)
    eight = nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)])
    found = es.TracePenalty(eight, weight=1.0).params
    assert found == ("1.weight", "1.bias", "2.weight", "2.bias", "3.weight")


def test_a_loss_that_is_linear_in_the_parameters_has_no_trace():
    layer = nn.Linear(3, 1)
    term = es.TracePenalty(layer, weight=1.0, params="all")
    loss = layer(torch.ones(2, 3)).sum()
    assert term(loss, step=0).item() == loss.item()
    term(loss, step=0).backward()


def test_descent_on_the_penalty_lowers_the_trace():
    model = network()
    term = es.TracePenalty(model, weight=0.3, params="all", num_probes=4)
    before = exact_trace(model, NAMES).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(30):
        loss = cross_entropy(model(X), Y)
        penalty = term(loss, step=step) - loss
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert exact_trace(model, NAMES).item() < 0.8 * before
    dense = oracles.curvature(model, X, Y, "hessian")
    assert abs(exact_trace(model, NAMES).item() - float(dense.trace())) < 1e-12


@pytest.mark.message
def test_wrong_options_and_losses_are_refused():
    model: Any = network()
    frozen = network().requires_grad_(False)
    wrong: list[tuple[Any, str]] = [
        ({"weight": -1.0}, "weight must be finite and at least 0; got -1"),
        ({"weight": float("nan")}, "weight must be finite and at least 0; got nan"),
        ({"num_probes": 0}, "num_probes must be at least 1; got 0"),
        ({"every": 0}, "every must be at least 1; got 0"),
        ({"law": "cauchy"}, "law must be one of 'sphere', 'sign', 'normal'"),
        ({"params": "last"}, "params must be one of 'middle', 'all'; got 'last'"),
        ({"params": ["9.weight"]}, "params must match parameters of the model"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            es.TracePenalty(model, **({"weight": 1.0} | options))
    with pytest.raises(ValueError, match=r"leaves none for params='middle'\. Unf"):
        es.TracePenalty(frozen, weight=1.0)
    term = es.TracePenalty(model, weight=1.0)
    with pytest.raises(ValueError, match=r"shape \(6,\) and requires_grad=True"):
        term(cross_entropy(model(X), Y, reduction="none"), step=0)
    with pytest.raises(ValueError, match=r"requires_grad=False\. Pass the loss"):
        term(cross_entropy(model(X), Y).detach(), step=0)


def test_hooks_on_gradients_do_not_enter_the_curvature():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    x, y = torch.randn(5, 3).double(), torch.arange(5) % 2

    def numbers() -> list[torch.Tensor]:
        risk = es.Problem(model, (x, y), loss=nn.CrossEntropyLoss())
        loss = nn.functional.cross_entropy(model(x), y)
        penalty = es.TracePenalty(model, weight=1.0, params="all")
        jacobian = es.parameter_jacobian(model, x)["0.weight"]
        return [es.Hessian(risk).dense(), penalty.trace(loss).detach(), jacobian]

    plain = numbers()
    weight: Any = model[0].weight
    handle = weight.register_hook(lambda gradient: 2 * gradient)
    for found, expected in zip(numbers(), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(model(x).sum(), weight)
    handle.remove()
    (unhooked,) = torch.autograd.grad(model(x).sum(), weight)
    assert torch.equal(gradient, 2 * unhooked)  # the hook is there afterwards
