"""How large the tensors are that products make, by a recorder of all operations."""

import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import eigenscope as es
from eigenscope.experiments import CurvaturePlan, prepare_curvature, run_curvature

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


class Live(TorchDispatchMode):
    """Remembers the most bytes of tensors that were alive together."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(  # type: ignore[override]
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **dict(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return found

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def network(name: str) -> tuple[nn.Module, Tensor]:
    source = torch.Generator().manual_seed(0)
    if name == "attention":
        return Attention().eval(), torch.randn(300, 8, 16, generator=source)
    if name == "mlp":
        layers = [nn.Linear(30, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(60, 3)), torch.randn(
            1500, 30, generator=source
        )
    layers = [
        part
        for width in (2, 8)
        for part in (
            nn.Conv2d(width, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
    ]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 3)).eval()
    return model, torch.randn(500, 2, 8, 8, generator=source)


@pytest.mark.parametrize("kind", [es.Hessian, es.GaussNewton])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "attention"])
def test_products_keep_to_their_budget(name, kind):
    model, x = network(name)
    problem = es.Problem(
        model, (x, torch.arange(len(x)) % 3), loss=nn.CrossEntropyLoss()
    )
    roomy = kind(problem)
    vector = torch.ones(roomy.shape[0])
    expected = roomy @ vector
    total = roomy.products.recordings.bytes
    for share in (0.3, 0.7, 1):
        operator = kind(problem, memory=int(share * total))
        with Live() as recorder:
            found = [operator @ vector for _ in range(2)][1]
        assert len(operator.products.recordings.kept) > 0
        # Vectors, products and sums of parts come beside what is recorded.
        beside = 8 * vector.nbytes
        assert recorder.peak <= 1.1 * share * total + beside
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.message
def test_a_run_divides_its_budget_between_recordings_and_estimates(tmp_path):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.ones(20, 6), torch.arange(20) % 3
    problem = es.Problem(model, data, loss=nn.CrossEntropyLoss())

    def work(memory: int) -> None:
        wanted = CurvaturePlan(method="exact", num_pairs=0, layers=None, memory=memory)
        with es.Run.create(tmp_path / str(memory), verb="x", arguments={}) as run:
            operators = prepare_curvature(problem, wanted, run=None)
            kept = operators["hessian"].products.recordings  # type: ignore[attr-defined]
            run_curvature(run, problem, wanted, operators)
            assert kept.budget == memory // 2

    with pytest.raises(
        ValueError, match=r"must fit 9.8 KiB, its share \(1 of 2"
    ) as info:
        work(20_000)
    advised = re.search(r"memory=(\d+)", str(info.value))
    assert advised is not None
    work(int(advised[1]))
    with pytest.raises(ValueError, match="its share"):
        work(int(advised[1]) - 2)


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
