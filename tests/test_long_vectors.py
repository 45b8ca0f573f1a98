"""Vectors of millions of float32 entries: sums must not stop growing."""

import pytest
import torch

from eigenscope.estimators.basis import Basis
from eigenscope.estimators.long_vectors import (
    inner_products,
    normalize,
    orthonormal_rows,
    project_off,
)

LONG = 2**21
PIECE = 2**14


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(2, LONG, generator=generator)
    lengths = torch.linalg.vector_norm(found, dim=1, keepdim=True, dtype=torch.float64)
    return found / lengths.float()


def in_float64(left, right):
    return torch.stack([right.double() @ row.double() for row in left])


# Rounding of a sum of 16,384 products of one sign, in units of the sum.
ATOL = 2e-6


def test_inner_products_of_long_float32_vectors_are_those_of_float64(rows):
    expected = in_float64(rows, rows)
    torch.testing.assert_close(inner_products(rows, rows), expected, rtol=0, atol=ATOL)
    grouped = inner_products(rows[:, None], rows[:, None])
    torch.testing.assert_close(
        grouped.flatten(), expected.diagonal(), rtol=0, atol=ATOL
    )


def test_long_float32_rows_become_orthonormal(rows):
    mixed = torch.stack([rows[0], rows[0] + 1e-2 * rows[1]])
    found, triangle = orthonormal_rows(mixed)
    gram = in_float64(found, found)
    torch.testing.assert_close(gram, torch.eye(2).double(), rtol=0, atol=ATOL)
    gaps = triangle.T @ found.double() - mixed.double()
    assert float(gaps.norm()) < ATOL


def test_long_float32_rows_are_normalized_and_projected_off(rows):
    mixed = 3 * rows[:1] + rows[1:]
    project_off(mixed, orthonormal_rows(rows[1:])[0])
    normalize(mixed)
    found = in_float64(mixed, torch.stack([mixed[0], rows[1]]))
    torch.testing.assert_close(
        found, torch.tensor([[1.0, 0.0]]).double(), rtol=0, atol=ATOL
    )


@pytest.mark.parametrize("dim", [1, 5, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pieces_of_any_length_make_one_factorization(dim, dtype):
    generator = torch.Generator().manual_seed(dim)
    given = torch.randn(min(dim, 4), dim, generator=generator, dtype=dtype)
    found, triangle = orthonormal_rows(given)
    epsilon = torch.finfo(dtype).eps
    wide = found.double()
    eye = torch.eye(len(given), dtype=torch.float64)
    torch.testing.assert_close(wide @ wide.T, eye, rtol=0, atol=30 * epsilon)
    size = float(given.double().norm())
    atol = 30 * epsilon * size
    torch.testing.assert_close(triangle.T @ wide, given.double(), rtol=0, atol=atol)
    assert not triangle.tril(-1).any()
    expected = given.double() @ given.double().T
    atol = 30 * epsilon * size**2
    torch.testing.assert_close(
        inner_products(given, given), expected, rtol=0, atol=atol
    )


def test_a_basis_knows_the_lengths_of_long_float32_vectors(rows):
    basis = Basis(
        1, LONG, dtype=torch.float32, device=torch.device("cpu"), memory=2**30
    )
    basis.append(rows[None, :1])
    torch.testing.assert_close(
        basis.coefficients(rows[None, :1]),
        torch.ones(1, 1, 1, dtype=torch.float64),
        rtol=0,
        atol=ATOL,
    )
