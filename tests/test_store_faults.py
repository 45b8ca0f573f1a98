import errno
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from store_cases import files_of, filled, make, take_up

from eigenscope.store import Run, TiledArray, files, places, write_atomically

# What every child process starts with.
CHILD = """
import itertools, os, random, resource, signal, sys, time
from pathlib import Path
import numpy as np
from eigenscope.store import Run

def tile(index, shape):
    return np.random.default_rng(index).standard_normal(shape).astype("float32")

def fill(path, *, resume, begun=lambda: None):
    make = Run.resume if resume else Run.create
    with make(path, verb="fill", arguments={"seed": 7}) as run:
        array = run.array(
            "gram", shape=(1000, 900), dtype="float32", tile_shape=(128, 256)
        )
        with run.stage("fill"):
            for index in array.missing():
                begun()
                shape = [s.stop - s.start for s in array.selection(index)]
                array.write(index, tile(index, shape))
        run.complete()
"""


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    code = CHILD + "\npath = Path(sys.argv[1])\n" + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(script: str, path: Path) -> str:
    with child(script, path) as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


KILLS = """
    # Children are forked from here, so that all kills need one import. Two of
    # three are killed among the tiles, the others at any moment from the start.
    chance = random.Random(0)

    def in_child(work):
        if (process := os.fork()) == 0:
            work()
            os._exit(0)
        return process

    def check(run):
        array = run.open_array("gram")
        there = [found for found in (path / "arrays.zarr/gram/c").rglob("*")
                 if found.is_file() and found.suffix != ".partial"]
        assert all(found.stat().st_size == array.tile_bytes for found in there)
        assert len(there) == array.num_written
        for index in set(np.ndindex(array.grid)) - set(array.missing()):
            values = array.read_tile(index)
            np.testing.assert_array_equal(values, tile(index, values.shape))
        print(len(there), array.num_tiles, flush=True)

    def checked():
        if not (path / "manifest.json").exists():
            print("no run", flush=True)
        elif not (run := Run.open(path)).array_names:
            print("no array", flush=True)
        else:
            check(run)

    for kill in range(24):
        if kill % 3 == 0:
            path = Path(sys.argv[1]) / str(kill)
        resume = (path / "manifest.json").exists()
        reader, writer = os.pipe()
        process = in_child(lambda: fill(
            path, resume=resume, begun=lambda: os.write(writer, b"."),
        ))
        os.close(writer)
        for _ in range(chance.randrange(1, 12) if kill % 3 else 0):
            os.read(reader, 1)  # a tile is begun, or the run has ended
        time.sleep(chance.uniform(0.0, 0.002 if kill % 3 else 0.02))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reader)
        assert os.waitpid(in_child(checked), 0)[1] == 0
    print(path)
"""


def test_a_run_killed_at_any_moment_has_whole_tiles_and_resumes_to_the_same_bytes(
    tmp_path,
):
    *states, last = finished(KILLS, tmp_path / "killed").splitlines()
    assert len(states) == 24
    numbers = [state.split() for state in states if state[0].isdigit()]
    assert sum(0 < int(there) < int(every) for there, every in numbers) >= 1
    finished("fill(path, resume=True)", Path(last))
    finished("fill(path, resume=False)", tmp_path / "whole")
    resumed, whole = (
        files_of(folder / "arrays.zarr") for folder in (Path(last), tmp_path / "whole")
    )
    assert resumed == whole
    assert Run.open(Path(last)).is_complete


def test_leftovers_of_a_killed_writer_are_removed_on_resume(tmp_path):
    with make(tmp_path / "run") as run:
        array, values = filled(run)
    leftovers = [
        Path(array.location((0, 0))).with_name(".0.abc.partial"),
        tmp_path / "run/arrays.zarr/gram/zarr.abc.partial",
        tmp_path / "run/results/.alpha.json.abc.partial",
        tmp_path / "run/.manifest.json.abc.partial",
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    assert array.missing() == []
    with take_up(tmp_path / "run") as run:
        assert not any(path.exists() for path in leftovers)
        np.testing.assert_array_equal(run.open_array("gram")[:], values)


def test_a_folder_whose_run_was_killed_before_it_began_can_be_used(tmp_path):
    for name in (".lock", ".holder.json", ".manifest.json.abc.partial"):
        (tmp_path / name).write_text("")
    (tmp_path / "results").mkdir()
    with make(tmp_path) as run:
        assert not run.is_complete
    assert not list(tmp_path.glob("*.partial"))


HOLD = """
    with Run.create(path, verb="fill", arguments={"seed": 7}) as run:
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.mark.message
def test_a_second_process_is_told_who_writes_the_run_until_that_is_killed(tmp_path):
    path = tmp_path / "run"
    with child(HOLD, path) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            message = rf"only one process.*by process {holder.pid} on .* since 20"
            with pytest.raises(BlockingIOError, match=message):
                Run.resume(path, verb="fill", arguments={"seed": 7})
            (path / ".holder.json").write_text("{")
            with pytest.raises(BlockingIOError, match=r"by another process; wait"):
                Run.resume(path, verb="fill", arguments={"seed": 7})
            assert Run.open(path).manifest.verb == "fill"  # reading needs no lock
        finally:
            holder.send_signal(signal.SIGKILL)
    with Run.resume(path, verb="fill", arguments={"seed": 7}) as run:
        assert len(run.manifest.resumes) == 1


def test_two_writers_in_one_process_exclude_each_other(tmp_path):
    with make(tmp_path / "run"), pytest.raises(BlockingIOError):
        take_up(tmp_path / "run")
    take_up(tmp_path / "run").close()


def test_a_refused_resume_frees_the_lock(tmp_path):
    make(tmp_path / "run").close()
    with pytest.raises(ValueError, match="seed"):
        take_up(tmp_path / "run", seed=8)
    take_up(tmp_path / "run").close()


def two_large_tiles(run: Run) -> TiledArray:
    return run.array("gram", shape=(800_000,), dtype="float32", tile_shape=(400_000,))


FULL = (
    r"tile \(1,\) of array 'gram' \(1 of its 2 tiles are safe\) needs 1\.5 MiB "
    r"\(1600004 bytes\), and .* are free on the disk of .*free space .*--resume"
)


@pytest.mark.message
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_what_is_needed_and_what_is_safe(tmp_path, monkeypatch, code):
    values = np.ones(400_000, "float32")
    with make(tmp_path / "run") as run:
        array = two_large_tiles(run)
        array.write((0,), values)

        def full(_path):
            raise OSError(code, "full")

        with monkeypatch.context() as patch:
            patch.setattr(places, "replacing", full)
            # Nor is there room for the manifest.
            patch.setattr(files, "replacing", full)
            with pytest.raises(OSError, match=FULL) as raised, run.stage("gram"):
                array.write((1,), values)
        assert raised.value.errno == code
        assert array.missing() == [(1,)]
        array.write((1,), values)
        assert array.missing() == []


LIMITED = """
    with Run.create(path, verb="fill", arguments={}) as run:
        array = run.array(
            "gram", shape=(800_000,), dtype="float32", tile_shape=(400_000,)
        )
        values = np.ones(400_000, "float32")
        array.write((0,), values)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        with run.stage("gram"):
            array.write((1,), values)
"""


def test_a_file_size_limit_leaves_no_half_tile(tmp_path):
    limited = child(LIMITED, tmp_path / "run")
    _, errors = limited.communicate(timeout=300)
    assert "OSError: [Errno 27] File too large: writing tile (1,)" in errors
    array = Run.open(tmp_path / "run").open_array("gram")
    assert array.missing() == [(1,)]
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.message
def test_a_disk_that_fills_up_keeps_the_run_resumable(small_disk):
    values = np.ones(400_000, "float32")
    with make(small_disk / "run") as run:
        array = two_large_tiles(run)
        array.write((0,), values)
        with pytest.raises(OSError, match=FULL) as raised, run.stage("gram"):
            array.write((1,), values)
        assert raised.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match=r"No space.*writing .*big\.bin needs 2\.0 M"):
            write_atomically(run.results_path("big.bin"), bytes(2**21))
    with take_up(small_disk / "run") as run:
        array = two_large_tiles(run)
        assert array.missing() == [(1,)]
        np.testing.assert_array_equal(array[:400_000], values)


@pytest.mark.message
def test_too_little_space_is_refused_before_the_work(tmp_path):
    with make(tmp_path / "run") as run:
        run.require_space(1)
        message = r"what is still to be written needs 1024\.0 PiB .* are free on the"
        with pytest.raises(OSError, match=message) as raised:
            run.require_space(2**60)
        assert raised.value.errno == errno.ENOSPC
