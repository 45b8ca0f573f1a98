"""What the interactive report holds, before any browser."""

import base64
import hashlib
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_cases import Without, as_json, enter_folder, failed
from report_cases import BOLD, EVIL, NUMBERS, exact, positive, train_run, verb_runs

import eigenscope as es
from eigenscope.cli import main
from eigenscope.report import contents, write_report
from eigenscope.report.curves import encoded, frames_of, thinned

needs_plotly = pytest.mark.plotly


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="report-data">(.*?)</script>',
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert found is not None
    return json.loads(found[1], parse_constant=pytest.fail)


def decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float)


def panel(page: Path, title: str) -> dict[str, Any]:
    [found] = [p for p in data_of(page)["panels"] if p["title"] == title]
    return found


# --- numbers of a page ---------------------------------------------------------


def test_a_density_on_the_page_is_that_of_the_spectrum():
    for found in (exact(3), positive(2)):
        curve = contents.Curve(run="r", name="s", spectra={None: found})
        [[frame]] = frames_of([curve], 1000)
        width = (found.values[-1] - found.values[0]) / 200
        grid = frame["linear"]
        heights = decoded(grid["heights"])
        assert grid["width"] == pytest.approx(width)
        assert heights.sum() * grid["step"] == pytest.approx(1.0, abs=1e-3)
        places = grid["start"] + grid["step"] * np.arange(len(heights))
        distance = places[:, None] - found.values
        kernel = np.exp(-(distance**2) / (2 * width**2)) / (width * (2 * np.pi) ** 0.5)
        expected = kernel @ found.weights
        # cells are half a kernel wide, their averages differ from values in between
        assert np.abs(heights - expected).max() < 0.03 * expected.max()


def test_the_two_signs_on_a_log_axis_have_their_shares_of_the_weight():
    [[frame]] = frames_of(
        [contents.Curve(run="r", name="s", spectra={None: exact(0)})], 1000
    )
    for sign, share in (("log", 0.3), ("negative", 0.1)):
        grid = frame[sign]
        mass = decoded(grid["heights"]).sum() * grid["step"]
        assert mass == pytest.approx(share, abs=1e-3)
        assert grid["omitted"] == pytest.approx(1 - share)


def test_curves_of_one_recording_share_their_smoothing():
    curves = [
        contents.Curve(run="r", name="wide", spectra={0: exact(9), 1: exact(0)}),
        contents.Curve(run="r", name="narrow", spectra={0: positive(0)}),
    ]
    [[first, second], [narrow]] = frames_of(curves, 1000)
    assert first["linear"]["width"] == narrow["linear"]["width"] == 10.5 / 200
    assert second["linear"]["width"] == pytest.approx(1.5 / 200)


def test_a_spectrum_of_one_value_and_one_of_zeros_are_shown():
    for values in ([0.0, 0.0], [2.0], [1e-300, 1e-300], [-1.0]):
        found = es.Spectrum.from_eigenvalues(values, noise_floor=1e-12)
        curve = contents.Curve(run="r", name="s", spectra={None: found})
        [[frame]] = frames_of([curve], 100)
        heights = decoded(frame["linear"]["heights"])
        assert np.isfinite(heights).all()
        assert heights.sum() * frame["linear"]["step"] == pytest.approx(1, abs=1e-3)
        assert (frame["log"] is None) == (values[0] <= 1e-12)


def test_thinned_values_keep_their_number_their_sum_and_their_ends():
    values = np.sort(np.random.default_rng(0).standard_cauchy(5000))
    found = es.Spectrum.from_eigenvalues(values, dimension=6000)
    kept, counts = thinned(found, 257)
    assert len(kept) == len(counts) == 257
    assert counts.sum() == pytest.approx(6000)
    assert kept @ counts == pytest.approx(found.trace())
    assert bool(np.all(np.diff(kept) >= 0))
    assert kept[[0, 63, -64, -1]].tolist() == values[[0, 63, -64, -1]].tolist()
    same, ones = thinned(found, len(found.values))
    assert same.tolist() == found.values.tolist()
    assert ones.sum() == pytest.approx(6000)


def test_numbers_are_little_endian_singles():
    assert decoded(encoded(np.array([1.5, -2.0]))).tolist() == [1.5, -2.0]


# --- runs of every kind --------------------------------------------------------


@needs_plotly
def test_a_training_has_spectra_by_recording_and_lines(tmp_path):
    found = write_report([train_run(tmp_path / "run")], tmp_path / "r.html")
    assert found.notes == []
    hessian = panel(tmp_path / "r.html", "Hessian")
    assert [curve["label"] for curve in hessian["curves"]] == ["full", "fc.weight"]
    assert hessian["is_signed"]
    for curve, made in zip(hessian["curves"], (exact, positive), strict=True):
        assert [frame["number"] for frame in curve["frames"]] == list(NUMBERS)
        for frame in curve["frames"]:
            spectrum = made(frame["number"])
            assert decoded(frame["values"]) == pytest.approx(spectrum.values, rel=1e-6)
    [full, weight] = [curve["frames"][0] for curve in hessian["curves"]]
    assert decoded(full["counts"]).sum() == 100
    assert weight["counts"] is None
    top = panel(tmp_path / "r.html", "hessian top")["lines"][0]
    assert top["values"] == [1.0 + number for number in NUMBERS]
    assert top["stderrs"] == [0.25] * len(NUMBERS)
    [train, test] = panel(tmp_path / "r.html", "loss")["lines"]
    assert train["values"][-1] == pytest.approx(2 / 9)
    assert test["values"] == [None] * len(NUMBERS)


@needs_plotly
def test_runs_of_all_verbs_stand_side_by_side(tmp_path):
    runs = [*verb_runs(tmp_path), train_run(tmp_path / "run")]
    out = tmp_path / "deep/report.html"
    write_report(runs, out, title="All of them")
    titles = [found["title"] for found in data_of(out)["panels"]]
    assert titles == [
        *("Input-output Jacobian", "Tangent kernel", "Conjugate kernel", "Hessian"),
        *("Gauss-Newton matrix", "Weights", "loss", "hessian top"),
    ]
    labels = [curve["label"] for curve in panel(out, "Hessian")["curves"]]
    assert labels[0] == "curv › whole"
    assert "curv › 0.weight" in labels
    assert "run › full" in labels
    text = out.read_text(encoding="utf-8")
    for said in ("All of them", "Jacobian spectra and tails", "Kernels", "Curvature"):
        assert said in text
    for name in ("jac", "ntk", "curv", "run"):
        assert f"How {name} was made" in text
        run = es.Run.open(tmp_path / name)
        assert str(run.manifest.versions["torch"]) in text


@needs_plotly
def test_a_run_that_is_not_complete_is_shown_and_said_to_be_so(tmp_path, capsys):
    path = train_run(tmp_path / "run", last=2)
    main(["report", str(path)])
    printed = capsys.readouterr().out
    assert re.search(r"note: +run is not complete \(begun .*what is there", printed)
    assert re.search(r"report: report.html \(\d\.\d MB, opens without", printed)
    numbers = panel(tmp_path / "report.html", "Weights")["curves"][0]["frames"]
    assert [frame["number"] for frame in numbers] == [0, 1, 2]
    assert "run is not complete" in (tmp_path / "report.html").read_text("utf-8")


@needs_plotly
def test_a_run_that_holds_nothing_yet_is_said_to(tmp_path, capsys):
    es.Run.create(tmp_path / "empty", verb="train", arguments={}).close()
    said = as_json(capsys, "report", "empty", "--out", "e.htm", "--title", "Nothing")
    assert said["runs"] == {"empty": "empty"}
    assert said["bytes"] == (tmp_path / "e.htm").stat().st_size
    assert said["notes"][1] == "empty holds no spectrum and no number yet."
    assert "<h1>Nothing</h1>" in (tmp_path / "e.htm").read_text("utf-8")


@needs_plotly
def test_spectra_of_a_verb_of_ones_own_are_shown_by_their_files(tmp_path):
    with es.Run.create(tmp_path / "own", verb="cosmos", arguments={}) as run:
        positive(1).save(run.results_path("spectrum_dark_matter.npz"))
        run.complete()
    write_report([str(tmp_path / "own")], str(tmp_path / "r.html"))
    [curve] = panel(tmp_path / "r.html", "Cosmos")["curves"]
    assert curve["label"] == "dark_matter"


@needs_plotly
def test_many_recordings_are_thinned_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "MOST_SPECTRA", 9)  # of 3 spectra at 5 recordings
    found = write_report([train_run(tmp_path / "run")], tmp_path / "r.html")
    assert "Spectra are shown of 3 of 5 recordings" in found.notes[0]
    frames = panel(tmp_path / "r.html", "Weights")["curves"][0]["frames"]
    assert [frame["number"] for frame in frames] == [0, 2, 8]
    assert len(panel(tmp_path / "r.html", "loss")["lines"][0]["numbers"]) == 5


@needs_plotly
def test_many_eigenvalues_are_thinned_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("eigenscope.report.curves.MOST_VALUES", 1)
    monkeypatch.setattr("eigenscope.report.curves.FEWEST_VALUES", 30)
    write_report([train_run(tmp_path / "run")], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "Of 5 of 15 spectra this file holds 30 eigenvalues each" in text


# --- the file ------------------------------------------------------------------


@needs_plotly
def test_names_are_escaped_and_only_our_scripts_may_run(tmp_path):
    path = train_run(tmp_path / "run", names=(EVIL, BOLD))
    write_report([path], tmp_path / "r.html", title=EVIL)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 5
    assert EVIL not in text
    assert BOLD not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    allowed = html.unescape(policy[1])
    assert "default-src 'none'" in allowed
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in allowed
    assert allowed.count("sha256-") == 5
    assert "script-src 'sha256-" in allowed
    assert "connect-src" not in allowed  # so that it is the default, none


@needs_plotly
def test_without_scripts_there_is_an_image_of_every_figure(tmp_path):
    write_report([train_run(tmp_path / "run")], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', body)
    assert len(images) == len(data_of(tmp_path / "r.html")["panels"]) == 4
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    assert not re.search(r"https?:|url\(|@import|<link|javascript:", body)


@needs_plotly
def test_the_same_runs_give_the_same_page(tmp_path):
    path = train_run(tmp_path / "run")
    for name in ("a.html", "b.html"):
        write_report([path], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


# --- what can be wrong ---------------------------------------------------------


@pytest.mark.message
@pytest.mark.plotly
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "run is a folder with a manifest.json; nowhere has none"),
        (["run", "run"], "at least one run, and none of them twice; got run, run"),
        (["."], r"needs folders of runs; \. is none but holds some. Give these: run"),
        (["run", "--out", "r.txt"], r"a report must end in \.html; got r\.txt"),
        (["run", "--out", "run"], r"run is a folder; give --out run/report\.html"),
    ],
)
def test_what_is_no_run_or_no_page_is_refused(tmp_path, capsys, words, message):
    train_run(tmp_path / "run", last=0)
    assert re.search(message, failed(capsys, "report", *words))


@pytest.mark.message
@pytest.mark.plotly
def test_a_damaged_spectrum_is_named(tmp_path, capsys):
    path = train_run(tmp_path / "run", last=0)
    next(path.glob("results/*.npz")).write_bytes(b"PK")
    message = failed(capsys, "report", "run")
    assert re.search(r"record_\d+_\d+\.npz' is not a saved spectrum, or", message)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.message
def test_without_plotly_the_extra_is_named(tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without("plotly"), *sys.meta_path])
    train_run(tmp_path / "run", last=0)
    message = failed(capsys, "report", "run")
    assert "pip install 'eigenscope[report]'" in message
    assert not (tmp_path / "report.html").exists()
