"""Every engine against the dense oracle, and what a pass through a network touches."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import curvature_zoo as zoo
import pytest
import torch
from curvature_zoo import NAMES
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import eigenscope as es

# Sums of some hundred terms in float64, in other orders.
EXACT: Any = {"rtol": 1e-9, "atol": 1e-12}
ENGINES: Any = ["reverse", "forward"]
# What has no derivative in forward mode.
REVERSE_ONLY = {"checkpointed"}


def block_of(matrix: Tensor) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(len(matrix), 3, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_every_engine_gives_the_products_of_the_oracle(name, engine):
    case = zoo.make(name)
    operator = es.Hessian(zoo.problem(case), engine=engine)
    matrix = zoo.hessian_oracle(case)
    block = block_of(matrix)
    if engine != "reverse" and name in REVERSE_ONLY:
        with pytest.raises(ValueError, match="Use engine='auto', which takes reverse"):
            _ = operator @ block
        return
    assert_close(operator @ block, matrix @ block, **EXACT)
    assert_close(operator @ block[:, 0], matrix @ block[:, 0], **EXACT)
    assert operator.remarks()["engine"] == engine
    for parameter, part in es.layer_blocks(operator).items():
        rows = operator.layout.columns[parameter]
        expected = matrix[rows, rows] @ block[rows]
        assert_close(part @ block[rows], expected, **EXACT)


@pytest.mark.parametrize("loss", ["weighted", "sum", "squared", "logistic", "any"])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_serves_every_loss(engine, loss):
    case = zoo.make("sequence", loss)
    operator = es.Hessian(zoo.problem(case), engine=engine)
    matrix = zoo.hessian_oracle(case)
    assert_close(operator @ block_of(matrix), matrix @ block_of(matrix), **EXACT)


class Counting(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(  # type: ignore[override]
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.found[str(func).rsplit(".", 1)[0].removeprefix("aten.")] += 1
        return func(*args, **dict(kwargs or {}))


def convolutions(operator: Any, *, vectors: int = 1) -> int:
    """Return how many convolutions a product after the first one takes."""
    block = torch.ones(operator.shape[0], vectors, dtype=operator.dtype)
    _ = operator @ block
    with Counting() as counting:
        _ = operator @ block
    return counting.found["convolution"] + counting.found["convolution_backward"]


def deep(depth: int = 5) -> es.Problem:
    layers = [part for _ in range(depth) for part in (nn.Conv2d(2, 2, 1), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2)).double()
    source = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, 2, 2, generator=source, dtype=torch.float64)
    return es.Problem(model, (x, torch.arange(6) % 2), loss=nn.CrossEntropyLoss())


def test_a_pass_of_a_block_starts_and_ends_at_its_layer():
    blocks = es.layer_blocks(es.Hessian(deep()))
    counts = [convolutions(blocks[f"{2 * layer}.weight"]) for layer in range(5)]
    # Of its own layer the derivative of z along the vector and that by W. Of each later
    # one the tangent, and back; without knowing what a pass needs it would be four.
    assert counts == [2 + 2 * later for later in (4, 3, 2, 1, 0)]
    # Tangents by input and weight, what they do to the cotangents, and back through
    # both at once; the first layer's input has no tangent.
    assert convolutions(es.Hessian(deep())) == (2 * 5 - 1) + 2 * 4 + 5


def test_vectors_and_blocks_share_one_pass_over_the_data():
    calls: Counter[str] = Counter()
    problem = deep()
    problem.model.register_forward_hook(lambda *_: calls.update(["forward"]))
    operator = es.Hessian(problem)
    calls.clear()
    block = torch.ones(operator.shape[0], 5, dtype=torch.float64)
    _ = operator @ block
    first = calls["forward"]
    for part in es.layer_blocks(operator).values():
        _ = part @ torch.ones(part.shape[0], 3, dtype=torch.float64)
    _ = operator @ block
    assert calls["forward"] == first


def test_what_does_not_fit_is_recorded_once_for_all_vectors():
    calls: Counter[str] = Counter()
    problem = deep()
    operator = es.Hessian(problem, memory=1)
    _ = operator @ torch.ones(operator.shape[0], dtype=torch.float64)
    problem.model.register_forward_hook(lambda *_: calls.update(["forward"]))
    _ = operator @ torch.ones(operator.shape[0], 7, dtype=torch.float64)
    assert calls["forward"] == operator.products.recordings.num_chunks == 6


@pytest.mark.message
def test_an_unknown_engine_is_refused():
    wrong: Any = "compiled"
    with pytest.raises(ValueError, match="engine must be one of 'auto', 'reverse', 'f"):
        es.Hessian(deep(), engine=wrong)


@pytest.mark.message
def test_an_engine_that_is_wrong_for_a_model_is_refused():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.sin()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            del output
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return grads[0] * ctx.saved_tensors[0].cos()

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            del ctx
            return 2 * tangents[0]

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            found: Any = Wrong.apply(self.layer(x))
            return found

    data = (torch.ones(3, 2, dtype=torch.float64), torch.arange(3) % 2)
    problem = es.Problem(Odd(), data, loss=nn.CrossEntropyLoss())
    ones = torch.ones(6, dtype=torch.float64)
    with pytest.raises(ValueError, match="here products are off by"):
        _ = es.Hessian(problem, engine="forward") @ ones
    assert bool((es.Hessian(problem) @ ones).isfinite().all())


@pytest.mark.parametrize("engine", ENGINES)
def test_estimates_say_which_engine_they_were_made_with(engine):
    operator = es.Hessian(deep(), engine=engine)
    found = [
        es.spectrum(operator, method="slq", max_probes=2, max_steps=4, num_outer=0),
        es.top_eigenpairs(operator, 1, method="lanczos"),
    ]
    assert [part.provenance["engine"] for part in found] == [engine, engine]
