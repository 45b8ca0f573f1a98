"""Data that cannot be used is named: what was given, which sample, what to do."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import eigenscope as es

pytestmark = pytest.mark.message

X = torch.arange(12.0).reshape(4, 3) / 10
LINEAR = nn.Linear(3, 2)


class Empty(Dataset[Tensor]):
    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Tensor:
        raise IndexError(index)


class Growing:
    """Gives one batch more on every pass after the first `calm` ones."""

    def __init__(self, calm: int, step: int) -> None:
        self.calm, self.step, self.passes = calm, step, 0

    def __iter__(self):
        self.passes += 1
        extra = self.step * max(0, self.passes - self.calm)
        return iter([X[:2]] * (2 + extra))


def rows_of(n: int) -> Tensor:
    return torch.ones(n, 3)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.tensor(1.0), ValueError, r"shape \(\)\. Use inputs\.unsqueeze\(0\)"),
        (torch.zeros(0, 3), ValueError, "at least one sample; got an empty Tensor"),
        ([], ValueError, "at least one sample; got an empty list"),
        ([X[:0]], ValueError, "at least one sample; got an empty list"),
        (Empty(), ValueError, "at least one sample; got an empty Empty"),
        (
            DataLoader(Empty()),
            ValueError,
            "at least one sample; got an empty DataLoader",
        ),
        (
            (X, torch.zeros(3)),
            ValueError,
            "must have the same length; got 4 inputs and 3 targets. Give every",
        ),
        (
            [(X, torch.zeros(4)), (X, torch.zeros(3))],
            ValueError,
            "must have the same length; batch 1 has 4 inputs and 3 targets. Give every",
        ),
        (
            [{"input": X, "mask": torch.ones(3)}],
            ValueError,
            "samples on axis 0; batch 0 has lengths {'input': 4, 'mask': 3}",
        ),
        ([{"input": 3.0}], TypeError, "tensor with a sample axis; batch 0 has none"),
        ((X, X, X), TypeError, r"\(Tensor, Tensor, Tensor\). Pass several batches as"),
        (([1.0], X), TypeError, r"with a tensor of inputs; got \(list, Tensor\)"),
        ({"x": X}, TypeError, "got dict. Put a single batch that is a mapping in a"),
        (7, TypeError, "a re-iterable of batches; got int"),
        ("digits", TypeError, "a re-iterable of batches; got str"),
        (iter([X]), TypeError, "the one-pass iterator list_iterator. Pass a list of"),
        ((b for b in [X]), TypeError, "the one-pass iterator generator. Pass a list"),
        ([X, "row"], TypeError, "a mapping of the model's keyword.*batch 1 is a str"),
        (
            DataLoader(
                TensorDataset(rows_of(50) * torch.arange(50.0)[:, None]), shuffle=True
            ),
            es.DataChangedError,
            r"batch 0 differed: the DataLoader shuffles \(build it with shuffle=False",
        ),
        (Growing(1, 1), es.DataChangedError, "batch 2 differed"),
        (
            Growing(1, -1),
            es.DataChangedError,
            "first pass gave 2, the second 1. Pass a",
        ),
    ],
)
def test_data_that_cannot_be_used_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        es.Problem(LINEAR, data)


class Augmented(Dataset[Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return X[index] + torch.rand(1)


def test_random_augmentation_is_refused():
    with pytest.raises(es.DataChangedError, match="shuffles or augments at random"):
        es.Problem(LINEAR, Augmented())


@pytest.mark.parametrize(
    ("step", "message"),
    [(1, "batch 2 differed"), (-1, "first pass gave 4 samples, this one 2")],
)
def test_data_that_changes_later_is_noticed_in_the_pass_that_meets_it(step, message):
    problem = es.Problem(LINEAR, Growing(3, step))
    with pytest.raises(es.DataChangedError, match=message):
        list(problem.batches)


def test_data_changed_in_place_is_noticed():
    x = X.clone()
    jacobian = es.InputJacobian(es.Problem(LINEAR, x))
    x[3, 1] = 8
    with pytest.raises(es.DataChangedError, match="or it was changed in place"):
        jacobian.dense()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_sample_that_is_not_finite_is_named(value):
    x = X.clone()
    x[2, 1] = value
    with pytest.raises(
        ValueError, match=r"sample 2 holds NaN or infinity in torch\.float"
    ):
        es.Problem(LINEAR, x)
    with pytest.raises(ValueError, match="sample 2 holds NaN"):
        es.Problem(LINEAR, [x[:1], x[1:]])
    with pytest.raises(ValueError, match=r"sample 2 \(entry 'input'\) holds NaN"):
        es.Problem(LINEAR, [{"input": x}])


def test_a_sample_that_overflows_the_dtype_of_the_model_is_named():
    x = X.double()
    x[1, 0] = 1e300
    with pytest.raises(
        ValueError, match=r"sample 1 holds NaN or infinity in torch\.float32"
    ):
        es.Problem(LINEAR, x)


class Two(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first * second


@pytest.mark.parametrize(
    ("second", "found"),
    [(X, r"got \['first', 'second'\] among"), (None, "got none among")],
)
def test_a_mapping_needs_one_floating_point_entry(second, found):
    first = X if second is not None else X.long()
    data = [{"first": first, "second": X if second is not None else X.long()}]
    with pytest.raises(TypeError, match=rf"exactly one floating-point entry.*{found}"):
        es.InputJacobian(es.Problem(Two(), data))


def test_samples_of_different_shapes_are_refused_where_they_meet():
    problem = es.Problem(nn.Tanh(), [X, X[:, :2]])
    with pytest.raises(
        ValueError, match=r"shapes \[\(2,\), \(3,\)\] follow.*Pad or crop"
    ):
        es.InputJacobian(problem).dense()


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(
        ValueError, match=r"batch_size must be at least 1; got 0\. None ch"
    ):
        es.Problem(LINEAR, X, batch_size=0)
