"""Conjugate kernels, alignments, condition numbers and random projections."""

import math
from typing import Any

import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import assert_close, loop_kernels, traces
from torch import Tensor, nn

import eigenscope as es


def small() -> tuple[nn.Module, Tensor]:
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.Tanh()
    )
    model = nn.Sequential(net, nn.Dropout(), nn.Linear(5, 3), nn.Softplus())
    return model.double().eval(), torch.randn(7, 4, dtype=torch.float64)


def test_features_are_what_enters_the_last_linear_layer():
    model, x = small()
    features = model[0](x)  # type: ignore[operator]
    assert_close(es.conjugate_kernel(model, x), features @ features.T)
    between = es.conjugate_kernel(model, x[:3], x[3:])
    assert_close(between, features[:3] @ features[3:].T)


def test_features_are_what_leaves_a_named_module():
    model, x = small()
    first = model[0][0](x)  # type: ignore[index]
    # The ReLU after it works in place: what left the layer was before that.
    assert_close(es.conjugate_kernel(model, x, layer="0.0"), first @ first.T)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    network, _ = zoo.build("vgg")
    features = network[:3](images).flatten(1)  # type: ignore[index]
    assert_close(es.conjugate_kernel(network, images, layer="2"), features @ features.T)


def test_the_last_call_counts():
    model, inputs = zoo.build("twice")
    assert isinstance(model, zoo.Twice)
    h = torch.tanh(model.norm(model.layer(inputs)))
    assert_close(es.conjugate_kernel(model, inputs), h @ h.T)


def test_more_samples_than_go_through_the_network_together(monkeypatch):
    monkeypatch.setattr("eigenscope.kernels.conjugate._CHUNK", 2)
    model, x = small()
    features = model[0](x)  # type: ignore[operator]
    assert_close(es.conjugate_kernel(model, x), features @ features.T)


def test_the_last_weights_tangent_kernel_is_k_conjugate_kernels():
    model, x = small()
    linear = model[:3]  # type: ignore[index]
    part = es.ntk(linear, x, params="2.weight", outputs="trace")
    assert_close(part, 3 * es.conjugate_kernel(linear, x))


def test_a_mapping_of_inputs_and_frozen_parameters():
    model, inputs = zoo.build("dictionary")
    kernel = es.conjugate_kernel(model, inputs)
    assert_close(kernel, inputs["right"] @ inputs["right"].T)
    assert es.conjugate_kernel(model.requires_grad_(requires_grad=False), inputs).shape


@pytest.mark.message
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("0.7", r"layer must be the path of a module; '0.7' is none. The nearest: '0"),
        (None, "need an nn.Linear; the model has none"),
        ("2", "layer '2' must run when the model does"),
    ],
)
def test_features_that_cannot_be_found_are_refused(layer, message):
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("0", nn.Sequential(nn.Flatten()))
            self.add_module("2", nn.Flatten())

        def forward(self, x: Tensor) -> Tensor:
            return self.get_submodule("0")(x)

    with pytest.raises(ValueError, match=message):
        es.conjugate_kernel(Idle(), torch.ones(2, 3), layer=layer)


@pytest.mark.message
def test_features_that_are_no_rows_of_samples_are_refused():
    model, ids = zoo.build("lstm")
    with pytest.raises(TypeError, match="layer 'cell' gives tuple"):
        es.conjugate_kernel(model, ids, layer="cell")
    windows, x = zoo.build("windows")
    with pytest.raises(
        ValueError, match=r"one entry per sample on axis 0; .* a batch of"
    ):
        es.conjugate_kernel(windows, x, layer="1")
    model, x = small()
    with pytest.raises(ValueError, match="features each and their kernel must fit"):
        es.conjugate_kernel(model, x, memory=100)
    with pytest.raises(ValueError, match="samples of the same shape"):
        es.conjugate_kernel(model, x, x.float())


def test_rounding_that_is_amplified_is_not_taken_for_a_batch_that_mixes():
    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(x) * (1 + len(x) % 2 * torch.finfo(x.dtype).eps)
            for _ in range(14):
                x = 1 - 2 * x.abs()
            return x

    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    features = Doubling()(x)
    assert (features[:1] - Doubling()(x[:1])).abs().max() > 2e-4
    found = es.conjugate_kernel(nn.Sequential(Doubling(), nn.Linear(2, 1)), x)
    torch.testing.assert_close(found, features @ features.T)


@pytest.mark.message
def test_features_that_depend_on_the_batch_are_refused():
    class Centered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    x = torch.randn(6, 2)
    with pytest.raises(ValueError, match="features of sample 0 change with"):
        es.conjugate_kernel(nn.Sequential(Centered(), nn.Linear(2, 1)), x)
    normalized = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"a conjugate kernel needs .* BatchNorm"):
        es.conjugate_kernel(normalized, x)
    assert es.conjugate_kernel(normalized.eval(), x).shape == (6, 6)


def test_alignment_is_the_cosine_of_two_kernels():
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    assert es.kernel_alignment(a, 5 * a) == pytest.approx(1)
    b = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert es.kernel_alignment(a, b) == pytest.approx(2 / math.sqrt(15))


def test_centering_takes_the_mean_off_rows_and_columns():
    points = torch.tensor([[1.0], [3.0], [8.0]])
    a, b = points @ points.T, (points - points.mean()) @ (points - points.mean()).T
    assert es.kernel_alignment(a, b, centered=True) == pytest.approx(1)
    assert es.kernel_alignment(a, b) < 0.99


def test_full_kernels_align_like_their_matrices():
    model, inputs = zoo.build("twice")
    a = es.ntk(model, inputs)
    parts = es.ntk_components(model, inputs)
    b = parts["layer.weight"]
    wanted = (a * b).sum() / a.norm() / b.norm()
    assert es.kernel_alignment(a, b) == pytest.approx(float(wanted))
    assert es.kernel_alignment(a, b, centered=True) <= 1


def test_target_alignment_of_classes_and_numbers():
    labels = torch.tensor([3, 0, 3, 7])
    same = (labels[:, None] == labels).double()
    assert es.kernel_target_alignment(same, labels) == pytest.approx(1)
    signs = torch.tensor([1.0, -1.0, 1.0])
    assert es.kernel_target_alignment(torch.eye(3), signs) == pytest.approx(1 / 3**0.5)
    wide = torch.stack([signs, signs], 1)
    assert es.kernel_target_alignment(wide @ wide.T, wide) == pytest.approx(1)


@pytest.mark.message
def test_kernels_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"same shape; got \(2, 2\) and \(3, 3\)"):
        es.kernel_alignment(torch.eye(2), torch.eye(3))
    with pytest.raises(ValueError, match="square matrix"):
        es.kernel_alignment(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="not zero; b is"):
        es.kernel_alignment(torch.eye(2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="not zero; a is, once centered"):
        es.kernel_alignment(torch.ones(2, 2), torch.eye(2), centered=True)
    with pytest.raises(ValueError, match=r"kernel \(n, n\) and n targets"):
        es.kernel_target_alignment(torch.eye(2), torch.tensor([1, 2, 3]))


def test_condition_numbers_say_what_is_resolved():
    found = es.condition_number(torch.diag(torch.tensor([8.0, 2.0, 4.0])))
    assert (found.value, found.largest, found.smallest) == (4.0, 8.0, 2.0)
    assert found.is_resolved
    assert found.noise_floor == pytest.approx(2**-23 * 8 * 3**0.5)
    singular = es.condition_number(torch.ones(2, 2, dtype=torch.float64))
    assert not singular.is_resolved
    assert singular.value > 1e15
    assert es.condition_number(torch.diag(torch.tensor([1.0, -1.0]))).value == math.inf


def test_the_condition_number_of_a_full_kernel_is_its_matrix_s():
    model, inputs = zoo.build("vgg")
    kernel = es.ntk(model, inputs)
    n, _, k, _ = kernel.shape
    values = torch.linalg.eigvalsh(kernel.transpose(1, 2).reshape(n * k, n * k))
    found = es.condition_number(kernel).value
    assert found == pytest.approx(float(values[-1] / values[0]))


@pytest.mark.parametrize("outputs", ["full", "trace", "pseudo"])
def test_projections_estimate_the_kernel_within_their_error(outputs: Any):
    model, inputs = zoo.build("vgg")
    kernels = loop_kernels(model, inputs)
    full = torch.stack(list(kernels.values())).sum(0)
    exact = {
        "full": full,
        "trace": torch.stack(list(traces(kernels).values())).sum(0),
        "pseudo": full.sum((2, 3)) / 3,
    }[outputs]
    scores: list[Tensor] = []
    for seed in range(40):
        source = torch.Generator().manual_seed(seed)
        found = es.projected_ntk(
            model, inputs, outputs=outputs, num_projections=60, generator=source
        )
        scores.append((found.value - exact) / found.stderr)
    squares = torch.stack(scores).square()
    # Entries share their directions: 40 runs tell the mean to some 25 percent.
    assert 0.5 < squares.mean() < 2
    assert squares.max() < 36


def test_the_error_is_that_of_products_of_normal_numbers():
    model, inputs = zoo.build("vgg")
    full = es.ntk(model, inputs)
    found = es.projected_ntk(model, inputs, num_projections=600)
    own = torch.einsum("iicc->ic", full)
    squares = own[:, None, :, None] * own[None, :, None, :] + full.square()
    ratio = found.stderr / (squares / 600).sqrt()
    # The spread of 600 products is known to some ten percent.
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6


@pytest.mark.parametrize("outputs", ["full", "trace", "pseudo"])
def test_projections_between_two_sets_use_the_same_directions(outputs: Any):
    model, inputs = zoo.build("vgg")
    options: dict[str, Any] = {"outputs": outputs, "num_projections": 9}
    found = es.projected_ntk(model, inputs, **options)
    between = es.projected_ntk(model, inputs, inputs[:2], **options)
    assert_close(between.value, found.value[:, :2])


def test_few_directions_at_a_time_are_the_same_directions():
    model, inputs = zoo.build("vgg")
    entries = sum(p.numel() for p in model.parameters())
    roomy = es.projected_ntk(model, inputs, num_projections=20)
    for together in (1, 7):
        budget = 4 * 8 * entries * together
        found = es.projected_ntk(model, inputs, num_projections=20, memory=budget)
        assert_close(found.value, roomy.value)
        assert_close(found.stderr, roomy.stderr)


@pytest.mark.message
def test_too_few_projections_are_refused():
    model, inputs = zoo.build("vgg")
    with pytest.raises(ValueError, match="num_projections must be at least 2"):
        es.projected_ntk(model, inputs, num_projections=1)


@pytest.mark.message
@pytest.mark.parametrize(
    "measure", [es.condition_number, lambda K: es.kernel_alignment(torch.eye(2), K)]
)
def test_kernels_that_are_not_finite_are_refused(measure):
    with pytest.raises(ValueError, match="must be finite; it holds NaN or infinity"):
        measure(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))


@pytest.mark.message
def test_projections_need_parameters():
    with pytest.raises(ValueError, match="a tangent kernel needs parameters"):
        es.projected_ntk(nn.ReLU(), torch.eye(2))


@pytest.mark.message
def test_projections_that_are_no_number_or_do_not_fit_are_refused():
    wrong: Any = 2.5
    with pytest.raises(TypeError, match=r"must be an integer; got 2\.5"):
        es.projected_ntk(nn.Linear(2, 3), torch.eye(2), num_projections=wrong)
    x = torch.ones(40, 2)
    with pytest.raises(ValueError, match=r"40 × 40 samples, its error and 4 projec"):
        es.projected_ntk(nn.Linear(2, 3), x, num_projections=4, memory=80_000)
    found = es.projected_ntk(
        nn.Linear(2, 3), x, num_projections=4, memory=80_000, outputs="trace"
    )
    assert found.value.shape == (40, 40)


@pytest.mark.message
def test_matrices_without_a_condition_number_are_refused():
    with pytest.raises(ValueError, match=r"symmetric; entry \(0, 1\) is 5 and \(1, 0"):
        es.condition_number(torch.tensor([[2.0, 5.0], [0.0, 1.0]]))
    for negative in (-torch.eye(2), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"positive eigenvalue; the largest is -?"):
            es.condition_number(negative)


def test_kernels_of_integers_have_a_condition_number():
    found = es.condition_number(torch.tensor([[4, 0], [0, 1]]))
    assert found.value == 4
    assert found.noise_floor == pytest.approx(2**-52 * 4 * 2**0.5)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_alignment_is_free_of_the_kernels_scale(scale):
    a, b = torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    assert es.kernel_alignment(a * scale, b * scale) == pytest.approx(0.5**0.5)
    y = torch.tensor([1.0, -1.0], dtype=torch.float64) * scale
    assert es.kernel_target_alignment(a * scale, y) == pytest.approx(0.5**0.5)


@pytest.mark.message
def test_targets_may_be_one_hot_integers_and_must_be_a_tensor():
    labels = torch.tensor([1, 0, 1])
    kernel = (labels[:, None] == labels).double() + torch.eye(3)
    wanted = es.kernel_target_alignment(kernel, labels)
    one_hot = nn.functional.one_hot(labels)
    assert es.kernel_target_alignment(kernel, one_hot) == pytest.approx(wanted)
    assert es.kernel_target_alignment(kernel, labels[:, None]) == wanted
    wrong: Any = [1, 0, 1]
    with pytest.raises(TypeError, match=r"tensor of classes or numbers; got list\. P"):
        es.kernel_target_alignment(kernel, wrong)


@pytest.mark.message
def test_a_single_module_without_features_is_told_how_to_have_some():
    with pytest.raises(ValueError, match=r"wrap it in nn\.Sequential, layer='0'"):
        es.conjugate_kernel(nn.Conv1d(2, 3, 1), torch.ones(4, 2, 5))
