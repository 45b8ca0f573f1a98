"""Tangent kernels of networks of every kind against loops of plain backward passes."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import parameter_zoo as zoo
import pytest
import torch
from parameter_oracles import assert_close, assert_same, data_of, loop_kernels, traces
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import eigenscope as es
from eigenscope.kernels.blocks import make_block
from eigenscope.kernels.engine import KernelEngine
from eigenscope.kernels.shelf import Shelf

METHODS: list[Any] = ["auto", "jacobian", "structured", "products"]


@cache
def case(name: str) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    """A network, its inputs, and every component by a loop."""
    model, inputs = zoo.build(name)
    only = es.Problem(model, data_of(inputs)).params
    return model, inputs, loop_kernels(model, inputs, only=only)


def total(kernels: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(kernels.values())).sum(0)


def split(inputs: Any, first: int) -> tuple[Any, Any]:
    """The first samples and the rest."""
    if isinstance(inputs, dict):
        parts = {
            k: (v[:first], v[first:]) if isinstance(v, Tensor) else (v, v)
            for k, v in inputs.items()
        }
        return {k: v[0] for k, v in parts.items()}, {k: v[1] for k, v in parts.items()}
    return inputs[:first], inputs[first:]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", zoo.CASES)
def test_components_are_those_of_a_loop_and_add_up(name, method):
    model, inputs, expected = case(name)
    assert_same(es.ntk_components(model, inputs, method=method), expected)
    assert_close(es.ntk(model, inputs, method=method), total(expected))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", zoo.CASES)
def test_traces_are_sums_over_equal_outputs(name, method):
    model, inputs, kernels = case(name)
    expected = traces(kernels)
    options: dict[str, Any] = {"outputs": "trace", "method": method}
    assert_same(es.ntk_components(model, inputs, **options), expected)
    assert_close(es.ntk(model, inputs, **options), total(expected))


@pytest.mark.parametrize("name", zoo.CASES)
def test_two_sets_of_samples_give_the_block_between_them(name):
    model, inputs, kernels = case(name)
    left, right = split(inputs, 2)
    for method in METHODS:
        found = es.ntk_components(model, left, right, method=method)
        assert_same(found, {k: K[:2, 2:] for k, K in kernels.items()})
    trace = es.ntk(model, left, right, outputs="trace")
    assert_close(trace, total(traces(kernels))[:2, 2:])


def test_parts_are_added_in_the_order_of_the_network():
    """Not in that of a set of names, which every process has a different one of."""
    model = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(8)])
    problem = es.Problem(model, torch.randn(4, 2))
    engine = KernelEngine(
        problem, outputs="full", method="structured", free_bytes=2**30
    )
    for *_, left, right in engine.pairs():
        for block in (*left.blocks, *right.blocks):
            assert list(block.factors) == list(problem.params)


@pytest.mark.parametrize("outputs", ["full", "trace"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["vgg", "language model", "raw use", "experts"])
def test_chunks_and_budgets_change_nothing(name, method, outputs, monkeypatch):
    """Blocks of two samples (a ragged last one), and gradients of few of them kept."""
    model, inputs, expected = case(name)
    expected = traces(expected) if outputs == "trace" else expected
    engine = "eigenscope.kernels.engine.KernelEngine"
    for kept, disk in ((5, True), (1, True), (2, False)):
        monkeypatch.setattr(f"{engine}._has_disk", lambda _, disk=disk: disk)
        monkeypatch.setattr(f"{engine}._block_size", lambda _: 2)
        monkeypatch.setattr(f"{engine}._range_size", lambda _: 2)
        monkeypatch.setattr(f"{engine}._row_block_size", lambda _: 1)
        monkeypatch.setattr(f"{engine}._ranges_kept", lambda *_, kept=kept: kept)
        options: dict[str, Any] = {"outputs": outputs, "method": method}
        found = es.ntk_components(model, inputs, **options)
        assert_same(found, expected)
        assert_close(es.ntk(model, inputs, **options), total(expected))
        left, right = split(inputs, 3)
        between = es.ntk(model, left, right, **options)
        assert_close(between, total(expected)[:3, 3:])


@pytest.mark.parametrize("disk", [True, False])
def test_what_exceeds_memory_is_on_disk_or_found_again(disk, monkeypatch):
    """Six samples in ranges of two, of which one is kept: their folder goes, too."""
    model, inputs, expected = case("vgg")
    engine = "eigenscope.kernels.engine.KernelEngine"
    monkeypatch.setattr(f"{engine}._has_disk", lambda _: disk)
    monkeypatch.setattr(f"{engine}._range_size", lambda _: 2)
    monkeypatch.setattr(f"{engine}._block_size", lambda _: 2)
    monkeypatch.setattr(f"{engine}._ranges_kept", lambda *_: 1)
    opened: list[int] = []

    def counting(*args: Any) -> Any:
        opened.append(1)
        return make_block(*args)

    monkeypatch.setattr("eigenscope.kernels.engine.make_block", counting)
    slots: dict[int, set[int]] = {}
    get = Shelf.get

    def watched(self: Shelf, *args: Any, slot: int) -> Any:
        found = get(self, *args, slot=slot)
        slots.setdefault(slot, set()).add(found.formed.shared.data_ptr())
        return found

    monkeypatch.setattr(Shelf, "get", watched)
    before = set(Path(tempfile.gettempdir()).glob("eigenscope-*"))
    found = es.ntk(model, inputs)
    assert_close(found, total(expected))
    num_ranges = -(-len(found) // 2)
    # Without a disk, column range j is paired with row ranges j to the last.
    again = sum(num_ranges - j for j in range(num_ranges))
    assert len(opened) == (num_ranges if disk else again)
    # Ranges that are read take the memory of those before them: one, and a row.
    assert {slot: len(places) for slot, places in slots.items()} == (
        {0: 1, 1: 1} if disk else {}
    )
    assert set(Path(tempfile.gettempdir()).glob("eigenscope-*")) <= before


@pytest.mark.parametrize("name", ["vgg", "language model", "twice"])
def test_few_cotangents_at_a_time_and_small_scratch_change_nothing(name, monkeypatch):
    monkeypatch.setattr("eigenscope.jacobian.engine.COTANGENT_BYTES", 1)
    monkeypatch.setattr("eigenscope.kernels.contraction._SCRATCH_ENTRIES", 1)
    monkeypatch.setattr("eigenscope.kernels.pairs._ROWS_TOGETHER", 1)
    model, inputs, expected = case(name)
    for method in METHODS:
        assert_same(es.ntk_components(model, inputs, method=method), expected)
        found = es.ntk(model, inputs, method=method, outputs="trace")
        assert_close(found, total(traces(expected)))


@pytest.mark.parametrize(
    "name", ["vgg", "convnext", "language model", "twice", "lstm", "experts"]
)
def test_parameters_with_matrices_of_their_own_change_nothing(name, monkeypatch):
    """Chunks of two samples and a single one in one range; few outputs at a time."""
    monkeypatch.setattr("eigenscope.kernels.formed._OWN_ENTRIES", 1)
    monkeypatch.setattr(
        "eigenscope.kernels.engine.KernelEngine._block_size", lambda _: 2
    )
    model, inputs, expected = case(name)
    for room in (1, 2**20):
        monkeypatch.setattr("eigenscope.kernels.blocks.COTANGENT_BYTES", room)
        for method in METHODS:
            found = es.ntk_components(model, inputs, method=method)
            assert_same(found, expected)
            found = es.ntk(model, inputs, method=method, outputs="trace")
            assert_close(found, total(traces(expected)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"padding": 2, "dilation": (2, 3)},
        {"padding": 1, "stride": (1, 2)},
        {"padding": (2, 1), "stride": (2, 1)},
        {"padding": 1, "groups": 2, "bias": False},
    ],
)
def test_kernels_of_convolutions_are_formed_row_by_row(options, monkeypatch):
    monkeypatch.setattr("eigenscope.kernels.formed._OWN_ENTRIES", 1)
    torch.default_generator.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, **options)
    again, head = nn.Conv2d(4, 4, 3, padding=1), nn.LazyLinear(2)
    parts = [conv, nn.Tanh(), again, nn.Tanh(), again, nn.Flatten(), head]
    model = nn.Sequential(*parts).double()
    x = torch.randn(3, 2, 9, 8, dtype=torch.float64)
    model(x)
    expected = loop_kernels(model, x)
    assert_same(es.ntk_components(model, x, method="jacobian"), expected)


def test_batches_that_a_different_path_serves_agree(monkeypatch):
    """One sample alone goes through autograd: factors meet gradients."""
    monkeypatch.setattr(
        "eigenscope.kernels.engine.KernelEngine._block_size", lambda _: 2
    )
    for name in ("vgg", "language model", "twice", "windows"):
        model, inputs, expected = case(name)
        for method in METHODS:
            found = es.ntk_components(model, inputs, method=method)
            assert_same(found, expected)


def test_modules_own_their_parameters():
    model, inputs = zoo.build("convnext")
    parts = loop_kernels(model, inputs)
    found = es.ntk_components(model, inputs, by="module")
    assert list(found) == ["0", "1", "1.depthwise", "1.norm", "1.wide", "1.narrow", "3"]
    assert_close(found["1"], parts["1.layer_scale"])
    assert_close(found["1.wide"], parts["1.wide.weight"] + parts["1.wide.bias"])
    assert_close(torch.stack(list(found.values())).sum(0), es.ntk(model, inputs))


def test_parameters_of_the_model_itself_are_under_the_empty_path():
    model, inputs = zoo.build("squared")
    assert list(es.ntk_components(model, inputs, by="module")) == [""]


@pytest.mark.parametrize("output", ["probabilities", "log_probabilities", torch.tanh])
def test_any_output_can_be_differentiated(output):
    model, inputs = zoo.build("vgg")
    functions: dict[Any, Any] = {
        "probabilities": lambda raw: raw.softmax(1),
        "log_probabilities": lambda raw: raw.log_softmax(1),
    }
    expected = loop_kernels(model, inputs, output=functions.get(output, output))
    assert_close(es.ntk(model, inputs, output=output), total(expected))


def test_the_pseudo_kernel_is_that_of_the_summed_outputs():
    model, inputs = zoo.build("vgg")
    full = total(loop_kernels(model, inputs))
    found = es.ntk(model, inputs, outputs="pseudo")
    assert_close(found, full.sum((2, 3)) / full.shape[2])
    parts = es.ntk_components(model, inputs, inputs[:2], outputs="pseudo")
    assert_close(torch.stack(list(parts.values())).sum(0), found[:, :2])


def test_some_parameters_can_be_chosen():
    model, inputs = zoo.build("unused")
    only = ["frozen.weight", "used.bias"]
    found = es.ntk_components(model, inputs, params=only)
    assert list(found) == ["used.bias", "frozen.weight"]
    assert_same(found, loop_kernels(model, inputs, only=["used.bias", "frozen.weight"]))


def test_a_full_kernel_becomes_a_matrix_without_a_copy():
    model, inputs = zoo.build("vgg")
    kernel = es.ntk(model, inputs)
    n, _, k, _ = kernel.shape
    matrix = kernel.transpose(1, 2).reshape(n * k, n * k)
    assert matrix.data_ptr() == kernel.data_ptr()
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=0)  # mirrored
    # Float64 eigenvalues of a Gram matrix are not below zero but for rounding.
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12 * matrix.diagonal().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_has_the_models_dtype_and_is_summed_in_float32(dtype):
    model, inputs = zoo.build("vgg")
    expected = total(loop_kernels(model, inputs))
    for method in METHODS:
        found = es.ntk(model.to(dtype), inputs, method=method)
        assert found.dtype == dtype
        # A few rounding errors of the working precision, relative to the largest.
        error = (found.double() - expected).abs().max()
        assert error <= 60 * torch.finfo(dtype).eps * expected.abs().max()


def test_the_caller_may_have_gradients_off():
    model, inputs, kernels = case("vgg")
    expected = total(kernels)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(es.ntk(model, inputs), expected)


@pytest.mark.message
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": "diagonal"}, "outputs must be one of 'full', 'trace', 'pseudo'"),
        ({"method": "fast"}, "method must be one of 'auto', 'jacobian', 'structured'"),
        ({"output": "softmax"}, "output must be one of 'logits'"),
        ({"params": "sevenfold"}, "matches none. The nearest names"),
        ({"memory": 1000}, "must fit the memory budget of 1000 B"),
    ],
)
def test_wrong_options_are_refused(options, message):
    model, inputs = zoo.build("vgg")
    with pytest.raises(ValueError, match=message):
        es.ntk(model, inputs, **options)


@pytest.mark.message
def test_a_wrong_way_to_group_is_refused():
    model, inputs = zoo.build("vgg")
    options: dict[str, Any] = {"by": "layer"}
    with pytest.raises(ValueError, match="by must be one of 'parameter', 'module'"):
        es.ntk_components(model, inputs, **options)


@pytest.mark.message
def test_sets_that_do_not_match_are_refused():
    model, inputs = zoo.build("vgg")
    for other in (inputs.float(), inputs[:, :, :4]):
        with pytest.raises(ValueError, match="samples of the same shape and dtype"):
            es.ntk(model, inputs, other)
    model, inputs = zoo.build("dictionary")
    with pytest.raises(ValueError, match=r"x1 holds \{left"):
        es.ntk(model, inputs, {**inputs, "left": inputs["right"]})


@pytest.mark.message
def test_a_result_that_does_not_fit_says_its_size_and_the_way_out():
    model, inputs = zoo.build("vgg")
    with pytest.raises(ValueError, match=r"15 × 15 numbers .*1.8 KiB.*NTK\(problem\)"):
        es.ntk(model, inputs, memory=1000)
    with pytest.raises(ValueError, match="take some samples of x1 at a time"):
        es.ntk(model, inputs, inputs, memory=1000)


@pytest.mark.message
def test_a_budget_below_two_samples_is_refused():
    model, inputs = zoo.build("vgg")
    with pytest.raises(ValueError, match="what the kernel needs of two samples"):
        es.ntk(model, inputs, memory=2000)


@pytest.mark.message
def test_models_without_parameters_and_mixed_samples_are_refused():
    x = torch.randn(4, 3)
    for create_graph in (False, True):
        with pytest.raises(ValueError, match="a tangent kernel needs parameters"):
            es.ntk(nn.Flatten(), x, create_graph=create_graph)
    mixing = nn.Sequential(nn.Linear(3, 3), zoo.Lambda(lambda z: z - z.mean(0)))
    with pytest.raises(ValueError, match="depends on other samples"):
        es.ntk(mixing, x)


@pytest.mark.message
def test_a_kernel_that_overflows_names_its_sample():
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[1.0, 1.0], [1e25, 1e25], [1.0, 2.0]])
    for method in METHODS:
        with pytest.raises(ValueError, match="sample 1 overflows"):
            es.ntk(model, x, method=method)


class Largest(TorchDispatchMode):
    """Notes the entries of the largest tensor that is made."""

    entries = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        found = result if isinstance(result, tuple | list) else [result]
        sizes = [t.numel() for t in found if isinstance(t, Tensor)]
        self.entries = max(self.entries, *sizes, 0)
        return result


def test_the_structured_kernel_never_forms_gradients():
    torch.default_generator.manual_seed(0)
    parts = [nn.Linear(60, 80), nn.Tanh(), nn.Linear(80, 70), nn.Tanh()]
    model = nn.Sequential(*parts, nn.Linear(70, 4)).double()
    x = torch.randn(12, 60, dtype=torch.float64)
    largest: dict[str, int] = {}
    for method in METHODS:
        with Largest() as seen:
            es.ntk(model, x, method=method)
        largest[method] = seen.entries
    gradients = 12 * 4 * sum(p.numel() for p in model.parameters())
    assert largest["jacobian"] == gradients
    # The rules are proven on two samples' gradients of one layer.
    assert largest["structured"] == largest["auto"] == 2 * 70 * 80
    assert largest["products"] <= gradients
