import tracemalloc

import pytest
import torch
from dense_cases import normal, symmetric
from torch.utils._python_dispatch import TorchDispatchMode

from eigenscope.estimators import lapack, spectrum, whole
from eigenscope.estimators.lapack import (
    MOST_ROWS,
    MOST_ROWS_EVD,
    choose_driver,
    peak_bytes,
)
from eigenscope.estimators.matrices import load
from eigenscope.operators import gram


def test_the_driver_is_safe_wherever_32_bit_integers_end():
    assert (2 * MOST_ROWS_EVD**2) + 6 * MOST_ROWS_EVD + 1 < 2**31
    assert 2 * (MOST_ROWS_EVD + 1) ** 2 + 6 * (MOST_ROWS_EVD + 1) + 1 >= 2**31
    assert MOST_ROWS**2 < 2**31 <= (MOST_ROWS + 1) ** 2
    assert choose_driver(MOST_ROWS, num_vectors=0) == "evr"
    assert choose_driver(MOST_ROWS_EVD, num_vectors=MOST_ROWS_EVD) == "evd"
    assert choose_driver(MOST_ROWS_EVD + 1, num_vectors=MOST_ROWS_EVD) == "evr"
    assert choose_driver(1000, num_vectors=10) == "evr"
    assert choose_driver(1000, num_vectors=500) == "evd"


def test_bytes_count_the_matrix_the_vectors_and_the_workspace():
    assert peak_bytes(1000, num_vectors=0) == 8_000_000
    assert peak_bytes(1000, num_vectors=10) == 8_080_000
    assert peak_bytes(1000, num_vectors=1000) == 32_000_000


def test_eigenvalues_need_no_second_matrix():
    matrix = symmetric(400)
    tracemalloc.start()
    lapack.eigenvalues(matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 400 * 8 / 4


def test_a_gram_matrix_in_float64_is_not_copied():
    class Counted(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and "empty" not in str(func):
                copied = "copy" in str(func) or "clone" in str(func)
                self.largest = max(self.largest, result.numel() * copied)
            return result

    operator = gram(normal(1500, 3))
    with Counted() as counted:
        load(gram(operator.factor, side="rows"))
    assert counted.largest <= 1024 * 1024


@pytest.mark.message
def test_beyond_32_bit_integers_a_spectrum_is_estimated_or_refused(monkeypatch):
    matrix = symmetric(30)
    for module in (lapack, whole):
        monkeypatch.setattr(module, "MOST_ROWS", 20)
    assert not spectrum(matrix, max_steps=8).exact
    message = r"needs at most 20 rows, where LAPACK's 32-bit integers end; got 30"
    with pytest.raises(ValueError, match=message):
        spectrum(matrix, method="exact")
    factor = normal(30, 10)  # its smaller side is safe
    assert spectrum(gram(factor, side="rows")).exact
