"""Runs whose matrices exceed their memory budget: tiles, and estimates from them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder
from torch import nn

import eigenscope as es
from eigenscope.operators import StoredGram
from eigenscope.spectra import Spectrum
from eigenscope.store import Run

SIZE = 37


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def stored_matrix(run: Run, name: str, tile: int, seed: int) -> StoredGram:
    """Return a random symmetric matrix whose lower triangle of tiles is in a run."""
    source = torch.Generator().manual_seed(seed)
    factor = torch.randn(SIZE, SIZE, generator=source)
    matrix = (factor @ factor.T).numpy()
    array = run.array(
        name,
        shape=(SIZE, SIZE),
        dtype="float32",
        tile_shape=(tile, tile),
        attributes={"factor_dtype": "float32"},
    )
    for index in array.missing():
        if index[0] >= index[1]:
            array.write(index, matrix[array.selection(index)])
    return StoredGram(array)


def test_blocks_and_inner_products_of_stored_matrices_are_those_of_whole_ones():
    with Run.create(Path("run"), verb="test", arguments={}) as run:
        a, b = stored_matrix(run, "a", 10, 1), stored_matrix(run, "b", 7, 2)
        A, B = a.dense(), b.dense()
        for rows, columns in ((3, 25), (0, 37), (36, 37), (9, 22)):
            block = a.block(slice(rows, columns), slice(1, 20))
            torch.testing.assert_close(block, A[rows:columns, 1:20], rtol=0, atol=0)
        # Float32 entries, sums in float64.
        assert a.inner(b) == pytest.approx(float((A * B).double().sum()), rel=1e-6)
        assert a.inner(a) == pytest.approx(float(A.double().norm()) ** 2, rel=1e-6)


def wide_model() -> nn.Module:
    source = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(200, 40), nn.Tanh(), nn.Linear(40, 3))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=source) / 9)
    return model.eval()


MANY = """
import torch
from test_beyond_memory import wide_model

def net(sample_shape, num_classes):
    return wide_model()

def data(split):
    source = torch.Generator().manual_seed(1)
    return torch.randn(300, 200, generator=source), torch.arange(300) % 3
"""


@pytest.mark.parametrize("verb", ["jacobian", "ntk"])
def test_a_spectrum_beyond_the_budget_is_estimated_from_tiles(verb, capsys):
    Path("many_samples.py").write_text(MANY)
    words = [verb, "--model", "many_samples:net", "--data", "many_samples:data"]
    name = {"jacobian": "spectrum_logits_samples", "ntk": "spectrum_trace"}[verb]
    exact = as_json(capsys, *words, "--out", "exact", "--memory", "100MB")
    small = as_json(capsys, *words, "--out", "small", "--memory", "400kB")
    assert exact["run"] != small["run"]
    whole, estimate = (
        Spectrum.load(Path(run) / "results" / f"{name}.npz")
        for run in ("exact", "small")
    )
    assert whole.exact
    assert whole.dimension == estimate.dimension
    assert not estimate.exact
    assert es.wasserstein(whole, estimate) <= estimate.error
    assert estimate.values[-1] == pytest.approx(whole.values[-1], rel=1e-3)
    for run in ("exact", "small") if verb == "ntk" else ():
        matrix = StoredGram(Run.open(Path(run)).open_array("kernel_trace"))
        x = torch.randn(300, 200, generator=torch.Generator().manual_seed(1))
        expected = es.ntk(wide_model(), x, outputs="trace")
        # Float32: tiles add up in another order.
        torch.testing.assert_close(matrix.dense(), expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(estimate.error)
    recorded = small["trace" if verb == "ntk" else "logits_samples"]
    assert recorded["method"] == "slq"
    assert recorded["error"] == estimate.error
