"""Losses and targets that have no risk say what is needed."""

from functools import partial
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional

import eigenscope as es
from eigenscope.losses import Risk

pytestmark = pytest.mark.message

X = torch.arange(20.0).reshape(5, 4) / 10
Y = torch.tensor([0, 1, 2, 0, 1])
CLASSES = nn.CrossEntropyLoss()


def linear(outputs: int = 3) -> nn.Linear:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Linear(4, outputs)


def risk(loss: Any, targets: Any = Y, model: nn.Module | None = None) -> Risk:
    return Risk(es.Problem(model or linear(), (X, targets), loss=loss, batch_size=2))


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (None, Y, r"needs a loss; the problem has none\. Pass es\.Problem\(model"),
        (CLASSES, None, r"batch 0 \(samples 0 to 1\) has none\. Pass \(inputs, tar"),
        (CLASSES, Y + 2, r"from 0 to 2 .* sample 1 has 3\. Does the model have"),
        (CLASSES, Y - 1, r"from 0 to 2 \(or ignore_index = -100\); sample 0 has -1"),
        (CLASSES, Y[:, None], r"targets of shape \(2,\) or .* of shape \(2, 1\)\. The"),
        (CLASSES, Y.float(), r"got torch\.float32 of shape \(2,\)\. The classes are"),
        (CLASSES, list(Y), r"got list\. The classes are on axis 1"),
        (CLASSES, Y * 0 - 100, r"at least one term .* all 5 samples is 0\. Are all"),
        (nn.CrossEntropyLoss(weight=torch.zeros(3)), Y, r"or their class weights zero"),
        (
            nn.CrossEntropyLoss(weight=torch.ones(2)),
            Y,
            r"weight of cross-entropy .* axis 1 of the output, shape \(3,\); got.*\(2",
        ),
        (
            nn.BCEWithLogitsLoss(pos_weight=torch.ones(4)),
            X[:, :3],
            r"pos_weight of binary .* output, \(3,\), or broadcast to it; got.*\(4,\)",
        ),
        (
            nn.NLLLoss(weight=torch.ones(2)),
            Y,
            r"NLLLoss must take outputs of shape \(2, 3\) .* weight tensor ",
        ),
        (nn.NLLLoss(), Y + 2, r"from sample 0 on PyTorch says: .*3 is out of bounds"),
        (nn.HuberLoss(), X[:, :1], r"needs targets .* got shape \(2, 1\)\. Reshape"),
        (functional.kl_div, Y.float(), r"kl_div of outputs .* got shape \(2,\)\. Res"),
        (
            partial(functional.poisson_nll_loss, log_input=True),
            Y.float(),
            r"poisson_nll_loss of outputs of shape .* got shape \(2,\)",
        ),
        (nn.GaussianNLLLoss(), X[:, :3], r"'var'\. .*a callable of \(raw output, t"),
        (
            nn.CrossEntropyLoss(reduction="none"),
            Y,
            "has reduction='none'",
        ),
        (nn.MSELoss(), Y.float(), r"same shape; got shape \(2,\)\. Reshape the tar"),
        (
            partial(functional.gaussian_nll_loss, var=torch.ones(2, 3)),
            torch.ones(5, 2, 3),
            r"gave \(2, 2, 3\)\. Do the targets have",
        ),
        (nn.BCEWithLogitsLoss(), X[:, :3] + 0.5, r"from 0 to 1; sample 1 has 1\.1"),
        (lambda z, _: z, Y, r"gave shape \(2, 3\)\. Sum or average its terms"),
        (lambda _, y: y.float().mean(), Y, r"<lambda> is not \(autograd sees no dep"),
        (lambda z, _: z.log().mean(), Y, r"<lambda> of batch 0 \(samples 0 to 1\) is "),
        (
            lambda z, _: z.square().sum().sqrt(),
            Y,
            r"be a mean over samples when a batch is cut in two; .* from sample 0 on",
        ),
        (
            lambda z, _: (z.square().sum().sqrt(), torch.tensor(2)),
            Y,
            r"sum and count that it returns must add up when a batch is cut in two",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_or_target_without_a_risk_is_refused(loss, targets, message):
    with pytest.raises(ValueError, match=message):
        risk(loss, targets)


def test_a_loss_that_divides_by_the_kept_targets_of_its_batch_is_refused():
    def masked(raw: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(raw, targets, ignore_index=0)

    with pytest.raises(ValueError, match="those of masked do not on the batch from"):
        risk(masked, torch.tensor([1, 2, 0, 1, 2]))


def test_a_loss_of_torch_that_is_no_mean_of_its_terms_is_refused():
    class Halved(nn.L1Loss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
            terms = functional.l1_loss(input, target, reduction="none")
            return terms if self.reduction == "none" else terms.mean() / 2

    Halved.__module__ = "torch.nn.modules.loss"
    with pytest.raises(ValueError, match="Halved must be the mean or the sum of its"):
        risk(Halved(), X[:, :3])


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.square()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        with torch.no_grad():
            return 2 * ctx.saved_tensors[0] * grads[0]


def test_a_loss_that_is_differentiable_once_is_refused():
    with pytest.raises(ValueError, match=r"is not \(autograd takes its gradient, whi"):
        risk(lambda z, _: Once.apply(z).mean())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"MultiMarginLoss is not \(.*not implemented"):
        risk(nn.MultiMarginLoss())


@pytest.mark.parametrize("kind", ["true", "sampled"])
def test_a_loss_that_is_no_likelihood_has_no_such_fisher_matrix(kind):
    loss = risk(nn.L1Loss(), X[:, :3]).loss
    uniform = torch.rand(5, 1) if kind == "sampled" else None
    with pytest.raises(ValueError, match=f"kind='{kind}' needs a loss .*; got L1Loss"):
        loss.fisher(kind, X[:, :3], X[:, :3], uniform)
    loss = risk(nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), X[:, :3] / 2).loss
    with pytest.raises(ValueError, match=f"no negative .* kind='{kind}' needs; use k"):
        loss.fisher(kind, X[:, :3], X[:, :3], uniform)


def test_batch_statistics_have_no_risk():
    model = nn.Sequential(linear(), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"a risk over .* training mode in '1'"):
        risk(CLASSES, model=model)


def test_samples_that_influence_each_other_have_no_risk():
    class Centered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] - x[:, :3].mean(0)

    with pytest.raises(ValueError, match="first 1 samples change when the other 1 of"):
        risk(CLASSES, model=Centered())


def test_a_batch_whose_output_is_not_finite_is_named():
    class Overflowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, :3] > 1.7, torch.inf, x[:, :3])

    with pytest.raises(ValueError, match=r"sample 4 in batch 2 \(samples 4 to 4\) hol"):
        Risk(
            es.Problem(
                Overflowing(),
                [(X[:2], Y[:2]), (X[2:4], Y[2:4]), (X[4:] + 1, Y[4:])],
                loss=CLASSES,
            )
        )


def test_a_model_that_changes_while_its_risk_is_used_is_noticed():
    case = zoo.make("mlp")
    found = Risk(es.Problem(case.model, case.batches, loss=CLASSES))
    found.require_same_model()
    case.model[0].weight.data[0, 0] += 1e-9
    with pytest.raises(es.DataChangedError, match="while its risk is in use; its"):
        found.require_same_model()


def test_a_batch_without_any_term_adds_nothing():
    ignored = torch.tensor([-100, -100, 1, 2, 0])
    found = risk(CLASSES, ignored)
    model = linear()
    expected = CLASSES(model(X[2:]), ignored[2:]).item()
    assert found.value == pytest.approx(expected, rel=1e-6)
