"""Ready-made measures against slow references, and what they hand on."""

import copy
from typing import Any

import numpy as np
import oracles_measures as oracles
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import eigenscope
from eigenscope.store import Run
from eigenscope.training.measures import curvature as home

es: Any = eigenscope  # what type checkers refuse is tested, too
SOURCE = torch.Generator().manual_seed(0)
X = torch.randn(7, 4, generator=SOURCE, dtype=torch.float64)
Y = torch.randint(3, (7,), generator=SOURCE)
BATCHES = [(X[:4], Y[:4]), (X[4:6], Y[4:6]), (X[6:], Y[6:])]
LOSS = nn.CrossEntropyLoss()


def network(hidden: int = 5) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        layers = (nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        return nn.Sequential(*layers).double()


def numbers(found: Any) -> np.ndarray:
    """All D eigenvalues, ascending."""
    return np.repeat(found.values, np.rint(found.weights * found.dimension).astype(int))


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton", "fisher"])
def test_spectra_of_the_whole_and_of_every_layer_are_those_of_dense_matrices(kind):
    model = network()
    found = es.CurvatureSpectra(BATCHES, LOSS, kind=kind)(model)
    dense = oracles.curvature(model, X, Y, kind)
    assert list(found) == ["full", *dict(model.named_parameters())]
    first = 0
    expected = {"full": dense}
    for name, parameter in model.named_parameters():
        last = first + parameter.numel()
        expected[name], first = dense[first:last, first:last], last
    for name, matrix in expected.items():
        values = torch.linalg.eigvalsh(matrix).numpy()
        np.testing.assert_allclose(numbers(found[name]), values, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("weights", ["0.weight", "2.weight"]),
        ("module", ["0", "2"]),
        (["2.*"], ["2.weight", "2.bias"]),
        ({"ends": ["0.bias", "2.bias"]}, ["ends"]),
        (None, []),
    ],
)
def test_layers_are_chosen_by_kind_name_or_group(layers, names):
    measure = es.CurvatureSpectra((X, Y), LOSS, layers=layers)
    assert list(measure(network())) == ["full", *names]
    if names:
        measure = es.CurvatureSpectra((X, Y), LOSS, layers=layers, full=False)
        assert list(measure(network())) == names


def test_distances_and_exponents_take_the_spectra_that_were_just_computed(
    monkeypatch,
):
    calls: list[int] = []
    inner = home.spectrum

    def counted(operator: Any, **options: Any) -> Any:
        calls.append(operator.shape[0])
        return inner(operator, **options)

    monkeypatch.setattr(home, "spectrum", counted)
    model = network()
    hessian = es.CurvatureSpectra((X, Y), LOSS)
    spectra = hessian(model)
    distances = es.LayerDistances(hessian, scale="max")(model)
    assert len(calls) == len(spectra) == 5
    for name, distance in distances.items():
        expected = es.wasserstein(spectra["full"], spectra[name], scale="max")
        assert distance.value == expected
    with torch.no_grad():
        model[0].weight += 0.1
    es.LayerDistances(hessian)(model)
    model.requires_grad_(False)[2].requires_grad_(True)
    assert list(hessian(model)) == ["full", "2.weight", "2.bias"]
    assert len(calls) == 13


def test_eigenvalues_with_their_residuals_and_traces_are_those_of_the_matrix():
    model = network()
    dense = oracles.curvature(model, X, Y, "hessian")
    values = torch.linalg.eigvalsh(dense)
    top = es.CurvatureEigenvalues(BATCHES, LOSS)(model)
    assert abs(top.value - values[-1]) < 1e-12 >= top.stderr
    ends = es.CurvatureEigenvalues(BATCHES, LOSS, k=3, which="both")(model)
    found = [float(part) for part in ends.values()]
    assert list(ends) == ["1", "2", "3"]
    expected = [values[-1], values[-2], values[0]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    traces = es.CurvatureTrace(BATCHES, LOSS, layers="parameter")(model)
    assert list(traces) == ["full", *dict(model.named_parameters())]
    assert abs(float(traces["full"]) - dense.trace()) < 1e-12
    estimate = es.CurvatureTrace(BATCHES, LOSS, method="hutchinson", num_matvecs=10)
    assert estimate(model)["full"].stderr > 0


def test_jacobian_weights_exponents_and_alignment_are_those_of_slow_formulas():
    model = network()
    rows = torch.stack(
        [torch.autograd.functional.jacobian(model, x).flatten() for x in X]
    )
    jacobian = es.JacobianSpectrum(BATCHES)
    values = torch.linalg.eigvalsh(rows @ rows.T).numpy()
    np.testing.assert_allclose(numbers(jacobian(model)), values, atol=1e-12)
    assert np.isnan(es.TailExponent(jacobian)(model).value)  # 4 values above 0
    weights = es.WeightSpectra(params="0.*")(model)
    expected = torch.linalg.svdvals(model[0].weight.detach()).square().numpy()
    np.testing.assert_allclose(weights["0.weight"].values, np.sort(expected))
    exponents = es.TailExponent(es.WeightSpectra(), xmin=1e-3)(model)
    assert list(exponents) == ["0.weight", "2.weight"]

    J = torch.stack(
        [
            torch.stack([oracles.flat_gradient(z, model) for z in model(x[None])[0]])
            for x in X
        ]
    )
    kernel = torch.einsum("icp,jcp->ij", J, J)
    ideal = (Y[:, None] == Y[None]).double()
    cosine = (kernel * ideal).sum() / kernel.norm() / ideal.norm()
    assert abs(es.TargetAlignment(BATCHES)(model) - float(cosine)) < 1e-12


def test_the_exponent_is_that_of_the_fit():
    many = torch.randn(30, 4, generator=SOURCE, dtype=torch.float64)
    smooth = nn.Sequential(network(), nn.Tanh(), nn.Linear(3, 4).double())
    jacobian = es.JacobianSpectrum(many)
    alpha = es.TailExponent(jacobian)(smooth)
    law = es.fit_power_law(jacobian(smooth))
    assert (alpha.value, alpha.stderr) == (law.alpha, law.alpha_stderr)


def test_a_spectrum_without_a_tail_gives_no_number_and_no_error():
    alpha = es.TailExponent(es.WeightSpectra())(nn.Linear(3, 1))
    assert np.isnan(alpha["weight"].value)
    assert np.isnan(alpha["weight"].stderr)


def step(model: nn.Module, rate: float = 1e-2) -> None:
    grads = torch.autograd.grad(cross_entropy(model(X), Y), [*model.parameters()])
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        parameter.data.sub_(rate * grad)


def test_a_warm_start_saves_products_and_finds_the_same():
    model = network(hidden=400)
    warm = es.CurvatureEigenvalues((X, Y), LOSS, k=2)
    cold = es.CurvatureEigenvalues((X, Y), LOSS, k=2, warm=False)
    costs: list[tuple[int, int]] = []
    for _ in range(3):
        found, expected = warm(model), cold(model)
        for place, value in expected.items():
            assert abs(found[place].value - value.value) <= 1e-9 * abs(value.value)
            assert found[place].converged
        costs.append((found["1"].num_matvecs, expected["1"].num_matvecs))
        step(model)
    assert costs[0][0] == costs[0][1]
    assert all(mine < theirs for mine, theirs in costs[1:])
    model[0].requires_grad_(False)  # another matrix: what was found is of no use
    assert warm(model)["1"].converged


def recorded(path: Any, stops: tuple[int, ...]) -> dict[int, dict[str, Any]]:
    """Record five steps; at some the process is lost, but for run and checkpoint."""
    model = network(hidden=400)

    def recorder(run: Run) -> eigenscope.Recorder:
        measures: Any = {"top": es.CurvatureEigenvalues((X, Y), LOSS, k=2)}
        return es.Recorder(run, measures)

    run = Run.create(path, verb="train", arguments={})
    current = recorder(run)
    for number in range(5):
        if number in stops:
            run.close()
            run = Run.resume(path, verb="train", arguments={})
            current = recorder(run)
        current.record(model, number)
        step(model)
    run.close()
    assert len(list((path / "results").glob("*.safetensors"))) <= 2
    return es.History.load(Run.open(path)).entries


def test_a_resumed_recorder_begins_with_the_same_eigenvectors(tmp_path):
    whole = recorded(tmp_path / "whole", ())
    assert recorded(tmp_path / "cut", (1, 3)) == whole
    assert whole[4]["top/1"] != whole[0]["top/1"]


@pytest.mark.message
def test_wrong_options_are_refused_before_the_training_begins():
    wrong: list[tuple[Any, str]] = [
        (lambda: es.CurvatureSpectra(X, LOSS, kind="ggn"), "kind must be one of"),
        (
            lambda: es.CurvatureSpectra(X, LOSS, layers="all"),
            "layers must be one of",
        ),
        (
            lambda: es.CurvatureSpectra(X, LOSS, method="fast"),
            "method must be one of",
        ),
        (
            lambda: es.CurvatureSpectra(X, LOSS, max_probes=1),
            "max_probes must be at",
        ),
        (lambda: es.CurvatureSpectra(X, LOSS, memory="much"), "memory"),
        (
            lambda: es.CurvatureSpectra(X, LOSS, full=False, layers=None),
            "ask for no spectrum at all; choose layers",
        ),
        (
            lambda: es.CurvatureEigenvalues(X, LOSS, k=0),
            "k must be at least 1; got 0",
        ),
        (
            lambda: es.CurvatureEigenvalues(X, LOSS, which="top"),
            "which must be one",
        ),
        (
            lambda: es.CurvatureTrace(X, LOSS, method="all"),
            "method must be one of",
        ),
        (lambda: es.LayerDistances(dict, scale="log"), "scale must be one of"),
        (lambda: es.TailExponent(dict, xmin="low"), "xmin must be one of"),
        (lambda: es.JacobianSpectrum(X, layout="rows"), "layout must be one of"),
        (lambda: es.JacobianSpectrum(X, output="odds"), "output must be"),
        (
            lambda: es.JacobianSpectrum(X, factorization="qr"),
            "factorization must be",
        ),
        (lambda: es.WeightSpectra(kernels="cut"), "kernels must be one of"),
        (lambda: es.TargetAlignment(X, memory="much"), "memory"),
    ]
    for make, message in wrong:
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.message
def test_measures_that_do_not_fit_each_other_or_their_data_say_so():
    model = network()
    alone = es.CurvatureSpectra((X, Y), LOSS, layers=None)
    with pytest.raises(ValueError, match=r"the measure gave 'full'\. Take es.Curv"):
        es.LayerDistances(alone)(model)
    with pytest.raises(ValueError, match=r"tensors; got NoneType\. Pass"):
        es.TargetAlignment(X)(copy.deepcopy(model))
