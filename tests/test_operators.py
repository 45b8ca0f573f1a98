"""The laws of linear operators, once, for every operator over every problem."""

from typing import Any

import operator_cases
import pytest
import torch
from numpy.testing import assert_allclose
from operator_cases import GRAMS, JACOBIANS, KINDS, LAYOUTS, SOURCES, Subject
from scipy.sparse.linalg import eigsh, svds
from torch import Tensor
from torch.testing import assert_close

# Sums of some dozens of terms in float64, against another order of the same terms.
EXACT: Any = {"rtol": 1e-11, "atol": 1e-12}


def source_id(source: object) -> str:
    return getattr(source, "__name__", str(source))


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=SOURCES, ids=lambda s: f"{s[0]}-{source_id(s[1])}")
def source(request):
    return request.param


@pytest.fixture
def subject(request, source, layout) -> Subject:
    return operator_cases.make(request.param, *source, layout)


every = pytest.mark.parametrize("subject", KINDS, indirect=True)
every_gram = pytest.mark.parametrize("subject", GRAMS, indirect=True)
every_jacobian = pytest.mark.parametrize("subject", JACOBIANS, indirect=True)


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@every
def test_the_dense_form_is_the_matrix_of_the_oracle(subject):
    assert subject.operator.shape == tuple(subject.matrix.shape)
    assert_close(subject.operator.dense(), subject.matrix, **EXACT)


@every
def test_products_are_those_of_the_matrix(subject, generator):
    rows, columns = subject.matrix.shape
    right, left = draw(generator, columns, 3), draw(generator, rows, 2)
    op = subject.operator
    assert_close(op @ right, subject.matrix @ right, **EXACT)
    assert_close(op.T @ left, subject.matrix.T @ left, **EXACT)
    assert_close(op @ right[:, 0], subject.matrix @ right[:, 0], **EXACT)
    assert (op @ right[:, :0]).shape == (rows, 0)


@every
def test_products_of_both_sides_are_adjoint(subject, generator):
    op = subject.operator
    x, y = draw(generator, op.shape[1]), draw(generator, op.shape[0])
    assert_close((op @ x) @ y, x @ (op.T @ y), **EXACT)


@every
def test_products_are_linear(subject, generator):
    op = subject.operator
    x, y = draw(generator, op.shape[1]), draw(generator, op.shape[1])
    assert_close(op @ (2 * x - 3 * y), 2 * (op @ x) - 3 * (op @ y), **EXACT)


@every
def test_a_block_is_its_columns(subject, generator):
    op = subject.operator
    block = draw(generator, op.shape[1], 3)
    columns = [op @ block[:, j] for j in range(3)]
    assert_close(op @ block, torch.stack(columns, 1), **EXACT)


@every
def test_the_operator_of_scipy_gives_the_same_products(subject, generator):
    op = subject.operator
    x, y = draw(generator, op.shape[1]).numpy(), draw(generator, op.shape[0]).numpy()
    matrix, other = subject.matrix.numpy(), op.to_scipy()
    assert other.shape == op.shape
    assert_allclose(other @ x, matrix @ x, **EXACT)
    assert_allclose(other.T @ y, matrix.T @ y, **EXACT)
    assert_allclose(other @ x[:, None], matrix @ x[:, None], **EXACT)


@every
def test_transposing_twice_gives_the_operator(subject):
    op = subject.operator
    assert op.T.shape == op.shape[::-1]
    assert_close(op.T.dense(), subject.matrix.T, **EXACT)
    assert_close(op.T.T.dense(), subject.matrix, **EXACT)


@every
def test_vectors_come_out_in_the_dtype_and_on_the_device_they_went_in(subject):
    op = subject.operator
    product = op @ torch.ones(op.shape[1], dtype=op.dtype, device=op.device)
    assert (product.dtype, product.device) == (op.dtype, op.device)


@every_gram
def test_the_diagonal_is_that_of_the_matrix(subject):
    assert_close(subject.operator.diagonal(), subject.matrix.diagonal(), **EXACT)


@every_gram
def test_a_gram_matrix_is_symmetric_to_the_bit(subject):
    dense = subject.operator.dense()
    assert torch.equal(dense, dense.T)
    assert subject.operator.T is subject.operator


@every_jacobian
def test_squared_norms_are_those_of_rows_and_columns(subject):
    squared = subject.matrix.square()
    assert_close(subject.operator.squared_row_norms(), squared.sum(1), **EXACT)
    assert_close(subject.operator.squared_column_norms(), squared.sum(0), **EXACT)


@every_jacobian
def test_blocks_of_rows_are_the_matrix_from_top_to_bottom(subject):
    blocks = [(start, rows.clone()) for start, rows in subject.operator.row_blocks()]
    assert_close(torch.cat([rows for _, rows in blocks]), subject.matrix, **EXACT)
    position = 0
    for start, rows in blocks:
        assert start == position
        position += len(rows)


@every_jacobian
@pytest.mark.parametrize("max_bytes", [1000, 3000, 10**9])
def test_panels_of_rows_are_the_matrix(subject, max_bytes):
    panels = [panel.clone() for panel in subject.operator.row_panels(max_bytes)]
    assert_close(torch.cat(panels), subject.matrix, **EXACT)


@pytest.mark.parametrize("kind", ["gram rows", "stored gram columns"])
def test_scipy_finds_the_eigenvalues(kind):
    subject = operator_cases.make(kind, "mlp", "probabilities", "outputs")
    start = torch.ones(subject.operator.shape[0]).numpy()
    found: Any = eigsh(
        subject.operator.to_scipy(), 2, return_eigenvectors=False, v0=start
    )
    expected = torch.linalg.eigvalsh(subject.matrix)[-2:].numpy()
    assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("kind", ["computed", "transpose of stored"])
def test_scipy_finds_the_singular_values(kind):
    subject = operator_cases.make(kind, "mlp", "probabilities", "outputs")
    start = torch.ones(min(subject.operator.shape)).numpy()
    operator = subject.operator.to_scipy()
    found: Any = svds(operator, 2, return_singular_vectors=False, v0=start)
    expected = torch.linalg.svdvals(subject.matrix)[:2].flip(0).numpy()
    assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_both_sides_have_the_same_non_zero_eigenvalues(output, layout):
    rows = operator_cases.make("gram rows", "mlp", output, layout).operator
    columns = rows.other_side()
    assert columns.side == "columns"
    found = [torch.linalg.eigvalsh(op.dense()).flip(0) for op in (rows, columns)]
    size = min(rows.shape[0], columns.shape[0])
    assert_close(found[0][:size], found[1][:size], rtol=1e-10, atol=1e-13)
    rest = torch.cat([values[size:] for values in found])
    assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-13)
