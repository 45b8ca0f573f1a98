import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import (
    OWN,
    Without,
    as_json,
    enter_folder,
    factory,
    failed,
    mine,
    numbers_of,
)
from image_files import random_bytes, write_mnist

import eigenscope as es
from eigenscope import zoo
from eigenscope._types import Layout, OutputName
from eigenscope.cli import main
from eigenscope.store import Run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


@pytest.mark.vision
def test_jacobian_writes_all_that_was_asked_for(capsys):
    outputs: tuple[OutputName, ...] = ("logits", "probabilities")
    layouts: tuple[Layout, ...] = ("samples", "outputs")
    chosen = ["--output", *outputs, "--layout", *layouts, "--vectors", "2"]
    chosen += ["--num-samples", "24", "--replicas", "5", "--out", "run"]
    main(["jacobian", *chosen])
    printed = capsys.readouterr()
    run = Run.open(Path("run"))
    assert run.is_complete
    assert printed.err == ""
    data = zoo.load_data("digits", num_samples=24)
    model = zoo.build_model("lenet", sample_shape=(1, 32, 32), num_classes=10).eval()
    for output, layout in product(outputs, layouts):
        problem = es.Problem(model, data.inputs, output=output)
        truth = es.spectrum(es.gram(es.InputJacobian(problem, layout=layout)))
        name = f"{output}_{layout}"
        found = es.Spectrum.load(run.results_path(f"spectrum_{name}.npz"))
        np.testing.assert_allclose(
            found.values, truth.values, atol=10 * truth.noise_floor, rtol=0
        )
        assert f"{found.values[-1]:.4g}" in printed.out
        results = run.results[name]
        assert isinstance(results, dict)
        assert isinstance(results["scan"], dict)
        p_value = results["scan"]["p_value"]
        assert (f"{p_value:.4g}" if p_value else "< 1/5") in printed.out
        assert set(results["scan"]) >= {
            "alpha",
            "p_value",
            "p_value_stderr",
            "num_replicas",
            "against_lognormal",
        }
        pairs = es.Eigenpairs.load(run.results_path(f"eigenpairs_{name}.npz"))
        size = 1024 if layout == "outputs" else found.dimension
        assert pairs.vectors.shape == (size, 2)
        np.testing.assert_allclose(pairs.values, found.values[:-3:-1], rtol=1e-5)
        assert pairs.converged.all()
        assert found.provenance["layout"] == layout
        for figure in (f"esd_{name}.png", f"eigenvectors_{name}.png"):
            assert run.figures_path(figure).stat().st_size > 10_000
    assert run.open_array("targets")[()].tolist() == data.targets.tolist()
    page = Path("run/index.html").read_text()
    assert page.count("data:image/png") == 10
    assert f"{run.results['accuracy']:.2%}" in printed.out


def test_factories_of_the_current_directory_give_model_and_data(capsys):
    found = as_json(capsys, *OWN, "--batch-size", "7", "--dtype", "float64")
    assert (found["num_samples"], found["num_outputs"]) == (24, 3)
    run = Run.open(Path("runs/jacobian"))
    engine = run.settings["jacobian_engine"]
    assert isinstance(engine, dict)
    assert engine["chunk_size"] == 7
    assert run.open_array("jacobian").dtype == np.float64
    truth = es.input_jacobian(mine().net().double(), mine().pairs()[0].double())
    torch.testing.assert_close(
        torch.from_numpy(run.open_array("jacobian")[()]), truth.flatten(2)
    )


@pytest.mark.parametrize(
    ("model", "data", "classes"),
    [
        ("net", "dataset", ["red", "green", "blue"]),
        ("Scaled", "mappings", None),
        ("net", "inputs", None),
    ],
)
def test_own_data_may_be_of_any_kind(capsys, model, data, classes):
    words = ["--model", factory(model), "--data", factory(data)]
    found = as_json(capsys, "jacobian", *words)
    assert found["num_samples"] == 24
    assert found["class_names"] == classes
    assert ("accuracy" in found) == (data != "inputs")


@pytest.mark.parametrize("data", ["pairs", "dataset"])
def test_models_by_name_take_own_data(capsys, data):
    found = as_json(capsys, "jacobian", "--model", "mlp-512", "--data", factory(data))
    assert found["num_outputs"] == 3


def test_named_data_is_read_from_its_folder(here, capsys):
    write_mnist(here / "files", random_bytes(6, 28, 28), torch.arange(6).byte() % 3)
    words = ["--data", "mnist", "--data-root", "files", "--per-class", "2"]
    assert "smallest class" in failed(capsys, "jacobian", *words)
    words = ["--data", "mnist", "--data-root", "files", "--num-samples", "5"]
    found = as_json(capsys, "jacobian", *words, "--out", "run")
    assert found["sample_shape"] == [1, 32, 32]
    assert found["num_samples"] == 5


@pytest.mark.vision
def test_per_class_takes_the_first_of_each_class(capsys):
    as_json(capsys, "jacobian", "--per-class", "2", "--model", "mlp-512")
    targets = Run.open(Path("runs/jacobian")).open_array("targets")[()]
    assert targets.tolist() == [label for label in range(10) for _ in range(2)]


def test_weights_are_those_of_the_file(here, capsys):
    model = mine().net()
    with torch.no_grad():
        model[0].weight.mul_(2)
    zoo.save_weights(model, here / "double.safetensors")
    as_json(capsys, *OWN, "--weights", "double.safetensors")
    found = Run.open(Path("runs/jacobian")).open_array("jacobian")[()]
    truth = es.input_jacobian(model, mine().pairs()[0]).flatten(2)
    torch.testing.assert_close(torch.from_numpy(found), truth)


def test_one_json_document_is_all_of_the_output(capsys):
    as_json(capsys, *OWN)
    assert capsys.readouterr().err == ""


@pytest.mark.message
@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["--model", "lenett"], r"model must be .* one of lenet, .*; got 'lenett'"),
        (["--data", "digit"], r"data must be .* one of digits, .*; got 'digit'"),
        (["--model", "nets_of_mine:nett"], r"no nett; it has net,"),
        (["--model", "absent:net"], r"there is no module 'absent'"),
        (["--weights", "absent.pt"], r"there is no weight file absent\.pt"),
        (["--data", "nets_of_mine:mappings"], r"mappings.* no parameter num_samples"),
        (["--device", "abacus"], r"--device must be one .* here.*; got 'abacus'"),
        (["--batch-size", "0"], r"batch_size must be at least 1; got 0"),
        (["--vectors", "-1"], r"vectors must be at least 0; got -1"),
        (["--replicas", "-1"], r"replicas must be at least 0; got -1"),
        (["--memory", "plenty"], r"a memory size must be .*; got 'plenty'"),
        (["--memory", "100"], r"memory budget must hold .*--memory"),
        (["--output", "logits", "logits"], r"output must .* twice; got logits, logits"),
        (["--layout"], r"layout must name at least one.*; got none"),
    ],
)
def test_wrong_options_are_explained_and_leave_no_run(capsys, words, pattern):
    message = failed(capsys, *OWN, "--num-samples", "24", *words)
    assert re.search(pattern, message)
    assert not Path("runs").exists()


@pytest.mark.message
@pytest.mark.parametrize(
    ("model", "data", "pattern"),
    [
        ("mlp-512", "mappings", r"takes batches of tensors, .*first .* is a dict"),
        ("mlp-512", "inputs", r"mlp-512 requires num_classes"),
        ("lenet", "pairs", r"lenet requires samples of shape .*, got \(6,\)"),
    ],
)
def test_named_models_say_what_own_data_lacks(capsys, model, data, pattern):
    message = failed(capsys, "jacobian", "--model", model, "--data", factory(data))
    assert re.search(pattern, message)


@pytest.mark.message
@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        ([], "sklearn", "digits"),
        (["--data", "svhn", "--data-root", "."], "torchvision", "vision"),
        (
            ["--data", factory("images"), "--model", "resnet20_cifar10"],
            "pytorchcv",
            "vision",
        ),
    ],
)
def test_a_missing_extra_says_what_installs_it(
    capsys, monkeypatch, words, module, extra
):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(module), *sys.meta_path])
    message = failed(capsys, "jacobian", *words)
    assert f"{module} is needed here and is not installed" in message
    assert f"pip install 'eigenscope[{extra}]'" in message
    assert not Path("runs").exists()


@pytest.mark.message
def test_a_folder_with_something_in_it_is_refused(capsys):
    as_json(capsys, *OWN, "--out", "run")
    before = numbers_of(Path("run"))
    message = failed(capsys, *OWN, "--out", "run")
    assert "holds this very run, complete; add --resume" in message
    message = failed(capsys, *OWN, "--seed", "1", "--out", "run")
    assert "holds another run" in message
    assert "seed: 0 → 1" in message
    assert numbers_of(Path("run")) == before
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    assert "holds 'thesis.tex'" in failed(capsys, *OWN, "--out", "full")


def test_a_failed_start_leaves_the_folder_to_a_corrected_command(capsys):
    failed(capsys, *OWN, "--weights", "absent.pt", "--out", "run")
    assert as_json(capsys, *OWN, "--out", "run")["num_samples"] == 24


def test_the_side_of_gram_matrices_can_be_chosen(capsys):
    found = {}
    for side in ("auto", "rows"):
        as_json(capsys, *OWN, "--side", side, "--out", side)
        found[side] = es.Spectrum.load(
            Path(side) / "results" / "spectrum_logits_samples.npz"
        )
    array = Run.open(Path("rows")).open_array("gram_logits_samples")
    assert array.shape == (24, 24)  # 24 samples, 3 · 6 entries each
    smaller, larger = found["auto"], found["rows"]
    assert (smaller.dimension, larger.dimension) == (18, 24)
    # Six eigenvalues are zero to the rounding of float32.
    np.testing.assert_allclose(
        larger.values[6:], smaller.values, atol=10 * larger.noise_floor, rtol=0
    )
    np.testing.assert_allclose(larger.values[:6], 0, atol=10 * larger.noise_floor)
