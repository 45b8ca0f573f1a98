"""Gram matrices and sketches: one answer whatever the batches, budgets and dtypes."""

from typing import Any

import operator_cases
import oracles
import pytest
import torch
import zoo
from engine_blocks import gradients_at
from torch import Tensor, nn
from torch.testing import assert_close

import eigenscope as es
from eigenscope.kernels.triangles import add_lower_product, mirror_lower
from eigenscope.operators import Jacobian, StoredGram

EXACT: Any = {"rtol": 1e-11, "atol": 1e-12}
OUTPUTS: list[Any] = ["logits", "probabilities", operator_cases.squares]
SIDES: list[Any] = ["rows", "columns"]


def whole(case: zoo.Case) -> Tensor:
    return torch.cat([inputs for inputs, _ in case.batches])


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: getattr(o, "__name__", o))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 100])
def test_every_batch_size_gives_one_answer(output, batch_size, generator):
    case = zoo.make("mlp")
    problem = es.Problem(case.model, whole(case), output=output, batch_size=batch_size)
    jacobian = es.InputJacobian(problem, layout="outputs")
    matrix = oracles.laid_out(
        oracles.jacobian(case.model, case.batches, output), "outputs"
    )
    x = torch.randn(jacobian.shape[1], 2, generator=generator).double()
    assert_close(jacobian @ x, matrix @ x, **EXACT)
    assert_close(jacobian.dense(), matrix, **EXACT)
    for side in SIDES:
        found = es.gram(jacobian, side=side).dense()
        assert_close(found, oracles.gram(matrix, side), **EXACT)
    sketch = jacobian.sketch(4)
    expected = es.InputJacobian(
        es.Problem(case.model, whole(case), output=output), layout="outputs"
    ).sketch(4)
    assert_close(sketch, expected, **EXACT)


@pytest.mark.parametrize(
    ("name", "output"), operator_cases.SOURCES, ids=lambda o: getattr(o, "__name__", o)
)
@pytest.mark.parametrize(
    ("side", "layout", "kind"),
    [
        ("rows", "samples", "computed"),
        ("rows", "samples", "stored"),
        ("columns", "samples", "computed"),
        ("columns", "outputs", "stored"),
    ],
)
def test_every_memory_budget_gives_one_answer(name, output, side, layout, kind):
    subject = operator_cases.make(kind, name, output, layout)
    jacobian, matrix = subject.operator, subject.matrix
    expected = oracles.gram(matrix, side)
    result = expected.numel() * 8
    n, k, d = jacobian.source.shape
    # Panels of one output, of two, of all but one, of everything.
    for panel in (n * d * 8, 2 * n * d * 8 + 5, n * k * d * 8 - 1, n * k * d * 8):
        found = es.gram(jacobian, side=side, memory=result + panel).dense()
        assert_close(found, expected, **EXACT)


def panels_seen(jacobian: Jacobian, max_bytes: int) -> list[int]:
    return [panel.shape[1] for panel in jacobian.column_panels(max_bytes)]


def test_column_panels_hold_as_many_outputs_as_the_budget():
    case = zoo.make("mlp")
    jacobian = es.InputJacobian(es.Problem(case.model, case.batches))
    assert panels_seen(jacobian, 7 * 6 * 8) == [6, 6, 6, 6]
    assert panels_seen(jacobian, 3 * 7 * 6 * 8) == [18, 6]
    assert panels_seen(jacobian, 10**9) == [24]


def test_column_panels_cost_one_backward_pass_for_each_output():
    case = zoo.make("mlp")
    jacobian = es.InputJacobian(
        es.Problem(case.model, case.batches, output="probabilities", batch_size=7)
    )
    passes = gradients_at(case.model[0])
    assert panels_seen(jacobian, 2 * 7 * 6 * 8) == [12, 12]
    assert len(passes) == 4


def test_rows_of_layout_outputs_fit_their_budget_to_the_byte():
    case = zoo.make("mlp")
    jacobian = es.InputJacobian(es.Problem(case.model, case.batches), layout="outputs")
    needed = (28 * 28 + 28 * 6) * 8
    assert es.gram(jacobian, side="rows", memory=needed).dense().shape == (28, 28)
    with pytest.raises(ValueError, match="must fit"):
        es.gram(jacobian, side="rows", memory=needed - 1).dense()


def test_a_matrix_in_memory_is_neither_copied_nor_refused_for_its_size(generator):
    matrix = torch.randn(5, 40, generator=generator)
    for side, size in zip(SIDES, (5, 40), strict=True):
        budget = size * size * 4 + 1
        found = es.gram(matrix, side=side, memory=budget).dense()
        factor = matrix if side == "rows" else matrix.T
        assert_close(found, factor @ factor.T, rtol=1e-5, atol=1e-5)
    panel = next(es.Dense(matrix).column_panels(1))
    assert panel.data_ptr() == matrix.data_ptr()


@pytest.mark.parametrize("side", ["rows", "columns"])
def test_auto_takes_the_smaller_side(side, generator):
    shape = (3, 5) if side == "rows" else (5, 3)
    assert es.gram(torch.randn(*shape, generator=generator)).side == side


@pytest.mark.parametrize("size", [1, 63, 64, 65, 300, 1030])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_triangle_and_its_mirror_are_the_whole_product(size, transposed, generator):
    factor = torch.randn(size, 9, generator=generator).double()
    if transposed:
        factor = factor.T.contiguous().T
    out = torch.full((size, size), torch.nan).double()
    add_lower_product(out, factor[:, :4], fresh=True)
    add_lower_product(out, factor[:, 4:], fresh=False)
    mirror_lower(out)
    assert_close(out, factor @ factor.T, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accumulating_in_a_wider_dtype_is_more_accurate(dtype, generator):
    factor = torch.rand(40, 60_000, generator=generator).to(dtype)
    exact = factor.double() @ factor.double().T
    wide = es.gram(factor, accumulate=torch.float64).dense()
    narrow = es.gram(factor).dense()
    assert (wide.dtype, narrow.dtype) == (torch.float64, dtype)
    error = (wide - exact).abs().max() / exact.max()
    assert error < (narrow.double() - exact).abs().max() / exact.max() / 2
    # Products and sums of 4096 terms are rounded to the factor's dtype.
    assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("side", ["rows", "columns"])
def test_a_wider_stored_gram_takes_vectors_in_the_dtype_of_the_jacobian(
    side, tmp_path, generator
):
    model = nn.Linear(6, 3)
    jacobian = es.InputJacobian(
        es.Problem(model, torch.randn(7, 6, generator=generator))
    )
    matrix = es.gram(jacobian, side=side, accumulate=torch.float64)
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        stored = matrix.write(run)
    exact = oracles.gram(jacobian.dense().double(), side)
    assert (matrix.dtype, stored.dtype) == (torch.float32, torch.float32)
    assert (matrix.dense().dtype, stored.dense().dtype) == (torch.float64,) * 2
    assert_close(stored.dense(), matrix.dense(), rtol=1e-12, atol=1e-12)
    x = torch.randn(matrix.shape[0], generator=generator)
    assert_close(stored @ x, (exact @ x.double()).float(), rtol=1e-5, atol=1e-5)
    assert_close(matrix @ x, (exact @ x.double()).float(), rtol=1e-5, atol=1e-5)
    reopened = StoredGram(es.Run.open(tmp_path / "run").open_array("gram"))
    assert torch.equal(reopened.dense(), stored.dense())


def test_bfloat16_goes_through_scipy_in_float32(generator):
    matrix = torch.randn(4, 3, generator=generator).bfloat16()
    operator = es.Dense(matrix).to_scipy()
    x = torch.ones(3).numpy()
    assert operator.dtype == "float32"
    assert_close(torch.from_numpy(operator @ x), (matrix @ matrix.new_ones(3)).float())


def test_operators_record_no_gradients(generator):
    matrix = torch.randn(4, 3, generator=generator).requires_grad_()
    x = torch.ones(3, requires_grad=True)
    case = zoo.make("mlp")
    jacobian = es.InputJacobian(es.Problem(case.model, case.batches))
    assert not (es.Dense(matrix) @ x).requires_grad
    assert not es.gram(matrix).dense().requires_grad
    block = torch.ones(24, 2, requires_grad=True).double()
    assert not (jacobian @ block).requires_grad
    assert not jacobian.raw_outputs().requires_grad


def test_raw_outputs_are_those_of_the_network():
    case = zoo.make("sequence")
    for kind in ("computed", "stored"):
        subject = operator_cases.make(kind, "sequence", "log_probabilities", "samples")
        raw = subject.operator.raw_outputs()
        assert_close(raw, case.model(whole(case)).detach(), **EXACT)


def test_the_other_layout_needs_no_work():
    jacobian = operator_cases.make("computed", "mlp", "logits", "samples").operator
    other = jacobian.with_layout("outputs")
    assert other.source is jacobian.source
    assert (jacobian.layout, other.shape) == ("samples", (28, 6))
    assert other.sample_shape == (6,)


def test_a_stored_jacobian_gives_every_named_output(tmp_path):
    case = zoo.make("sequence")
    with es.Run.create(tmp_path / "run", verb="test", arguments={}) as run:
        problem = es.Problem(case.model, case.batches, output="probabilities")
        es.InputJacobian(problem).write(run)
    run = es.Run.open(tmp_path / "run")
    named: list[Any] = ["logits", "probabilities", "log_probabilities"]
    for output in named:
        found = es.InputJacobian.open(run, output=output, layout="outputs")
        expected = oracles.jacobian(case.model, case.batches, output)
        assert_close(found.dense(), oracles.laid_out(expected, "outputs"), **EXACT)
        assert found.engine is None
    assert_close(
        es.InputJacobian.open(run).dense(),
        es.InputJacobian.open(run, output="logits").dense(),
    )


def sketched(jacobian: es.InputJacobian, num_rows: int, count: int) -> Tensor:
    source = torch.Generator().manual_seed(0)
    sketches = [jacobian.sketch(num_rows, generator=source) for _ in range(count)]
    return torch.stack(sketches)


def test_a_sketch_is_unbiased_and_of_the_right_scale(generator):
    jacobian = operator_cases.make("stored", "mlp", "logits", "outputs").operator
    matrix = jacobian.dense()
    v = torch.randn(6, generator=generator).double()
    exact = (matrix @ v).square().sum()
    num_rows, count = 20, 400
    found = (sketched(jacobian, num_rows, count) @ v).square().sum(1)
    # Each has a relative standard error of at most √(2/m) = 0.32.
    assert found.std() / exact < (2 / num_rows) ** 0.5 * 1.15
    stderr = found.std() / count**0.5
    assert (found.mean() - exact).abs() < 4 * stderr
    assert stderr / exact < 0.02


def test_sketches_draw_new_signs_unless_the_generator_is_fresh():
    jacobian = operator_cases.make("stored", "mlp", "logits", "outputs").operator
    first, second = sketched(jacobian, 3, 2)
    assert not torch.equal(first, second)
    assert torch.equal(jacobian.sketch(3), jacobian.sketch(3))
    state = torch.get_rng_state()
    jacobian.sketch(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sketch_of_many_rows_keeps_the_spectrum():
    jacobian = operator_cases.make("stored", "mlp", "logits", "outputs").operator
    sketch = jacobian.sketch(4000)
    found = torch.linalg.eigvalsh(sketch.T @ sketch)
    expected = torch.linalg.eigvalsh(es.gram(jacobian, side="columns").dense())
    # √(6/4000) = 0.04 for six dimensions, one of which is rounding.
    assert_close(found, expected, rtol=0.16, atol=1e-12)


def test_chunk_buffers_are_no_larger_than_the_data():
    case = zoo.make("mlp")
    jacobian = es.InputJacobian(es.Problem(case.model, case.batches, batch_size=10**6))
    _, rows = next(jacobian.row_blocks())
    assert rows.untyped_storage().nbytes() == 7 * 24 * 8


def large_jacobian(kind: str) -> Jacobian:
    """Finite entries whose squares are not: of the inputs, or of the weights."""
    model = nn.Linear(3, 2)
    x = torch.linspace(1, 2, 15).view(5, 3)
    with torch.no_grad():
        model.weight.fill_(3e19 if kind == "inputs" else 1)
    if kind == "inputs":
        return es.InputJacobian(es.Problem(model, x))
    jacobian = es.ParameterJacobian(es.Problem(model, 3e19 * x))
    return es.Dense(jacobian.dense()) if kind == "dense" else jacobian


@pytest.mark.message
@pytest.mark.parametrize("kind", ["inputs", "parameters", "dense"])
def test_norms_and_gram_matrices_that_overflow_are_refused(kind, tmp_path):
    jacobian = large_jacobian(kind)
    with pytest.raises(ValueError, match=r"norms of rows .* number 0 holds inf"):
        jacobian.squared_row_norms()
    with pytest.raises(ValueError, match=r"norms of columns .* number 0 holds inf"):
        jacobian.squared_column_norms()
    for side in SIDES:
        with pytest.raises(ValueError, match="rows of a Gram matrix must be finite"):
            es.gram(jacobian, side=side).dense()
    if isinstance(jacobian, es.InputJacobian):
        with es.Run.create(tmp_path / "run", verb="jacobian", arguments={}) as run:
            for side in SIDES:
                with pytest.raises(ValueError, match="of a Gram matrix must be finite"):
                    es.gram(jacobian, side=side).write(run, name=side)
                assert len(run.open_array(side).missing()) == 1
