"""Tangent and conjugate kernels by the command line, into runs that resume."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import as_json, enter_folder, factory, failed, mine

import eigenscope as es
from eigenscope.cli import main
from eigenscope.experiments import KernelPlan, load_kernel_results
from eigenscope.operators import StoredGram
from eigenscope.store import Run
from eigenscope.store.arrays import TiledArray

OWN = ["ntk", "--model", factory("net"), "--data", factory("pairs")]
KINDS = ("full", "trace", "conjugate")
ALL = [*OWN, "--kernel", *KINDS, "--dtype", "float64", "--components", "parameter"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def stored(run: Run, name: str) -> torch.Tensor:
    return StoredGram(run.open_array(name)).dense()


def assert_close(found: Any, expected: Any) -> None:
    # Float64; sums in another order.
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_ntk_writes_all_that_was_asked_for(capsys):
    main([*ALL, "--replicas", "3"])
    printed = capsys.readouterr()
    assert printed.err == ""
    run = Run.open(Path("runs/ntk"))
    assert run.is_complete
    net, (x, y) = mine().net().double(), mine().pairs()
    x = x.double()
    full = es.ntk(net, x)
    n, _, k, _ = full.shape
    matrix = full.transpose(1, 2).reshape(n * k, n * k)
    trace = torch.einsum("ijcc->ij", full)
    assert_close(stored(run, "kernel_full"), matrix)
    assert_close(stored(run, "kernel_trace"), trace)
    features = es.conjugate_kernel(net, x)
    assert_close(stored(run, "kernel_conjugate"), features)
    parts = es.ntk_components(net, x, outputs="trace")
    for name, part in parts.items():
        assert_close(stored(run, f"component.{name}"), part)
    results: Any = run.results
    for name, part in parts.items():
        share = float(part.trace() / trace.trace())
        assert results["trace_shares"][name] == pytest.approx(share)
    values = es.Spectrum.load(run.results_path("spectrum_full.npz")).values
    np.testing.assert_allclose(values, torch.linalg.eigvalsh(matrix), atol=1e-10)
    assert results["trace"]["target_alignment"] == pytest.approx(
        es.kernel_target_alignment(trace, y)
    )
    condition = es.condition_number(trace).value
    assert results["trace"]["condition_number"] == pytest.approx(condition, rel=1e-6)
    assert results["tangent_conjugate_alignment"] == pytest.approx(
        es.kernel_alignment(trace, features)
    )
    figures = [f"{what}_{kind}.png" for what in ("esd", "kernel") for kind in KINDS]
    for figure in [*figures, "shares.png"]:
        assert run.figures_path(figure).stat().st_size > 10_000
    page = Path("runs/ntk/index.html").read_text()
    assert page.count("data:image/png") == 7
    assert "structured" in str(run.settings["kernel_trace_choices"])
    for text in ("target alignment", "share of the trace", "conjugate"):
        assert text in printed.out


def test_output_layer_and_modules_can_be_chosen(capsys):
    chosen = ["--output", "probabilities", "--layer", "0", "--components", "module"]
    found = as_json(capsys, *OWN, "--kernel", "trace", "conjugate", *chosen)
    run = Run.open(Path(found["run"]))
    net, (x, _) = mine().net(), mine().pairs()
    trace = es.ntk(net, x, output="probabilities", outputs="trace")
    torch.testing.assert_close(stored(run, "kernel_trace"), trace)
    kernel = es.conjugate_kernel(net, x, layer="0")
    torch.testing.assert_close(stored(run, "kernel_conjugate"), kernel)
    assert {"component.0", "component.2"} <= set(run.array_names)
    assert set(found["trace_shares"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_the_conjugate_kernel_alone_needs_no_gradients(capsys):
    found = as_json(capsys, *OWN, "--kernel", "conjugate")
    assert "trace_shares" not in found
    assert found["conjugate"]["dimension"] == 24


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_that_stops_resumes_to_the_same_bits(capsys, monkeypatch, stop):
    monkeypatch.setattr("eigenscope.operators.kernel_tiles._TILE_ROWS", 24)
    words = [*OWN, "--kernel", "trace", "full", "--components", "parameter"]
    whole = as_json(capsys, *words, "--out", "whole")
    counted: list[int] = []
    write = "eigenscope.store.arrays.TiledArray.write"
    original = TiledArray.write

    def stopping(self: Any, *args: Any) -> None:
        counted.append(1)
        if len(counted) == stop:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(write, stopping)
    with pytest.raises(SystemExit) as caught:
        main([*words, "--out", "broken"])
    assert caught.value.code == 130
    assert "eigenscope ntk --resume --out broken" in capsys.readouterr().err
    resumed = as_json(capsys, "ntk", "--resume", "--out", "broken")
    del whole["run"], whole["page"], resumed["run"], resumed["page"]
    assert resumed == whole
    one, other = Run.open(Path("whole")), Run.open(Path("broken"))
    assert one.array_names == other.array_names
    for name in one.array_names:
        for index in set(np.ndindex(*one.open_array(name).grid)) - set(
            one.open_array(name).missing()
        ):
            first, second = (r.open_array(name).read_tile(index) for r in (one, other))
            np.testing.assert_array_equal(first, second)


def test_info_shows_what_a_run_holds(capsys):
    as_json(capsys, *OWN)
    main(["info", "runs/ntk"])
    printed = capsys.readouterr().out
    assert "target alignment" in printed
    assert "kernel_trace" in printed


def test_large_kernels_are_shown_by_some_samples(capsys, monkeypatch):
    monkeypatch.setattr("eigenscope.experiments.kernel_spectra._SHOWN", 9)
    as_json(capsys, *OWN, "--kernel", "full", "trace")
    results = load_kernel_results(Run.open(Path("runs/ntk")))
    full, trace = (results.shown(result) for result in results.kernels)
    assert full[0].shape == (3, 3)
    assert trace[0].shape == (9, 9)
    x = mine().pairs()[0]
    expected = es.ntk(mine().net(), x[[0, 12, 23]], outputs="trace")
    np.testing.assert_allclose(full[0], expected, rtol=1e-5)
    assert results.targets is not None
    np.testing.assert_array_equal(full[1], results.targets[[0, 12, 23]])


@pytest.mark.message
def test_what_is_wrong_is_said_before_a_folder_is_made(capsys):
    error = failed(capsys, *OWN, "--kernel", "full", "--memory", "100")
    assert "must hold what the kernel needs of two samples" in error
    error = failed(capsys, *OWN, "--kernel", "trace", "trace")
    assert "none of them twice; got trace, trace" in error
    error = failed(capsys, *OWN, "--kernel", "trace", "conjugate", "--layer", "nope")
    assert "layer must be the path of a module; 'nope' is none" in error
    assert not Path("runs/ntk").exists()


@pytest.mark.message
def test_wrong_plans_are_refused():
    with pytest.raises(ValueError, match="none of them twice; got trace, trace"):
        KernelPlan(kernels=("trace", "trace"))
    with pytest.raises(ValueError, match="replicas must be at least 0"):
        KernelPlan(num_replicas=-1)


@pytest.mark.message
def test_another_model_does_not_go_on_with_a_run(capsys):
    as_json(capsys, *OWN)
    manifest = Path("runs/ntk/manifest.json")
    text = json.loads(manifest.read_text())
    text["settings"]["fingerprint"]["weights"] = "0" * 32
    manifest.write_text(json.dumps(text))
    error = failed(capsys, "ntk", "--resume")
    assert "the weights of runs/ntk differ now" in error
