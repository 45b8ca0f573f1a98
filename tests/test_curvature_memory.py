"""How large the tensors are that products make, by a recorder of all operations."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import eigenscope as es

VOCABULARY, LENGTH, SAMPLES = 20_000, 5, 5


class Recorder(TorchDispatchMode):
    """Remembers the most entries that a tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(  # type: ignore[override]
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **dict(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(found) if isinstance(t, Tensor)]
        self.largest = max([self.largest, *sizes])
        return found


def language_problem() -> es.Problem:
    source = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (SAMPLES, LENGTH), generator=source)
    model = nn.Sequential(nn.Embedding(VOCABULARY, 2), nn.Linear(2, VOCABULARY))
    return es.Problem(model, (tokens, tokens), loss=es.next_token_loss, batch_size=2)


def test_a_large_vocabulary_needs_no_more_than_its_logits():
    problem = language_problem()
    for kind in (es.Hessian, es.GaussNewton):
        operator = kind(problem)
        vector = torch.ones(operator.shape[0])
        with Recorder() as recorder:
            product = operator @ vector
        assert bool(product.isfinite().all())
        # The logits of two samples; the weights have as many entries as one position.
        assert recorder.largest <= max(2 * LENGTH * VOCABULARY, operator.shape[0])


def test_what_is_kept_is_counted():
    source = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 40), nn.Tanh(), nn.Linear(40, 3))
    x = torch.randn(64, 50, generator=source)
    problem = es.Problem(model, (x, torch.arange(64) % 3), loss=nn.CrossEntropyLoss())
    operator = es.Hessian(problem)
    _ = operator @ torch.ones(operator.shape[0])
    recordings = operator.products.recordings
    # Inputs, activations, their derivatives and cotangents of one chunk of 64 samples.
    activations = 64 * 4 * (50 + 40 + 3)
    assert len(recordings.kept) == 1
    assert activations <= recordings.bytes <= 8 * activations
