import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_cases import ARGUMENTS, files_of, filled, make, take_up

from eigenscope.store import Run, manifest, record, write_atomically


@pytest.mark.message
def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"not an Eigenscope run.*'thesis\.tex'"):
        make(tmp_path)
    with pytest.raises(FileNotFoundError, match="start the run without --resume"):
        take_up(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has none\. Check the path"):
        Run.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.message
def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="is a file; choose another name"):
        make(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="start the run without --resume"):
        take_up(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"has none\. Check the path"):
        Run.open(tmp_path / "file")


@pytest.mark.message
def test_nothing_to_resume_is_said_and_makes_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="start the run without --resume"):
        take_up(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.message
def test_another_run_in_the_folder_is_told_by_its_arguments(tmp_path):
    make(tmp_path / "run", extra=1).close()
    before = files_of(tmp_path)
    message = (
        r'another run.*: extra: 1 → absent; model: "lenet" → "mlp"; '
        r"new: absent → 1; choose another"
    )
    with pytest.raises(FileExistsError, match=message):
        make(tmp_path / "run", model="mlp", new=1)
    with pytest.raises(ValueError, match=r"old → new.*: extra: 1 → absent; repeat the"):
        take_up(tmp_path / "run")
    with pytest.raises(ValueError, match=r"verb: jacobian → ntk; repeat"):
        Run.resume(tmp_path / "run", verb="ntk", arguments={**ARGUMENTS, "extra": 1})
    assert files_of(tmp_path) == before


@pytest.mark.message
def test_the_same_run_again_needs_resume(tmp_path):
    with make(tmp_path / "run") as run:
        with pytest.raises(FileExistsError, match="this very run, running; add --res"):
            make(tmp_path / "run")
        run.complete()
    with pytest.raises(FileExistsError, match="this very run, complete; add --resume"):
        make(tmp_path / "run")


def test_a_folder_may_be_named_by_text(tmp_path):
    name = str(tmp_path / "run")
    Run.create(name, verb="ntk", arguments={}).close()
    Run.resume(name, verb="ntk", arguments={}).close()
    assert Run.open(name).path == tmp_path / "run"


@pytest.mark.message
@pytest.mark.parametrize(
    "content", ["", '{"verb": "jac', "[1]", '{"format_version": 1}']
)
def test_a_damaged_manifest_is_said(tmp_path, content):
    make(tmp_path / "run").close()
    (tmp_path / "run/manifest.json").write_text(content)
    for start in (make, take_up, Run.open):
        with pytest.raises(ValueError, match=r"whole manifest; got \d+ characters"):
            start(tmp_path / "run")


@pytest.mark.message
def test_a_manifest_of_a_newer_version_asks_for_an_upgrade(tmp_path):
    make(tmp_path / "run").close()
    path = tmp_path / "run/manifest.json"
    path.write_text(
        path.read_text().replace('"format_version": 1', '"format_version": 2')
    )
    with pytest.raises(ValueError, match=r"version 1 or older, got 2: a newer"):
        Run.open(tmp_path / "run")


def test_the_manifest_says_how_the_run_was_made(tmp_path):
    make(tmp_path / "run").close()
    content = json.loads((tmp_path / "run/manifest.json").read_text())
    assert content["format_version"] == 1
    assert content["verb"] == "jacobian"
    assert content["arguments"] == {"seed": 7, "model": "lenet", "sizes": [3, 4]}
    assert content["seed"] == 7
    assert content["status"] == "running"
    assert content["created"].endswith("+00:00")
    assert content["versions"]["numpy"] == np.__version__
    assert content["versions"].keys() >= {"eigenscope", "torch", "zarr", "python"}
    assert content["versions"]["platform"]
    assert content["resumes"] == []


def test_the_commit_is_that_of_this_packages_own_checkout(monkeypatch, tmp_path):
    root = Path(manifest.__file__).parents[3]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True, check=True)
        commit = manifest.source_commit()
        assert commit is not None
        assert commit.removesuffix("-dirty") == head.stdout.strip()
    # Installed inside somebody's repository, but not part of it.
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    commit = [*git, "commit", "-q", "--allow-empty", "--no-gpg-sign", "-m", "theirs"]
    subprocess.run(commit, check=True)
    installed = tmp_path / "lib/site-packages/eigenscope/store/manifest.py"
    monkeypatch.setattr(manifest, "__file__", str(installed))
    assert manifest.source_commit() is None


def test_a_resumed_run_keeps_its_settings_results_and_timing(tmp_path):
    with make(tmp_path / "run") as run:
        assert run.settings == {}
        run.record_settings({"engine": "folded", "tile": [2, 3]})
        run.record_result("alpha", 2.5)
        with run.stage("gram"):
            pass
        first = run.manifest.timing["gram"]
    with take_up(tmp_path / "run") as run:
        assert run.settings == {"engine": "folded", "tile": [2, 3]}
        run.record_settings({"engine": "folded", "batch": 16})
        run.record_result("alpha", 2.25)
        with run.stage("gram"):
            pass
        assert run.manifest.timing["gram"] > first > 0
    with take_up(tmp_path / "run"):
        pass
    run = Run.open(tmp_path / "run")
    assert run.settings == {"engine": "folded", "tile": [2, 3], "batch": 16}
    assert run.results == {"alpha": 2.25}
    assert [resume["commit"] for resume in run.manifest.resumes] == [
        manifest.source_commit()
    ] * 2


@pytest.mark.message
def test_a_recorded_setting_never_changes(tmp_path):
    with make(tmp_path / "run") as run:
        run.record_settings({"tile": 2})
        with pytest.raises(ValueError, match=r"tile: 2 → 3; on resume take them"):
            run.record_settings({"tile": 3, "other": 1})
        assert run.settings == {"tile": 2}


@pytest.mark.message
@pytest.mark.parametrize("value", [float("nan"), np.float32(1), {1: {2}}])
def test_a_result_that_is_not_json_is_refused(tmp_path, value):
    with make(tmp_path / "run") as run:
        with pytest.raises(ValueError, match=r"result 'alpha' must be .*infinities to"):
            run.record_result("alpha", value)
        assert run.results == {}


def test_a_long_stage_is_timed_on_disk_while_its_tiles_are_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(record, "_SECONDS_BETWEEN_SAVES", -1.0)
    start = time.perf_counter()
    with make(tmp_path / "run") as run, run.stage("gram"):
        filled(run)
        seconds = Run.open(tmp_path / "run").manifest.timing["gram"]
    assert 0 < seconds < run.manifest.timing["gram"] < time.perf_counter() - start


@pytest.mark.message
def test_a_stage_inside_itself_is_refused(tmp_path):
    with make(tmp_path / "run") as run, run.stage("gram"):
        with pytest.raises(ValueError, match="'gram' is running; give the inner"):
            run.stage("gram").__enter__()
        with run.stage("spectrum"):
            pass
    assert run.manifest.timing.keys() == {"gram", "spectrum"}


def test_leaving_a_run_does_not_complete_it(tmp_path):
    with make(tmp_path / "run"):
        pass
    assert not Run.open(tmp_path / "run").is_complete


def test_a_complete_run_is_resumed_as_it_is(tmp_path):
    with make(tmp_path / "run") as run:
        filled(run)
        run.array("upper", shape=(4, 4), dtype="float32", tile_shape=(2, 2))
        run.complete()
    before = files_of(tmp_path)
    with take_up(tmp_path / "run") as run:
        assert run.is_complete
    assert files_of(tmp_path) == before


@pytest.mark.message
def test_a_run_without_its_lock_cannot_be_written(tmp_path):
    with make(tmp_path / "run") as closed:
        array, _ = filled(closed)
    opened = Run.open(tmp_path / "run")
    before = files_of(tmp_path)
    ones = np.ones((2, 3), "float32")
    layout: dict[str, Any] = {"shape": (4,), "dtype": "float32", "tile_shape": (2,)}
    for write in (
        lambda: array.write((0, 0), ones),
        lambda: opened.open_array("gram").write((0, 0), ones),
        lambda: opened.array("new", **layout),
        lambda: opened.record_result("alpha", 1.0),
        lambda: opened.record_settings({"tile": 1}),
        lambda: opened.stage("gram").__enter__(),
        opened.complete,
    ):
        with pytest.raises(PermissionError, match=r"needs its lock.*use Run\.create"):
            write()
    assert files_of(tmp_path) == before


def test_an_open_run_lists_its_arrays_and_attributes(tmp_path):
    with make(tmp_path / "run") as run:
        for name in ("b", "a.weight"):
            run.array(
                name,
                shape=(4,),
                dtype="float32",
                tile_shape=(9,),
                attributes={"axes": ["sample"]},
            )
    run = Run.open(tmp_path / "run")
    assert run.array_names == ["a.weight", "b"]
    assert run.open_array("b").attributes == {"axes": ["sample"]}
    assert run.open_array("b").tile_shape == (4,)


def test_small_files_go_into_results_and_figures(tmp_path):
    with make(tmp_path / "run") as run:
        write_atomically(run.results_path("alpha.json"), "{}")
        write_atomically(run.figures_path("esd.png"), b"png")
    assert (tmp_path / "run/results/alpha.json").read_text() == "{}"
    assert (tmp_path / "run/figures/esd.png").read_bytes() == b"png"


@pytest.mark.message
@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_result_stays_in_its_folder(tmp_path, name):
    with make(tmp_path / "run") as run:
        for where in (run.results_path, run.figures_path):
            with pytest.raises(ValueError, match="plain file name"):
                where(name)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(_descriptor):
        raise OSError(errno.EIO, "broken disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="broken disk"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_importing_the_store_does_not_import_torch():
    code = "import sys, eigenscope.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
