"""A device that runs out of memory gets smaller chunks, and the result is the same."""

import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

import eigenscope as es
from eigenscope import budget
from eigenscope.jacobian import InputJacobianEngine, OpenChunk
from eigenscope.operators.curvature_graphs import HessianChunk
from eigenscope.planning.counting import Counting
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


@pytest.fixture
def problem():
    source = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.randn(param.shape, generator=source))
    x = torch.randn(N, 4, generator=source, dtype=torch.float64)
    y = torch.arange(N) % 3
    return es.Problem(net, (x, y), loss=nn.CrossEntropyLoss())


@pytest.fixture
def full_device(monkeypatch):
    """The network fails with more than FITS samples, at first after its work is done.

    So does a parameter's part of a chunk, when sums have been begun with another's.
    """
    limits = {"samples": 10**6, "parts": 10**6}

    def forward(self, x):
        if len(x) > limits["samples"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return linear(self, x)

    def parts(self, *given, **options):
        found = by_name(self, *given, **options)
        for number, part in enumerate(found):
            if number and part[1].shape[0] > limits["parts"]:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield part

    linear, by_name = nn.Linear.forward, OpenChunk.parts
    monkeypatch.setattr(nn.Linear, "forward", forward)
    monkeypatch.setattr(OpenChunk, "parts", parts)
    return limits


@contextmanager
def halved(what, sizes=(11, 6, 3)):
    """Chunks of these sizes, and no others, are said to have been too large."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    starts = [f"{what}: the device ran out of memory with {n} samples" for n in sizes]
    assert [
        str(w.message)[: len(s)] for w, s in zip(said, starts, strict=True)
    ] == starts


def vectors(rows, count=2):
    source = torch.Generator().manual_seed(1)
    return torch.randn(rows, count, generator=source, dtype=torch.float64)


BY_PARAMETERS = {
    "dense": lambda J: J.dense(),
    "rows": lambda J: torch.cat([rows.clone() for _, rows in J.row_blocks()]),
    "product": lambda J: J @ vectors(J.shape[1]),
    "few transposed": lambda J: J.T @ vectors(J.shape[0]),
    "many transposed": lambda J: J.T @ vectors(J.shape[0], 4),
    "row norms": lambda J: J.squared_row_norms(),
    "column norms": lambda J: J.squared_column_norms(),
}


@pytest.mark.parametrize("limited", ["samples", "parts"])
@pytest.mark.parametrize("what", BY_PARAMETERS)
def test_parameter_jacobians_go_on_in_smaller_chunks(
    problem, full_device, what, limited
):
    jacobian = es.ParameterJacobian(problem)
    expected = BY_PARAMETERS[what](jacobian)
    if (what, limited) == ("few transposed", "parts"):
        limited = "samples"  # takes no parts
    full_device[limited] = FITS
    with halved("gradients by the parameters"):
        found = BY_PARAMETERS[what](jacobian)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(BY_PARAMETERS[what](jacobian), expected)  # in silence


def projected(problem):
    x = problem.batches.first(N).inputs
    source = torch.Generator().manual_seed(2)
    return es.projected_ntk(problem.model, x, num_projections=4, generator=source).value


KERNELS = {
    "full": lambda problem: es.NTK(problem).dense(),
    "structured": lambda problem: es.NTK(problem, method="structured").dense(),
    "trace": lambda problem: es.NTK(problem, outputs="trace").dense(),
    "conjugate": lambda problem: es.conjugate_kernel(
        problem.model, problem.batches.first(N).inputs
    ),
    "projected": projected,
}


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_go_on_in_smaller_chunks(problem, full_device, kind):
    expected = KERNELS[kind](problem)
    is_plain = kind in ("conjugate", "projected")  # begins with 4 samples
    full_device["samples"] = 4 if is_plain else FITS
    what = "conjugate kernel" if kind == "conjugate" else "gradients by the parameters"
    with halved(what, (11, 6) if is_plain else (11, 6, 3)):
        found = KERNELS[kind](problem)
    torch.testing.assert_close(found, expected)


CURVATURE = {
    "Hessian": es.Hessian,
    "G": es.GaussNewton,
    "Fisher": lambda problem: es.Fisher(problem, kind="sampled", num_draws=2),
}


@pytest.mark.parametrize("kind", CURVATURE)
def test_curvature_goes_on_in_smaller_chunks(problem, full_device, kind):
    operator = CURVATURE[kind](problem)
    block = vectors(operator.shape[0])
    expected = operator @ block
    anew = CURVATURE[kind](problem)
    anew.products.way()
    full_device["samples"] = FITS
    with halved("curvature products"):
        found = anew @ block
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(anew @ block, expected)  # and nothing more is said


def half_squares(z, y):
    return (z - nn.functional.one_hot(y, 3)).square().sum(1).mean()


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), half_squares], ids=["CE", "own"]
)
def test_a_risk_goes_on_in_smaller_parts(problem, full_device, loss):
    first = problem.batches.first(N)
    whole = es.Problem(problem.model, (first.inputs, first.targets), loss=loss)
    expected = es.Hessian(whole).risk
    full_device["samples"] = FITS
    with halved("the loss over the data"):
        found = es.Hessian(whole).risk
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.denominator == expected.denominator


def test_means_of_classes_go_on_in_smaller_chunks(problem, full_device):
    operator = es.GaussNewton(problem)
    expected = es.decompose_by_class(operator)
    full_device["samples"] = FITS
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = es.decompose_by_class(operator)
    assert str(said[0].message).startswith("means of classes: the device ran out")
    torch.testing.assert_close(found.means, expected.means)
    torch.testing.assert_close(found.weights, expected.weights)


def test_recordings_that_fill_the_device_are_let_go(problem, monkeypatch):
    x, y = problem.batches.first(N).inputs, problem.batches.first(N).targets
    cut = es.Problem(problem.model, (x, y), loss=nn.CrossEntropyLoss(), batch_size=4)
    operator = es.Hessian(cut, engine="reverse")
    block = vectors(operator.shape[0])
    expected = operator @ block
    recordings, product = operator.products.recordings, HessianChunk.product
    kept = recordings.bytes
    assert len(recordings.kept) == 3

    done: list[object] = []

    def limited(self, *given, **options):
        if done and recordings.bytes > kept // 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.append(self)  # a first chunk is added before memory runs out
        return product(self, *given, **options)

    monkeypatch.setattr(HessianChunk, "product", limited)
    with halved("curvature products", (4,)):
        found = operator @ block
    torch.testing.assert_close(found, expected)
    assert recordings.num_chunks == 6
    assert 0 < recordings.bytes <= kept // 2
    assert recordings.is_batchable


def test_plain_tensors_are_cut_as_well(problem, request):
    x = problem.batches.first(N).inputs
    expected = es.input_jacobian(problem.model, x)
    request.getfixturevalue("small_device")
    with halved("input Jacobian"):
        found = es.input_jacobian(problem.model, x)
    torch.testing.assert_close(found, expected)


@pytest.mark.message
def test_a_result_beyond_the_budget_is_refused_before_work(problem, full_device):
    x = problem.batches.first(N).inputs
    needed = N * 3 * 4 * 8
    found = es.input_jacobian(problem.model, x, memory=needed)
    torch.testing.assert_close(found, es.input_jacobian(problem.model, x))
    full_device["samples"] = 4
    said = rf"the 11 × 3 × 4 Jacobian must fit .* memory={needed} .* write it to a run"
    with pytest.raises(ValueError, match=said):
        es.input_jacobian(problem.model, x, memory=needed - 1)


@pytest.mark.message
def test_checks_and_sums_have_a_budget():
    matrix = torch.diag(torch.arange(1.0, 21.0))
    assert str(es.verify(matrix, memory=32 * 20 * 4)) == str(es.verify(matrix))
    with pytest.raises(ValueError, match="32 vectors of 20 numbers must fit"):
        es.verify(matrix, memory=32 * 20 * 4 - 1)
    for kind in ("frobenius", "nuclear"):
        assert es.norm(matrix, kind, memory="1MB").value == es.norm(matrix, kind).value
        with pytest.raises(ValueError, match="memory budget of 9 B"):
            es.norm(matrix, kind, memory=9, method="exact")
    with pytest.raises(ValueError, match="memory budget of 9 B"):
        es.log_determinant(matrix, memory=9, method="exact")


@pytest.mark.parametrize(
    ("call", "method", "held"),
    [
        (es.trace, "xtrace", 55),
        (es.trace, "hutch++", 16),
        (es.trace, "hutchinson", 10),
        (es.diagonal, "hutch++", 27),
        (es.diagonal, "hutchinson", 23),
    ],
)
@pytest.mark.message
def test_random_vectors_have_a_budget(call, method, held):
    dim = 600
    matrix = torch.diag(torch.linspace(-1, 2, dim, dtype=torch.float64))
    options = {"method": method, "num_matvecs": 12}
    free = call(matrix, **options)
    least = held * dim * 8
    with Counting(torch.device("cpu")) as counted:
        tight = call(matrix, memory=least, **options)
    # The same products, fewer at a time.
    torch.testing.assert_close(
        torch.as_tensor(tight.value), torch.as_tensor(free.value)
    )
    assert tight.num_matvecs == free.num_matvecs
    assert counted.peak < 1.1 * least
    assert es.plan(call, matrix, memory=least, effort=1e-3, **options).fits
    said = rf"{held} vectors of 600 numbers .* memory={least} .* or above, take fewer"
    for refused in (call, partial(es.plan, call)):
        with pytest.raises(ValueError, match=said):
            refused(matrix, memory=least - 1, **options)


@pytest.mark.message
def test_dense_forms_have_a_budget_or_what_is_free(problem, monkeypatch):
    for make in (es.InputJacobian, es.ParameterJacobian):
        free = make(problem)
        least = free.shape[0] * free.shape[1] * 8
        found = make(problem, memory=least).dense()
        torch.testing.assert_close(found, free.dense(), rtol=1e-12, atol=1e-15)
        assert es.plan(make(problem, memory=6 * least).dense, effort=1e-3).fits
        said = rf"the dense form of .* memory={least} .* or above, write it to a run"
        with pytest.raises(ValueError, match=said):
            make(problem, memory=least - 1).dense()
    monkeypatch.setattr(budget, "available_memory", lambda: 9000)
    hessian = es.Hessian(problem)  # of 43 parameters
    with pytest.raises(
        ValueError, match=r"what is free, 8\.8 KiB; 28\.9 KiB are .*'slq'"
    ):
        hessian.dense()
    assert es.layer_blocks(hessian)["2.bias"].dense().shape == (3, 3)


KERNEL = torch.eye(40) + 0.5
MEASURES = {
    "condition_number": ((KERNEL,), 24 * 40**2),
    "kernel_alignment": ((KERNEL, torch.eye(40)), 40 * 40**2),
    "kernel_target_alignment": ((KERNEL, torch.arange(40) % 3), 48 * 40**2),
    "principal_angles": ((KERNEL[:, :4], KERNEL[:, 9:11]), 32 * 40 * 6),
    "subspace_overlap": ((KERNEL[:, :4], KERNEL[:, 9:11]), 32 * 40 * 6),
}


@pytest.mark.message
@pytest.mark.parametrize("name", MEASURES)
def test_measures_of_kernels_and_subspaces_have_a_budget(name):
    given, least = MEASURES[name]
    free = getattr(es, name)(*given)
    tight = getattr(es, name)(*given, memory=least)
    assert str(tight) == str(free)
    assert es.plan(name, *given, memory=2 * least, effort=1e-3).fits
    for refused in (getattr(es, name), partial(es.plan, name)):
        with pytest.raises(ValueError, match=rf"Give more with memory={least} "):
            refused(*given, memory=least - 1)
