"""A device that runs out of memory gets smaller chunks, and the result is the same."""

import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope.jacobian import InputJacobianEngine
from eigenscope.store import Run

N, FITS = 11, 2
SAID = (
    r"input Jacobian: the device ran out of memory with {} samples at once; going on "
)


@pytest.fixture
def jacobian():
    source = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.randn(param.shape, generator=source))
    data = torch.randn(N, 4, generator=source)
    return es.InputJacobian(es.Problem(net, data, batch_size=N))


@pytest.fixture
def small_device(monkeypatch):
    """What was computed at once; more than FITS samples are too many."""
    done: list[int] = []
    for name in ("fill", "fill_part"):
        method = getattr(InputJacobianEngine, name)

        def limited(self, batch, *given, method=method):
            if batch.size > FITS:
                raise torch.OutOfMemoryError("CUDA out of memory")
            done.append(batch.size)
            return method(self, batch, *given)

        monkeypatch.setattr(InputJacobianEngine, name, limited)
    return done


@pytest.mark.message
def test_chunks_are_halved_until_they_fit(jacobian, request):
    expected = jacobian.dense()
    small_device = request.getfixturevalue("small_device")
    with (
        pytest.warns(RuntimeWarning, match=SAID.format(11) + "with 6"),
        pytest.warns(RuntimeWarning, match=SAID.format(6) + "with 3"),
        pytest.warns(RuntimeWarning, match=SAID.format(3) + r"with 2\. Give less"),
    ):
        found = jacobian.dense()
    assert small_device == [2, 2, 2, 2, 2, 1]
    # The same entries, computed in other chunks.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(jacobian.dense(), found)  # and nothing more is said


def test_a_run_goes_on_in_smaller_chunks(jacobian, small_device, tmp_path):
    with Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        with pytest.warns(RuntimeWarning, match="the device ran out of memory"):
            stored = jacobian.write(run)
        assert max(small_device) == FITS
        found = stored.dense()
    # The same entries, computed in other chunks.
    torch.testing.assert_close(found, jacobian.dense(), rtol=1e-5, atol=1e-6)


def test_a_sample_that_does_not_fit_is_an_error(jacobian, monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(InputJacobianEngine, "fill", full)
    with (
        pytest.warns(RuntimeWarning, match="the device ran out of memory"),
        pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"),
    ):
        jacobian.dense()
