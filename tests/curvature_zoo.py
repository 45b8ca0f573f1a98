"""Networks with losses and ragged batches, and dense matrices of their curvature."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import parameter_zoo
import torch
import zoo
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import eigenscope as es

SIZES = (1, 4, 2)
N = sum(SIZES)
Total = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Case:
    model: Any
    batches: list[Any]
    loss: Any
    # The same loss of all samples at once, by torch alone, from raw output and targets.
    whole: Total


class Causal(nn.Module):
    """The interface of a language model: a mapping in, an object with logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        later = torch.ones(2 * input_ids.shape[1:], dtype=torch.bool).triu(1)
        h = self.tokens(input_ids)
        h = self.layer(h, src_mask=later, src_key_padding_mask=attention_mask == 0)
        return SimpleNamespace(logits=self.head(h), loss=None)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.body, self.first(x), use_reentrant=False)
        return self.last(h)  # type: ignore[arg-type]


class Attention(nn.Module):
    """Fused attention and a layer whose parameters nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Scaled(nn.Module):
    """One module owns two raw parameters; softplus is smooth."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.first = nn.Linear(3, 4)
        self.last = nn.Linear(4, 3)
        self.offset = nn.Parameter(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.softplus(self.first(x) * self.scale)) + self.offset


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "tanh": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)),
        (3,),
    ),
    "sigmoid": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 3)),
        (3,),
    ),
    "relu": (
        lambda: nn.Sequential(
            nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
        ),
        (3,),
    ),
    "lenet": (zoo.lenet, (1, 10, 10)),
    "resnet": (zoo.Residual, (2, 5, 5)),
    "attention": (Attention, (3, 4)),
    "lstm": (lambda: parameter_zoo.Recurrent(nn.LSTM), ()),
    "gru": (lambda: parameter_zoo.Recurrent(nn.GRU), ()),
    "tied": (zoo.Tied, (4,)),
    "checkpointed": (Checkpointed, (3,)),
    "scaled": (Scaled, (3,)),
    "sequence": (zoo.sequence, (2, 5)),
}
PIECEWISE_LINEAR = ["relu", "lenet", "resnet"]
WEIGHT = torch.tensor([1.0, 0.25, 3.0], dtype=torch.float64)
NAMES = [*MODELS, "causal"]


def softly(raw: Tensor, targets: Tensor) -> Tensor:
    """A loss of no closed form, not convex in the output."""
    flat = raw.reshape(len(raw), -1)
    return (flat.sin().sum(1) + flat[:, 0] * targets.reshape(len(raw), -1)[:, 0]).mean()


LOSSES: dict[str, Any] = {
    "classes": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1, label_smoothing=0.1),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "squared": nn.MSELoss(),
    "logistic": nn.BCEWithLogitsLoss(),
    "absolute": nn.L1Loss(),
    "any": softly,
}


def make(name: str, loss: str = "classes") -> Case:
    """Return a new copy of a problem, the same every time."""
    source = torch.Generator().manual_seed(NAMES.index(name))
    if name == "causal":
        return _causal(source)
    build, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        model = zoo.randomized(build(), source)
    if name in {"lstm", "gru"}:
        inputs = torch.randint(0, 7, (N, 3), generator=source)
    else:
        inputs = torch.randn(N, *shape, generator=source, dtype=torch.float64)
    targets = _targets(model, inputs, loss, source)
    parts = zip(inputs.split(SIZES), targets.split(SIZES), strict=True)
    return Case(model, list(parts), LOSSES[loss], LOSSES[loss])


def _targets(
    model: nn.Module, inputs: Tensor, loss: str, source: torch.Generator
) -> Tensor:
    with torch.no_grad():
        raw = model(inputs)
    if loss in {"squared", "absolute", "any"}:
        return torch.randn(raw.shape, generator=source, dtype=raw.dtype)
    if loss == "logistic":
        return (torch.rand(raw.shape, generator=source) > 0.5).to(raw.dtype)
    shape = (len(raw), *raw.shape[2:])
    return torch.randint(0, raw.shape[1], shape, generator=source)


def _causal(source: torch.Generator) -> Case:
    """Batches of different lengths, padded on the right; labels ignore the padding."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        model = zoo.randomized(Causal(), source)
    batches: list[Any] = []
    for size, length in zip(SIZES, (3, 4, 2), strict=True):
        tokens = torch.randint(0, 5, (size, length), generator=source)
        mask = torch.ones(size, length, dtype=torch.long)
        mask[-1, length - 1 :] = 0
        labels = tokens.masked_fill(mask == 0, -100)
        batches.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})

    def whole(raw: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(raw, targets)

    return Case(model, batches, es.next_token_loss, whole)


def flattened(case: Case, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return all raw outputs and targets together."""
    if isinstance(case.batches[0], tuple):
        return torch.cat(outputs), torch.cat([batch[1] for batch in case.batches])
    logits = [raw[:, :-1].flatten(0, 1) for raw in outputs]
    labels = [batch["labels"][:, 1:].flatten() for batch in case.batches]
    return torch.cat(logits), torch.cat(labels)


def outputs(case: Case) -> list[Tensor]:
    found: list[Tensor] = []
    for batch in case.batches:
        if isinstance(batch, tuple):
            found.append(case.model(batch[0]))
        else:
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            found.append(case.model(**inputs).logits)
    return found


def _rows(values: Tensor, leaves: list[Tensor], *, again: bool = False) -> Tensor:
    rows: list[Tensor] = []
    for value in values.flatten():
        found = torch.autograd.grad(
            value,
            leaves,
            retain_graph=True,
            create_graph=again,
            allow_unused=True,
            materialize_grads=True,
        )
        rows.append(torch.cat([part.flatten() for part in found]))
    return torch.stack(rows)


def hessian_oracle(case: Case) -> Tensor:
    """The gradient of the loss of everything, differentiated entry by entry."""
    leaves = [p for p in case.model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        value = case.whole(*flattened(case, outputs(case)))
        gradient = _rows(value, leaves, again=True)[0]
        return _rows(gradient, leaves)


def output_oracle(case: Case, middle: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """Jᵀ M J with J by single backward passes and M as a matrix."""
    leaves = [p for p in case.model.parameters() if p.requires_grad]
    raw, targets = flattened(case, outputs(case))
    jacobian = _rows(raw, leaves)
    return jacobian.T @ middle(raw.detach(), targets) @ jacobian


def second_derivative(case: Case) -> Callable[[Tensor, Any], Tensor]:
    def middle(raw: Tensor, targets: Any) -> Tensor:
        found: Any = hessian(lambda z: case.whole(z, targets), raw)
        return found.reshape(raw.numel(), -1)

    return middle


def gauss_newton_oracle(case: Case) -> Tensor:
    return output_oracle(case, second_derivative(case))


def empirical_fisher_oracle(case: Case) -> Tensor:
    """Gradients of cross-entropy's terms, or of samples' squared errors, one by one."""
    leaves = [p for p in case.model.parameters() if p.requires_grad]
    raw, targets = flattened(case, outputs(case))
    if isinstance(case.loss, nn.MSELoss):
        terms = (raw - targets).square().reshape(len(raw), -1).sum(1)
        count = raw.numel()
    else:
        terms = functional.cross_entropy(raw, targets, reduction="none").flatten()
        terms = terms[targets.flatten() != -100]
        count = len(terms)
    rows = _rows(terms, leaves)
    return rows.T @ rows / count


def problem(case: Case, **options: Any) -> es.Problem:
    return es.Problem(case.model, case.batches, loss=case.loss, **options)
