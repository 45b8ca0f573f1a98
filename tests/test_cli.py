import csv
import errno
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import OWN, as_json, called, enter_folder, factory, failed

import eigenscope as es
from eigenscope.cli import jacobian, main
from eigenscope.cli.errors import explanation
from eigenscope.cli.tables import table, terminal_table
from eigenscope.store import Run
from eigenscope.zoo import data_names, model_names

TAIL = 2.0 * np.random.default_rng(0).pareto(1.5, 300) + 2.0


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def ended(*words: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return caught.value.code


def test_without_a_verb_the_help_is_shown(capsys):
    assert ended() == 2
    shown = capsys.readouterr().out
    assert ended("--help") == 0
    assert capsys.readouterr().out == shown
    assert re.findall(r"• (\w+)", shown) == [
        *("demo", "jacobian", "ntk", "hessian", "train", "series", "fit"),
        *("compare", "report", "plan", "match", "weights", "info"),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["jacobiann"],
        ["jacobian", "--bogus"],
        ["jacobian", "--vectors", "many"],
        ["jacobian", "--output", "softmax"],
        ["jacobian", "--dtype", "float16"],
        ["fit"],
    ],
)
def test_wrong_options_end_with_code_2(capsys, words):
    assert ended(*words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "eigenscope" in printed.err


def test_the_command_line_is_parsed_without_torch():
    code = "import sys, eigenscope.cli; print({'torch', 'numpy'} & set(sys.modules))"
    assert called("--help").returncode == 0
    found = called(program=["-c", code])
    assert (found.stdout, found.stderr) == ("set()\n", "")


def test_an_error_of_our_own_making_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(jacobian, "write_jacobian_page", lambda: None)
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        main(OWN)


def test_an_error_in_an_own_factory_keeps_its_traceback():
    found = called("jacobian", "--model", factory("broken"), *OWN[3:])
    assert found.returncode == 1
    assert found.stdout == ""
    assert "return 1 / 0" in found.stderr
    assert found.stderr.endswith("ZeroDivisionError: division by zero\n")


def explained(attempt) -> str | None:
    try:
        attempt()
    except Exception as error:
        return explanation(error)
    raise AssertionError("nothing was raised")


def raised(error: Exception):
    def attempt() -> None:
        raise error

    return attempt


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Path("absent").read_text(), "No such file or directory: absent"),
        (raised(OSError(errno.ENOSPC, "disk full")), "disk full"),
        (raised(OSError("the disk is gone")), "the disk is gone"),
        (raised(MemoryError("8 EiB")), "memory ran out (8 EiB); try --batch-size"),
        (raised(torch.OutOfMemoryError("8 EiB")), "memory ran out (8 EiB); try"),
        (lambda: Run.create(Path("a"), verb="x", arguments={}).open_array("b"), "an "),
        (lambda: es.fit_power_law(TAIL[:2]), "values must hold at least 3"),
        (lambda: {}["absent"], None),
        (lambda: es.fit_power_law(TAIL, xmim=1.0), None),  # pyright: ignore[reportCallIssue]
        (lambda: np.zeros(2) @ np.zeros(3), None),
        (raised(ValueError("raised, but not by the package")), None),
    ],
)
def test_what_is_raised_on_purpose_is_explained_and_bugs_are_not(attempt, message):
    found = explained(attempt)
    assert (found is None) == (message is None)
    assert message is None or (found is not None and found.startswith(message))


@pytest.mark.message
@pytest.mark.parametrize(
    ("words", "verb", "advice"),
    [
        ([*OWN, "--out", "run"], "jacobian", "jacobian --resume --out run"),
        (["demo"], "demo", "the same command goes on with it"),
        (["info"], "info", ""),
    ],
)
def test_an_interruption_says_how_to_go_on(capsys, monkeypatch, words, verb, advice):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    module = importlib.import_module(f"eigenscope.cli.{verb}")
    monkeypatch.setattr(module, f"run_{verb}", interrupted)
    assert ended(*words) == 130
    message = capsys.readouterr().err
    assert message.startswith("\ninterrupted")
    assert message.endswith(f"{advice}\n")


def write_tail(name: str) -> None:
    lines = "\n".join(str(value) for value in TAIL)
    if name.endswith(".npz"):
        es.Spectrum.from_eigenvalues(np.sort(TAIL)).save(name)
    elif name.endswith(".npy"):
        np.save(name, TAIL.reshape(30, 10))
    elif name.endswith(".csv"):
        Path(name).write_text(lines.replace("\n", ",", 200))
    else:
        Path(name).write_text(f"# eigenvalues\n{lines}\n")


@pytest.mark.parametrize("name", ["tail.npz", "tail.npy", "tail.txt", "tail.csv"])
def test_fit_reads_spectra_arrays_and_text(capsys, name):
    write_tail(name)
    truth = es.fit_power_law(TAIL)
    found = as_json(capsys, "fit", name)
    for name in ("alpha", "xmin", "num_tail", "ks_distance"):
        assert found[name] == getattr(truth, name)
    ratio = truth.likelihood_ratio("power_law", "exponential")
    assert found["against_exponential"]["p_value"] == ratio.p_value


def test_fit_takes_its_options(capsys):
    write_tail("tail.npy")
    truth = es.fit_power_law(TAIL, xmin=3.0, xmax=50.0)
    words = ["--xmin", "3", "--xmax", "50", "--replicas", "20", "--figure", "f.pdf"]
    found = as_json(capsys, "fit", "tail.npy", *words, "--seed", "1")
    assert (found["alpha"], found["rule"]) == (truth.alpha, "given")
    source = torch.Generator().manual_seed(1)
    goodness = truth.goodness_of_fit(num_replicas=20, generator=source)
    assert found["p_value"] == goodness.p_value
    assert Path("f.pdf").read_bytes().startswith(b"%PDF")
    main(["fit", "tail.npy", *words, "--seed", "1"])
    printed = capsys.readouterr().out
    assert re.search(rf"α +{truth.alpha:.4g} ± {truth.alpha_stderr:.4g}\n", printed)
    assert re.search(r"xmin +3 to 50 \(given\)\n", printed)
    assert re.search(r"exponential +R = .*: prefers the power law\n", printed)
    assert re.search(r"figure +f\.pdf\n", printed)
    assert re.search(rf"p-value +{goodness.p_value:.4g} ± .*, from 20 repl", printed)
    assert as_json(capsys, "fit", "tail.npy", "--xmin", "peak")["rule"] == "peak"


def test_a_p_value_of_zero_is_a_bound(capsys):
    np.save("uniform.npy", 1 + np.arange(2000) / 2000)
    main(["fit", "uniform.npy", "--xmin", "1", "--replicas", "25"])
    assert re.search(r"p-value +< 1/25, from 25 replicas\n", capsys.readouterr().out)


@pytest.mark.message
@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("absent.npy", None, r"there is no file absent\.npy"),
        (".", None, r"there is no file \."),
        ("a.npz", b"PK\x03\x04", r"not a saved spectrum, or it is damaged"),
        ("a.npy", b"\x93NUMPY", r"a\.npy must hold real numbers: .*; got "),
        ("a.txt", b"", r"a\.txt must hold real numbers: .*; got 0 values"),
        ("a.txt", b"1 two 3", r"a\.txt must hold real numbers: .*'two'"),
        ("a.txt", b"\xff\xfe", r"a\.txt must hold real numbers: .*decode"),
        ("a.txt", b"1 2 2", r"values must hold at least 3 distinct"),
        ("a.txt", b"-1 2 3", r"negative"),
    ],
)
def test_fit_explains_wrong_files(capsys, name, content, pattern):
    if content is not None:
        Path(name).write_bytes(content)
    assert re.search(pattern, failed(capsys, "fit", name))


@pytest.mark.message
@pytest.mark.parametrize("values", [np.array(["a"]), np.ones(3) * 1j, np.zeros(0)])
def test_fit_explains_arrays_that_are_not_numbers(capsys, values):
    np.save("a.npy", values)
    message = failed(capsys, "fit", "a.npy")
    assert f"got {values.size} values of type {values.dtype}" in message


@pytest.mark.message
def test_fit_executes_nothing_from_a_file(capsys):
    np.save("a.npy", np.array([{"a": 1}]), allow_pickle=True)
    assert "a.npy must hold real numbers" in failed(capsys, "fit", "a.npy")


@pytest.mark.message
def test_fit_explains_a_wrong_start(capsys):
    write_tail("a.txt")
    message = failed(capsys, "fit", "a.txt", "--xmin", "best")
    assert "--xmin must be scan, peak or a number; got 'best'" in message


def test_compare_puts_runs_side_by_side(capsys):
    seen = {}
    for name, seed in (("one", "0"), ("two", "1")):
        model = ["--model", "mlp-512", "--data", factory("wide_pairs")]
        words = [*model, "--seed", seed, "--out", name]
        seen[name] = as_json(capsys, "jacobian", *words)["logits_samples"]
    found = as_json(capsys, "compare", "one", "two", "--out", "both")
    main(["compare", "one", "two", "--out", "both"])
    printed = capsys.readouterr().out
    with Path("both/comparison.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    for entry in found["runs"]:
        truth = seen[entry["run"]]
        assert entry["model"] == "mlp-512"
        assert (entry["num_samples"], entry["dimension"]) == (48, 48)
        assert entry["alpha"] == truth["scan"]["alpha"]
        assert entry["trace"] == truth["trace"]
        assert float(rows[entry["run"]]["lambda_max"]) == truth["lambda_max"]
        assert re.search(rf"{entry['run']} .* {truth['lambda_max']:.4g} ", printed)
    assert Path("both/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert Path("both/index.html").read_text().count("data:image/png") == 1
    assert "both/index.html" in printed


@pytest.mark.message
def test_compare_says_which_runs_it_takes(capsys):
    with Run.create(Path("kernels"), verb="ntk", arguments={}):
        pass
    message = failed(capsys, "compare", "kernels")
    assert "kernels is one of `eigenscope ntk`" in message
    assert "eigenscope report RUN" in message


@pytest.mark.message
def test_compare_explains_what_cannot_be_compared(capsys):
    as_json(capsys, *OWN, "--out", "one")
    as_json(capsys, *OWN, "--layout", "outputs", "--out", "two")
    page = Path("one/index.html").read_bytes()
    message = failed(capsys, "compare", "one", "two")
    assert "two must hold the spectrum logits_samples to be compared" in message
    assert "it holds logits_outputs" in message
    assert "at least one run" in failed(capsys, "compare")
    assert "none of them twice" in failed(capsys, "compare", "one", "./one")
    assert "has none. Check the path" in failed(capsys, "compare", "one", "two/results")
    assert "holds some. Give these: one two" in failed(capsys, "compare", "one", ".")
    message = failed(capsys, "compare", "one", "--out", "one")
    assert "must not go into the folder of a run; one is one" in message
    assert Path("one/index.html").read_bytes() == page


def test_info_tells_what_is_here(capsys):
    facts = as_json(capsys, "info")
    assert facts["eigenscope"] == es.__version__
    assert facts["packages"]["torch"].startswith("2.")
    assert facts["models"] == list(model_names())
    assert facts["data sets"] == list(data_names())
    main(["info"])
    assert f"eigenscope: {es.__version__}\n" in capsys.readouterr().out


def test_info_tells_what_a_run_holds(capsys):
    made = as_json(capsys, *OWN, "--seed", "5", "--out", "run")
    facts = as_json(capsys, "info", "run")
    assert facts["status"] == "complete"
    assert facts["arguments"]["seed"] == 5
    assert facts["results"]["logits_samples"] == made["logits_samples"]
    assert facts["arrays"]["jacobian"] == "(24, 3, 6) float32, 1 of 1 tiles"
    main(["info", "run"])
    printed = capsys.readouterr().out
    assert "  seed: 5\n" in printed
    assert f"{made['logits_samples']['lambda_max']:.4g}" in printed


@pytest.mark.message
def test_info_explains_a_folder_that_is_no_run(capsys):
    assert "has none. Check the path" in failed(capsys, "info", ".")


def test_a_table_that_is_too_wide_for_the_terminal_stands_upright(monkeypatch):
    header, rows = ("run", "D", "α"), [("a", 10, 2.34567), ("bb", 1000, None)]
    upright = "run     D      α\n────────────────\na      10  2.346\nbb   1000      –"
    assert table(header, rows) == upright
    assert terminal_table(header, rows) == upright
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "16")
    assert terminal_table(header, rows) == upright
    monkeypatch.setenv("COLUMNS", "15")
    assert terminal_table(header, rows).splitlines() == [
        *(
            "run      a    bb",
            "────────────────",
            "D       10  1000",
            "α    2.346     –",
        )
    ]
