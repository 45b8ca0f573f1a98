"""A problem: any data, read in order, and a model that is left as it was found."""

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import eigenscope as es
from eigenscope.problem import Batch

N = 7
INPUTS = torch.arange(3.0 * N).reshape(N, 3) / 10
TARGETS = torch.arange(N) % 2


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return INPUTS[index], TARGETS[index]


class Reiterable:
    """Hands out one buffer again and again, and draws from every random state."""

    def __iter__(self):
        buffer = torch.empty(3, 3)
        for start in range(0, N, 3):
            torch.rand(1)
            np.random.rand()  # noqa: NPY002 - what a careless data set does
            random.random()
            part = INPUTS[start : start + 3]
            buffer[: len(part)] = part
            yield buffer[: len(part)], TARGETS[start : start + 3]


class Stream(IterableDataset[Any]):
    def __iter__(self):
        return iter(zip(INPUTS, TARGETS, strict=True))


def batches() -> list[tuple[Tensor, Tensor]]:
    return list(zip(INPUTS.split([1, 4, 2]), TARGETS.split([1, 4, 2]), strict=True))


def mappings() -> list[dict[str, Any]]:
    return [{"input": x, "labels": y} for x, y in batches()]


KINDS: dict[str, Callable[[], Any]] = {
    "tensor": lambda: INPUTS,
    "strided tensor": lambda: INPUTS.T.contiguous().T,
    "tuple": lambda: (INPUTS, TARGETS),
    "dataset": Rows,
    "tensor dataset": lambda: TensorDataset(INPUTS, TARGETS),
    "loader": lambda: DataLoader(Rows(), batch_size=3),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=3),
    "list": batches,
    "list of two": lambda: list(zip(INPUTS.split(4), TARGETS.split(4), strict=True)),
    "list with an empty batch": lambda: [(INPUTS[:0], TARGETS[:0]), *batches()],
    "re-iterable": Reiterable,
    "mappings": mappings,
}


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(3, 2)


@pytest.fixture(params=list(KINDS))
def problem(request, model) -> es.Problem:
    return es.Problem(model, KINDS[request.param]())


def inputs_of(batch: Batch) -> Tensor:
    return batch.inputs["input"] if isinstance(batch.inputs, dict) else batch.inputs


def joined(parts: list[Batch]) -> tuple[Tensor, Any]:
    targets = [part.targets for part in parts]
    whole = None if targets[0] is None else torch.cat(targets)
    return torch.cat([inputs_of(part) for part in parts]), whole


def copied(part: Batch) -> Batch:
    return part.owned()


def test_every_kind_of_data_is_read_in_order(problem):
    parts = [copied(part) for part in problem.batches]
    inputs, targets = joined(parts)
    assert problem.num_samples == N
    assert torch.equal(inputs, INPUTS)
    assert targets is None or torch.equal(targets, TARGETS)
    starts = np.cumsum([0, *(part.size for part in parts)])
    assert [part.start for part in parts] == starts[:-1].tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7, 20])
def test_chunks_of_any_size_hold_the_same_samples(problem, size):
    parts = [copied(part) for part in problem.batches.chunks(size)]
    inputs, _ = joined(parts)
    assert torch.equal(inputs, INPUTS)
    assert [part.size for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert [part.start for part in parts] == list(range(0, N, size))


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any),
    chunk=st.integers(1, 20),
    part=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_chunks_and_their_parts_join_to_the_whole(sizes, chunk, part):
    total = sum(sizes)
    x = torch.arange(2.0 * total).reshape(total, 2)
    y = torch.arange(total)
    data = list(zip(x.split(sizes), y.split(sizes), strict=True))
    found = es.Problem(nn.Linear(2, 2), data).batches
    cut = [piece for c in found.chunks(chunk) for piece in c.parts(part)]
    inputs, targets = joined(cut)
    assert torch.equal(inputs, x)
    assert torch.equal(targets, y)
    assert [piece.start for piece in cut] == np.cumsum(
        [0, *(piece.size for piece in cut[:-1])]
    ).tolist()


def test_a_list_of_two_tensors_is_two_batches(model):
    found = es.Problem(model, [INPUTS[:4], INPUTS[4:]])
    assert [batch.size for batch in found.batches] == [4, 3]


def test_a_batch_that_the_data_overwrites_is_copied_before(model):
    found = es.Problem(model, Reiterable())
    pieces = [inputs_of(chunk).clone() for chunk in found.batches.chunks(2)]
    assert torch.equal(torch.cat(pieces), INPUTS)


def test_a_loader_with_a_worker_is_read(model):
    loader = DataLoader(Rows(), batch_size=3, num_workers=1)
    inputs, _ = joined(list(es.Problem(model, loader).batches))
    assert torch.equal(inputs, INPUTS)


def test_targets_that_are_no_tensor_are_cut_with_the_samples(model):
    names = [f"sample {i}" for i in range(N)]
    found = es.Problem(model, (INPUTS, names), batch_size=3)
    assert [chunk.targets for chunk in found.batches.chunks(4)] == [
        names[:4],
        names[4:],
    ]


def test_a_first_batch_of_one_sample_is_followed_by_others(model):
    found = es.Problem(model, batches())
    first = found.batches.first(2)
    assert torch.equal(inputs_of(first), INPUTS[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floating_inputs_take_the_dtype_of_the_model(dtype):
    found = es.Problem(nn.Linear(3, 2).to(dtype), (INPUTS.double(), TARGETS))
    batch = found.batches.first(1)
    assert inputs_of(batch).dtype == found.dtype == dtype
    assert batch.targets.dtype == torch.int64


def test_a_model_without_parameters_keeps_the_dtype_of_the_data():
    assert es.Problem(nn.Tanh(), INPUTS.double()).dtype == torch.float64


@pytest.mark.message
def test_the_random_states_are_the_callers_between_batches(model):
    found = es.Problem(model, Reiterable())
    torch.rand(3)
    before = torch.get_rng_state(), random.getstate(), numpy_state()
    passing = iter(found.batches)
    next(passing)
    drawn = torch.rand(1)
    next(passing)
    drawn_next = torch.rand(1)
    del passing  # broken off
    torch.set_rng_state(before[0])
    assert (drawn, drawn_next) == (torch.rand(1), torch.rand(1))
    assert (random.getstate(), numpy_state()) == before[1:]


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].tolist()


class SeedsItself:
    """Sets the global seed when a pass starts and draws noise for every batch."""

    def __iter__(self):
        torch.default_generator.manual_seed(3)
        for start in range(0, N, 3):
            yield INPUTS[start : start + 3] + torch.rand(1)


def test_data_that_seeds_itself_repeats_whatever_the_caller_draws(model):
    found = es.Problem(model, SeedsItself())
    first = torch.cat([inputs_of(batch) for batch in found.batches])
    second: list[Tensor] = []
    for batch in found.batches:
        torch.rand(5)
        second.append(inputs_of(batch))
    assert torch.equal(torch.cat(second), first)


def snapshot(model: nn.Module) -> dict[str, Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "values": {name: tensor.detach().clone() for name, tensor in tensors},
        "objects": {name: id(tensor) for name, tensor in tensors},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad is None for p in model.parameters()],
        "mode": [m.training for m in model.modules()],
        "hooks": [
            [len(getattr(m, kind)) for m in model.modules()]
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": numpy_state(),
        # Checking shapes at run time draws from this one itself.
        "python": None if "beartype" in sys.modules else random.getstate(),
    }


class Keeping(nn.Module):
    """Counts its calls in a buffer, draws random numbers, remembers its input."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2)
        self.norm = nn.InstanceNorm1d(1, track_running_stats=True)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))
        self.seen = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.replaced = self.replaced + 1
        torch.rand(1)
        random.random()
        return self.map(self.norm(x.unsqueeze(1)).squeeze(1))


@pytest.mark.message  # beartype, which checks shapes, draws from random itself
@pytest.mark.parametrize("rows_to_accelerate", [0, 10**9], ids=["fast", "plain"])
@pytest.mark.parametrize("name", [*zoo.NAMES, "keeping"])
def test_the_model_comes_back_as_it_was(name, rows_to_accelerate, monkeypatch):
    monkeypatch.setattr(
        "eigenscope.jacobian.inputs._MIN_ROWS_TO_ACCELERATE", rows_to_accelerate
    )
    if name == "keeping":
        found, data = Keeping().eval(), INPUTS
        found.norm.train()
    else:
        case = zoo.make(name)
        found, data = case.model, case.batches
    next(iter(found.parameters())).requires_grad_(False)
    before = snapshot(found)
    es.InputJacobian(es.Problem(found, data, output="probabilities")).dense()
    after = snapshot(found)
    for key in ("values", "torch"):
        assert_close(after.pop(key), before.pop(key), rtol=0, atol=0)
    assert after == before


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (None, ["first.weight", "first.bias"]),
        ("first.bias", ["first.bias"]),
        ("*.bias", ["first.bias", "second.bias"]),
        (["second.bias", "first.*"], ["first.weight", "first.bias", "second.bias"]),
        ("second.weight", ["first.weight"]),
    ],
)
def test_params_are_found_by_name_glob_and_alias(params, names):
    assert list(es.Problem(Nested(), INPUTS, params=params).params) == names


def test_another_output_shares_the_data_and_leaves_the_first_as_it_was(model):
    problem = es.Problem(model, INPUTS)
    other = problem.with_output(lambda z: z.sum(1))
    assert (problem.output, problem.num_outputs) == ("logits", 2)
    assert other.num_outputs == 1
    assert other.batches is problem.batches


def test_the_fingerprint_tells_data_and_weights_apart(model):
    before = es.Problem(model, INPUTS).fingerprint()
    assert es.Problem(model, INPUTS.clone()).fingerprint() == before
    moved = INPUTS.clone()
    moved[6, 2] += 1e-6
    changed = es.Problem(model, moved).fingerprint()
    assert changed["data"] != before["data"]
    assert changed["weights"] == before["weights"]
    with torch.no_grad():
        model.bias[0] += 1
    assert es.Problem(model, INPUTS).fingerprint()["weights"] != before["weights"]


class Takes(nn.Module):
    def forward(self, x: Tensor, other: object) -> Tensor:
        assert other is not None
        return torch.tanh(x)


class WithEntry:
    def __init__(self, other: object) -> None:
        self.other = other

    def __iter__(self):
        yield {"x": INPUTS[:2], "other": self.other}


STRIDED = torch.arange(12.0).reshape(2, 6)[:, ::2]


@pytest.mark.parametrize(
    ("entry", "changed"),
    [
        (torch.tensor(2.0), torch.tensor(2.5)),
        (STRIDED, STRIDED + 1),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)),
        (torch.tensor([True, False]), torch.tensor([True, True])),
        (torch.tensor([1j, 2]).conj(), torch.tensor([1j, 2])),
        (np.arange(3), np.arange(3) + 1),
        ({"inner": [torch.ones(2, 1)]}, {"inner": [torch.zeros(2, 1)]}),
        ("a name", "another name"),
        ([1, 2.5, None], [1, 2.5, 3]),
    ],
    ids=lambda entry: type(entry).__name__,
)
def test_a_change_of_any_entry_of_a_batch_is_noticed(entry, changed):
    data = WithEntry(entry)
    problem = es.Problem(Takes(), data)
    assert sum(batch.size for batch in problem.batches) == 2
    data.other = changed
    with pytest.raises(es.DataChangedError):
        list(problem.batches)
