"""The Gauss-Newton matrix by classes, against its definition sample by sample."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eigenscope as es
from eigenscope.operators import SymmetricOperator

CLASSES, N = 4, 13
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 3.0], dtype=torch.float64)
LOSSES: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "weighted": {"weight": WEIGHTS},
    "ignored": {"ignore_index": 1},
    "smoothed": {"label_smoothing": 0.2},
}


def make(**options: Any) -> tuple[nn.Module, list[Any], nn.Module]:
    source = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source))
    x = torch.randn(N, 5, generator=source, dtype=torch.float64)
    y = torch.arange(N) % 3  # no sample has the last class
    batches = list(zip(x.split(5), y.split(5), strict=True))
    return model, batches, nn.CrossEntropyLoss(**options)


def oracle(model: nn.Module, batches: list[Any], loss: Any) -> dict[str, Tensor]:
    """The four parts by loops over samples and classes."""
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    params = list(model.parameters())
    pairs: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    masses = torch.ones(N, dtype=torch.float64)
    if loss.weight is not None:
        masses = loss.weight[y]
    masses = masses * (y != loss.ignore_index)
    total = 1.0 if loss.reduction == "sum" else masses.sum()
    for i in range(N):
        z = model(x[i : i + 1])[0]
        rows = [
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(c, params, retain_graph=True)]
            )
            for c in z
        ]
        jacobian, p = torch.stack(rows), torch.softmax(z, 0).detach()
        for c in range(CLASSES):
            direction = -p.clone()
            direction[c] += 1
            weight = masses[i] * p[c] / total
            if weight > 0:
                pairs.setdefault((int(y[i]), c), []).append(
                    (weight, jacobian.T @ direction)
                )
    size = sum(p.numel() for p in params)
    found = {name: torch.zeros(size, size, dtype=torch.float64) for name in PARTS}
    for c in range(CLASSES):
        means: dict[int, Any] = {}
        sizes: dict[int, Any] = {}
        for (own, other), members in pairs.items():
            if own != c:
                continue
            sizes[other] = sum(w for w, _ in members)
            means[other] = sum(w * g for w, g in members) / sizes[other]
            for w, g in members:
                gap = g - means[other]
                found["within"] += w * torch.outer(gap, gap)
        if not means:
            continue
        found["own"] += sizes[c] * torch.outer(means[c], means[c])
        others = [o for o in means if o != c]
        share: Any = sum(sizes[o] for o in others)
        center: Any = sum(sizes[o] * means[o] for o in others) / share
        found["classes"] += share * torch.outer(center, center)
        for o in others:
            gap = means[o] - center
            found["cross"] += sizes[o] * torch.outer(gap, gap)
    return found


PARTS = ("own", "classes", "cross", "within")


@pytest.mark.parametrize("kind", [es.GaussNewton, es.Hessian])
@pytest.mark.parametrize("name", LOSSES)
def test_every_part_is_that_of_its_definition_and_all_add_up(name, kind):
    model, batches, loss = make(**LOSSES[name])
    operator = kind(es.Problem(model, batches, loss=loss))
    parts = es.decompose_by_class(operator)
    expected = oracle(model, batches, loss)
    total = es.GaussNewton(es.Problem(model, batches, loss=loss)).dense()
    sums = torch.zeros_like(total)
    # Sums of some dozen terms in float64.
    close: Any = {"rtol": 1e-9, "atol": 1e-12}
    for part in PARTS:
        matrix = getattr(parts, part).dense()
        torch.testing.assert_close(matrix, expected[part], **close)
        sums += matrix
    torch.testing.assert_close(sums, total, **close)
    between = expected["own"] + expected["classes"] + expected["cross"]
    torch.testing.assert_close(parts.between.dense(), between, **close)


def test_a_block_of_a_layer_has_the_blocks_of_the_parts():
    model, batches, loss = make()
    problem = es.Problem(model, batches, loss=loss)
    operator: Any = es.GaussNewton(problem)
    blocks: Any = es.layer_blocks(operator)
    expected = oracle(model, batches, loss)
    for name, columns in operator.layout.columns.items():
        parts = es.decompose_by_class(blocks[name])
        for part in PARTS:
            matrix: SymmetricOperator = getattr(parts, part)
            torch.testing.assert_close(
                matrix.dense(), expected[part][columns, columns], rtol=1e-9, atol=1e-12
            )


def test_planted_classes_explain_the_outliers():
    """Samples of a class are nearly alike: all of G is between classes but noise."""
    source = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(CLASSES, 20, generator=source, dtype=torch.float64)
    y = torch.arange(200) % CLASSES
    noise = torch.randn(200, 20, generator=source, dtype=torch.float64)
    net = nn.Linear(20, CLASSES).double()
    nn.init.normal_(net.weight, std=0.1, generator=source)
    data = (centers[y] + 0.05 * noise, y)
    G = es.GaussNewton(es.Problem(net, data, loss=nn.CrossEntropyLoss()))
    parts = es.decompose_by_class(G)
    whole, between = es.spectrum(G), es.spectrum(parts.between)
    top = CLASSES * (CLASSES - 1)
    np.testing.assert_allclose(
        whole.values[-top:], between.values[-top:], atol=2e-2 * whole.values[-1]
    )
    rest = es.top_eigenpairs(parts.within, 1).values[0]
    assert 0 < rest < 1e-2 * whole.values[-1]
    # C² means, from whose matrix of inner products the eigenvalues come.
    assert between.provenance["size"] == CLASSES**2


def test_positions_of_a_sequence_have_classes_of_their_own():
    source = torch.Generator().manual_seed(1)
    net: Any = nn.Conv1d(3, CLASSES, 1).double()
    x = torch.randn(6, 3, 5, generator=source, dtype=torch.float64)
    y = torch.randint(CLASSES, (6, 5), generator=source)
    G = es.GaussNewton(es.Problem(net, (x, y), loss=nn.CrossEntropyLoss()))
    flat = nn.Linear(3, CLASSES).double()
    flat.load_state_dict(
        {"weight": net.weight[:, :, 0].detach(), "bias": net.bias.detach()}
    )
    data = (x.transpose(1, 2).reshape(-1, 3), y.reshape(-1))
    same = es.GaussNewton(es.Problem(flat, data, loss=nn.CrossEntropyLoss()))
    ours, theirs = es.decompose_by_class(G), es.decompose_by_class(same)
    for part in PARTS:
        torch.testing.assert_close(
            getattr(ours, part).dense(), getattr(theirs, part).dense()
        )


@pytest.mark.message
def test_what_has_no_classes_is_refused():
    model, batches, _ = make()
    x = [batch[0] for batch in batches]
    shares = [(own, torch.softmax(model(own).detach(), 1)) for own in x]
    operator = es.GaussNewton(es.Problem(model, shares, loss=nn.CrossEntropyLoss()))
    with pytest.raises(ValueError, match="cross-entropy with probabilities as targets"):
        es.decompose_by_class(operator)
    operator = es.GaussNewton(es.Problem(model, shares, loss=nn.MSELoss()))
    with pytest.raises(ValueError, match="needs a cross-entropy with classes"):
        es.decompose_by_class(operator)
    wrong: Any = es.Dense(torch.eye(2))
    with pytest.raises(
        TypeError, match="of a GaussNewton or Hessian operator; got Dens"
    ):
        es.decompose_by_class(wrong)
    operator = es.GaussNewton(es.Problem(*make()[:2], loss=nn.CrossEntropyLoss()))
    with pytest.raises(
        ValueError, match=r"means of 4² pairs of classes must .* 1000 B"
    ):
        es.decompose_by_class(operator, memory=1000)
