"""On a device without doubles, such as Apple's, sums in float64 are taken on the CPU.

There is none here: tensors that come from the model or its data stand for those on the
device, and so does all that is made of them until it is moved to the CPU.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import eigenscope as es
from eigenscope import precision

CPU = torch.device("cpu")


class OnDevice(TorchDispatchMode):
    """Refuses float64 tensors that are made of tensors on the device."""

    def __init__(self) -> None:
        super().__init__()
        # By their memory, which autograd's own views of them share; kept, so that
        # nothing else can come to lie there.
        self.places: set[int] = set()
        self.kept: list[Tensor] = []
        self.is_moving = False
        self.num_moved = 0

    def put(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            self.kept.append(tensor)
            self.places.add(tensor.untyped_storage().data_ptr())

    def has(self, x: Tensor) -> bool:
        return x.numel() > 0 and x.untyped_storage().data_ptr() in self.places

    def taken(self, x: Tensor) -> Tensor:
        self.is_moving, self.num_moved = True, self.num_moved + 1
        try:
            return x.clone()
        finally:
            self.is_moving = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not self.is_moving and any(map(self.has, given)):
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    assert made.dtype != torch.float64, f"{func} makes a float64"
                    self.put(made)
        return result


@pytest.fixture
def problem():
    source = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.randn(param.shape, generator=source))
    x, y = torch.randn(14, 5, generator=source), torch.arange(14) % 3
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    return es.Problem(net, (x, y), loss=loss, batch_size=6)


@contextmanager
def without_doubles(
    problem: es.Problem, monkeypatch: pytest.MonkeyPatch
) -> Generator[OnDevice]:
    device = OnDevice()
    with monkeypatch.context() as patch, device:
        patch.setattr(precision, "has_float64", lambda _: False)
        patch.setattr(precision, "to_host", device.taken)
        patch.setattr(Tensor, "cpu", lambda x: device.taken(x))  # noqa: PLW0108
        device.put(
            *problem.model.parameters(),
            *cast("tuple[Tensor, ...]", problem.batches._data),
        )
        yield device


def slq(problem: es.Problem) -> Any:
    found = es.spectrum(es.Hessian(problem), method="slq", num_outer=6, max_steps=12)
    return found.values[[0, -1]]


def pairs(problem: es.Problem) -> Any:
    start = torch.eye(57)[:, :3]
    return es.top_eigenpairs(es.Hessian(problem), 2, start=start).values


CALLS: dict[str, Any] = {
    "slq": slq,
    "kpm": lambda p: es.spectrum(es.GaussNewton(p), method="kpm").moment(1),
    "pairs": pairs,
    "exact pairs": lambda p: es.top_eigenpairs(es.GaussNewton(p), 2).values,
    "hutchinson": lambda p: es.trace(es.Hessian(p), method="hutchinson").value,
    "hutch++": lambda p: es.trace(es.Hessian(p), method="hutch++").value,
    "xtrace": lambda p: es.trace(es.Hessian(p), method="xtrace").value,
    "diagonal": lambda p: es.diagonal(es.Hessian(p)).value,
    "sampled": lambda p: es.Fisher(p, kind="sampled").diagonal(),
    "verify": lambda p: es.verify(es.GaussNewton(p)).has_passed,
    "alignment": lambda p: es.kernel_alignment(
        es.ntk(p.model, p.batches._data[0], outputs="trace"),
        es.conjugate_kernel(p.model, p.batches._data[0]),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_float64_is_made_on_a_device_that_has_none(name, problem, monkeypatch):
    expected = CALLS[name](problem)
    with without_doubles(problem, monkeypatch) as device:
        found = CALLS[name](problem)
    assert device.num_moved > 0
    # Float32: the sums are the same, in places others than on the device.
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-3, atol=1e-4
    )


def test_the_mode_notices_a_float64(problem, monkeypatch):
    with (
        without_doubles(problem, monkeypatch),
        pytest.raises(AssertionError, match="makes a float64"),
    ):
        next(problem.model.parameters()).double()


def test_doubles_are_kept_where_a_device_has_them():
    mps = torch.device("mps")
    assert not precision.has_float64(mps)
    assert precision.has_float64(torch.device("cuda", 1))
    assert precision.wide_device(mps) == CPU
    assert precision.wide_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    huge = torch.full((2, 3), 1e30)
    assert precision.wide_lengths(huge).tolist() == pytest.approx([3**0.5 * 1e30] * 2)
    assert precision.wide_lengths(huge, keepdim=True).shape == (2, 1)
    thirds = torch.full((3, 2**20), 1 / 3)
    total = precision.wide_sum(thirds, 1)
    assert total.tolist() == pytest.approx([2**20 * float(thirds[0, 0])] * 3, rel=1e-15)
    assert float(precision.wide_sum(thirds)) == pytest.approx(float(total.sum()))


@pytest.mark.parametrize("keepdim", [True, False])
def test_lengths_of_long_rows_are_those_of_copies_in_float64(keepdim):
    source = torch.Generator().manual_seed(2)
    rows = torch.randn(3, 2**18 + 5, generator=source) * 1e25
    expected = torch.linalg.vector_norm(rows.double(), dim=1, keepdim=keepdim)
    for given in (rows, rows.T.contiguous().T):
        before = given.clone()
        found = precision.wide_lengths(given, keepdim=keepdim)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
        assert torch.equal(given, before)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_one_entry_that_is_no_number_is_seen(dtype):
    x = torch.ones(7, 5, dtype=dtype)
    assert precision.is_finite(x)
    assert precision.is_finite(x[:0])
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoilt = x.clone()
        spoilt[4, 2] = bad
        assert not precision.is_finite(spoilt)
        assert not precision.is_finite(spoilt.T)
