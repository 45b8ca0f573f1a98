"""Runs that take in more samples: whole tiles stay, and all is as of one run."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed
from torch.utils.data import TensorDataset

import eigenscope as es
from eigenscope.experiments import JacobianPlan, run_jacobian_spectra
from eigenscope.store import Run, TiledArray

# Samples that are the same however many of them are taken.
FIRST = """
import torch

shift = 0

def first(num_samples=24):
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    x[5] += shift
    return x[:num_samples], torch.arange(num_samples) % 3
"""
SOME, ALL = "13", "21"  # of 24 samples, in tiles of a few, the last one ragged


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "more_samples.py").write_text(FIRST)
    monkeypatch.delitem(sys.modules, "more_samples", raising=False)
    return enter_folder(tmp_path, monkeypatch)


def words(verb: str, num_samples: str, out: str, *others: str) -> list[str]:
    own = ["--model", factory("net"), "--data", "more_samples:first", "--memory"]
    kind = {"jacobian": ["1400", "--side", "rows"], "ntk": ["3kB"]}[verb]
    kernels = ["--kernel", "trace", "conjugate"] if verb == "ntk" else []
    size = ["--num-samples", num_samples, "--out", out]
    return [verb, *own, *kind, *kernels, *size, *others]


def tiles(out: str) -> dict[str, tuple[int, bytes]]:
    """When each tile was written, and its bytes."""
    arrays = Path(out) / "arrays.zarr"
    return {
        str(path.relative_to(arrays)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in arrays.glob("*/c/**/*")
        if path.is_file()
    }


def same(one: str, other: str) -> None:
    """Compare all arrays and spectra of two runs, to rounding."""
    a, b = (Run.open(Path(out)) for out in (one, other))
    assert a.array_names == b.array_names
    assert a.results.keys() == b.results.keys()
    assert a.results["num_samples"] == int(ALL)
    assert a.is_complete
    for name in [name for name in b.array_names if not name.startswith("estimate")]:
        x, y = a.open_array(name), b.open_array(name)
        assert x.shape == y.shape, name
        whole = [index for index in np.ndindex(y.grid) if y.is_written(index)]
        for index in whole if x.tile_shape == y.tile_shape else []:
            np.testing.assert_allclose(
                x.read_tile(index), y.read_tile(index), rtol=1e-4, atol=1e-5
            )
    for path in (b.path / "results").glob("spectrum*.npz"):
        found, expected = (
            es.Spectrum.load(p) for p in (a.path / "results" / path.name, path)
        )
        scale = expected.values[-1]  # float32
        assert found.values == pytest.approx(expected.values, abs=1e-5 * scale)


@pytest.mark.parametrize("verb", ["jacobian", "ntk"])
def test_whole_tiles_are_kept_when_samples_are_added(verb, capsys):
    as_json(capsys, *words(verb, SOME, "run"))
    before = tiles("run")
    whole = {
        key
        for key in before
        if key.startswith(("jacobian/", "gram", "kernel_trace"))
        and all(int(part) < 1 for part in key.split("/c/")[1].split("/"))
    }
    as_json(capsys, verb, "--resume", "--out", "run", "--num-samples", ALL)
    after = tiles("run")
    kept = {key for key in before if before[key] == after.get(key)}
    assert whole <= kept
    as_json(capsys, *words(verb, ALL, "one"))
    same("run", "one")
    matrix = {"jacobian": "gram_logits_samples", "ntk": "kernel_trace"}[verb]
    array = Run.open(Path("run")).open_array(matrix)
    edge, rest = divmod(int(SOME), array.tile_shape[0])
    assert edge > 0
    assert rest > 0
    old = {key for key in kept if key.startswith(f"{matrix}/")}
    assert len(old) == edge * (edge + 1) // 2  # no other tile was whole
    again = as_json(capsys, verb, "--resume", "--out", "run")
    assert again["num_samples"] == int(ALL)
    assert {key: value[1] for key, value in tiles("run").items()} == {
        key: value[1] for key, value in after.items()
    }


@pytest.mark.parametrize("num_writes", [0, 3, 9])
def test_a_run_killed_while_it_grows_goes_on(num_writes, capsys, monkeypatch):
    as_json(capsys, *words("jacobian", SOME, "run"))
    write, left = TiledArray.write, iter(range(num_writes))

    def interrupted(self: TiledArray, *given: Any) -> None:
        if next(left, None) is None:
            raise RuntimeError("killed")
        write(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TiledArray, "write", interrupted)
        with pytest.raises(RuntimeError, match="killed"):
            as_json(capsys, *words("jacobian", ALL, "run", "--resume"))
    as_json(capsys, "jacobian", "--resume", "--out", "run")
    as_json(capsys, *words("jacobian", ALL, "one"))
    same("run", "one")


@pytest.mark.message
def test_other_first_samples_are_refused_and_nothing_is_lost(capsys, monkeypatch):
    as_json(capsys, *words("jacobian", SOME, "run"))
    before = tiles("run")
    monkeypatch.setattr(sys.modules["more_samples"], "shift", 1)
    told = failed(capsys, *words("jacobian", ALL, "run", "--resume"))
    assert "must go on with the model and data that it started with; the data" in told
    assert tiles("run") == before
    assert Run.open(Path("run")).is_complete
    assert "num_samples: 13 → 12" in failed(
        capsys, *words("jacobian", "12", "run", "--resume")
    )


@pytest.mark.message
def test_more_samples_need_grow_in_python():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    net = torch.nn.Linear(4, 2)
    with Run.create(Path("run"), verb="jacobian", arguments={"num_samples": 6}) as run:
        run_jacobian_spectra(run, es.Problem(net, x[:6]), JacobianPlan())
        problem = es.Problem(net, x)
        with pytest.raises(
            ValueError, match=r"first 6 samples, got 9\. Take.*run\.grow"
        ):
            run_jacobian_spectra(run, problem, JacobianPlan())
        run.grow(num_samples=9)
        run_jacobian_spectra(run, problem, JacobianPlan())
        assert run.open_array("jacobian").shape == (9, 2, 4)
    Run.resume(Path("run"), verb="jacobian", arguments={"num_samples": 9}).close()


@pytest.mark.parametrize("size", [3, 8, 11])
def test_the_digest_of_the_first_samples_is_that_of_these_alone(size):
    x = torch.randn(21, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(21) % 3
    net = torch.nn.Linear(6, 3)
    cuts: list[Any] = [
        lambda n: x[:n],
        lambda n: (x[:n], y[:n]),
        lambda n: TensorDataset(x[:n], y[:n]),
        lambda n: [
            {"input": a, "labels": b}
            for a, b in zip(x[:n].split(4), y[:n].split(4), strict=True)
        ],
    ]
    for cut in cuts:
        some, every = (es.Problem(net, cut(n), batch_size=4) for n in (size, 21))
        assert every.fingerprint(num_samples=size) == some.fingerprint()
        assert every.fingerprint() != some.fingerprint()
