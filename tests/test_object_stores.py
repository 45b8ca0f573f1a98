"""Runs whose arrays are in an object store: in memory, and behind an S3 server."""

import json
import sys
import uuid
from pathlib import Path
from typing import cast

import fsspec
import numpy as np
import pytest
import torch
import zarr
from cli_cases import OWN, Without, as_json, enter_folder, failed
from store_cases import ARGUMENTS, filled, make, take_up
from torch import nn

import eigenscope as es
from eigenscope.operators import NTK, StoredGram
from eigenscope.store import Run, TiledArray
from eigenscope.store.objects import ObjectStore, place_at

N = 11
S3 = pytest.param("s3", marks=pytest.mark.remote)


@pytest.fixture(scope="module")
def s3():
    """A server that speaks S3, with one bucket; the address of the server."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("spectra")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(request):
    """A URL that nothing is at."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://spectra/{uuid.uuid4().hex}"
    return f"memory://{uuid.uuid4().hex}"


IN_MEMORY = pytest.mark.parametrize("store", ["memory"], indirect=True)
EVERY = pytest.mark.parametrize("store", ["memory", S3], indirect=True)


def begin(path: Path, store: str | None) -> Run:
    return Run.create(path, verb="jacobian", arguments=ARGUMENTS, store=store)


@EVERY
def test_tiles_go_to_the_store_and_come_back(tmp_path, store):
    with begin(tmp_path / "run", store) as run:
        array, values = filled(run)
        assert array.missing() == []
        assert array.location((1, 2)) == f"{store}/gram/c/1/2"
        np.testing.assert_array_equal(array[1:4, 2:], values[1:4, 2:])
        run.require_space(2**60)
        run.complete()
    assert not (tmp_path / "run/arrays.zarr").exists()
    opened = Run.open(tmp_path / "run")
    assert opened.array_names == ["gram"]
    assert opened.is_complete
    assert opened.open_array("gram").num_written == 9
    np.testing.assert_array_equal(opened.open_array("gram")[:], values)
    # What is there is what a local run writes, byte by byte.
    with make(tmp_path / "local") as run:
        filled(run)
    folder = tmp_path / "local/arrays.zarr"
    place = place_at(store, tmp_path)
    for path in folder.rglob("*"):
        if path.is_file():
            key = path.relative_to(folder).as_posix()
            assert place.read(key) == path.read_bytes(), key


@pytest.mark.remote
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_zarr_reads_the_same_store(tmp_path, store):
    with begin(tmp_path / "run", store) as run:
        _, values = filled(run)
    group = zarr.open_group(store, mode="r", zarr_format=3)
    np.testing.assert_array_equal(np.asarray(group["gram"]), values)


def problem() -> es.Problem:
    source = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.randn(param.shape, generator=source))
    return es.Problem(net.eval(), torch.randn(N, 4, generator=source), batch_size=2)


def computed(run: Run) -> dict[str, StoredGram]:
    """Write a Jacobian, its Gram matrix and a tangent kernel, in small tiles."""
    jacobian = es.InputJacobian(problem()).write(run, memory=400)
    found = {"gram": es.gram(jacobian, side="rows", memory=400).write(run)}
    kernel = NTK(problem(), outputs="trace", memory="20kB")
    found["ntk"] = kernel.write(run, name="ntk")
    run.complete()
    return found


@EVERY
def test_an_interrupted_run_goes_on_in_the_store(tmp_path, store, monkeypatch):
    write, count = TiledArray.write, iter(range(19))

    def interrupted(self, index, values):
        if next(count, None) is None:
            raise KeyboardInterrupt
        write(self, index, values)

    with monkeypatch.context() as patch:
        patch.setattr(TiledArray, "write", interrupted)
        with pytest.raises(KeyboardInterrupt), begin(tmp_path / "run", store) as run:
            computed(run)
    there = place_at(store, tmp_path)
    assert len(there.sizes("gram")) > 2  # tiles and the description
    assert "ntk" not in there.names()
    with take_up(tmp_path / "run") as run:
        found = computed(run)
    with make(tmp_path / "local") as run:
        expected = computed(run)
    for name, matrix in expected.items():
        torch.testing.assert_close(
            found[name].dense(), matrix.dense(), rtol=0, atol=0, msg=name
        )
    assert es.spectrum(found["gram"]).values == pytest.approx(
        es.spectrum(expected["gram"]).values
    )


@pytest.mark.message
@EVERY
def test_a_damaged_object_is_named_with_its_cure(tmp_path, store):
    with begin(tmp_path / "run", store) as run:
        array, values = filled(run)
        place = place_at(store, tmp_path)
        content = bytearray(place.read("gram/c/1/2"))
        content[3] ^= 1
        with place.writing("gram/c/1/2", lambda: "a test", len(content)) as file:
            file.write(content)
        message = rf"tile \(1, 2\) of array 'gram'.* Delete {store}/gram/c/1/2 and"
        with pytest.raises(ValueError, match=message):
            array[:]
        place.remove("gram/c/1/2")
        place.remove("gram/c/1/2")
        assert array.missing() == [(1, 2)]
    with take_up(tmp_path / "run") as run:
        array, values = filled(run)
        np.testing.assert_array_equal(array[:], values)


@pytest.mark.message
@IN_MEMORY
def test_a_store_with_something_in_it_is_not_touched(tmp_path, store):
    with begin(tmp_path / "run", store) as run:
        filled(run)
    message = rf"needs a new or empty store; {store}/gram is there. Go on"
    with pytest.raises(FileExistsError, match=message):
        begin(tmp_path / "other", store)
    assert not (tmp_path / "other").exists()


@pytest.mark.message
@IN_MEMORY
def test_a_failed_write_leaves_no_object(tmp_path, store, monkeypatch):
    with begin(tmp_path / "run", store) as run:
        array = run.array("gram", shape=(4,), dtype="float32", tile_shape=(2,))

        def refused(*_, **__):
            raise TimeoutError("the network is gone")

        files = cast("ObjectStore", array._place)._files
        monkeypatch.setattr(files, "pipe_file", refused)
        message = (
            rf"the store {store} must be reachable.*writing tile \(0,\) of array "
            r"'gram' \(0 of its 2 tiles are safe\) failed: TimeoutError: the network "
            r"is gone\. Check the URL"
        )
        with pytest.raises(OSError, match=message):
            array.write((0,), np.ones(2, "float32"))
        assert array.missing() == [(0,), (1,)]


@pytest.mark.message
@pytest.mark.remote
@pytest.mark.usefixtures("s3")
def test_what_cannot_be_reached_is_said_before_there_is_a_run(tmp_path, monkeypatch):
    message = r"the store s3://nowhere/run must be reachable, and be ours to .* failed"
    with pytest.raises(OSError, match=rf"{message}.*bucket does not exist"):
        begin(tmp_path / "run", "s3://nowhere/run")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OSError, match=message):
        begin(tmp_path / "run", "s3://nowhere/run")
    assert not (tmp_path / "run/manifest.json").exists()


@pytest.mark.message
def test_what_is_no_store_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a URL that fsspec knows.*got 'bucket/run'"):
        begin(tmp_path / "run", "bucket/run")
    with pytest.raises(ValueError, match=r"a protocol that fsspec knows.*'tape://x'"):
        begin(tmp_path / "run", "tape://x")
    with pytest.raises(ValueError, match=r"folder must be local.*--store s3://… "):
        begin(Path("s3://bucket/run"), None)
    monkeypatch.delitem(sys.modules, "gcsfs", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Without("gcsfs"), *sys.meta_path])
    with pytest.raises(ImportError, match=r"gs://b/run needs.*eigenscope\[remote\]"):
        begin(tmp_path / "run", "gs://b/run")
    assert not (tmp_path / "run").exists()


def test_a_file_url_is_a_local_folder(tmp_path):
    with begin(tmp_path / "run", (tmp_path / "big").as_uri()) as run:
        array, values = filled(run)
        (tmp_path / "big/gram/c/0/.0.abc.partial").write_bytes(b"half")
    assert array.location((0, 1)) == str(tmp_path / "big/gram/c/0/1")
    with take_up(tmp_path / "run") as run:
        np.testing.assert_array_equal(run.open_array("gram")[:], values)
    assert not list(tmp_path.rglob("*.partial"))


def test_the_command_line_takes_a_store(tmp_path, monkeypatch, capsys):
    enter_folder(tmp_path, monkeypatch)
    store = f"memory://{uuid.uuid4().hex}"
    shown = as_json(capsys, *OWN, "--out", "run", "--store", store)
    local = as_json(capsys, *OWN, "--out", "local")
    assert shown["logits_samples"] == local["logits_samples"]
    assert json.loads(Path("run/manifest.json").read_text())["store"] == store
    assert not Path("run/arrays.zarr").exists()
    again = as_json(capsys, "jacobian", "--out", "run", "--resume")
    assert again["logits_samples"] == shown["logits_samples"]
    assert "needs a new or empty store" in failed(
        capsys, *OWN, "--out", "other", "--store", store
    )
    assert "store: " in failed(
        capsys, *OWN, "--out", "run", "--resume", "--store", "memory://b"
    )
    assert "--store s3" in failed(capsys, *OWN, "--out", "s3://bucket/run")
