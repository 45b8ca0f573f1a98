"""Kill a verb of `eigenscope` half-way, resume it, and compare it bit for bit.

    python benchmarks/kill_and_resume.py FOLDER --tiles 5 [--verb jacobian]
        [--keep-whole] -- OPTIONS

runs the verb once without a break into FOLDER/whole and once into FOLDER/killed, where
it is killed with SIGKILL as soon as each of the given numbers of tiles is on disk, and
resumed; then every array and every spectrum of both runs must have the same bytes.
Without tiles only the first run is made, which a later call with --keep-whole takes.
"""

import argparse
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=int, nargs="*", default=[])
    parser.add_argument("--keep-whole", action="store_true")
    parser.add_argument("--verb", default="jacobian", choices=("jacobian", "ntk"))
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:split])
    options = [given.verb, *words[split + 1 :]]
    whole, killed = given.folder / "whole", given.folder / "killed"
    if not given.keep_whole:
        seconds = _run(options, whole)
        print(f"without a break: {seconds:.1f} s", flush=True)
    if given.tiles:
        _interrupt(options, killed, given.tiles)
        _compare(whole, killed)


def _run(options: list[str], out: Path) -> float:
    """Run to the end in a new folder and return the seconds."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(_command(options, out), check=True)
    return time.perf_counter() - start


def _interrupt(options: list[str], out: Path, stops: list[int]) -> None:
    """Run in a new folder, killed with each number of tiles on disk, to the end."""
    shutil.rmtree(out, ignore_errors=True)
    command = _command(options, out)
    for tiles in stops:
        start = time.perf_counter()
        process = subprocess.Popen(command)
        while process.poll() is None and _num_tiles(out) < tiles:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit(f"ended by itself before {tiles} tiles were on disk")
        seconds = time.perf_counter() - start
        found = _num_tiles(out)
        print(f"killed after {seconds:.1f} s, {found} tiles on disk", flush=True)
        command = [*_command(options, out), "--resume"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    print(f"the rest: {time.perf_counter() - start:.1f} s", flush=True)


def _command(options: list[str], out: Path) -> list[str]:
    return [sys.executable, "-m", "eigenscope", *options, "--out", str(out)]


def _num_tiles(run: Path) -> int:
    found = run.glob("arrays.zarr/*/c/**/*")
    return sum(path.name.isdigit() and path.is_file() for path in found)


def _compare(whole: Path, killed: Path) -> None:
    parts = ("arrays.zarr", "results")
    digests = [
        {
            str(file.relative_to(run)): _digest(file)
            for part in parts
            for file in sorted((run / part).rglob("*"))
            if file.is_file()
        }
        for run in (whole, killed)
    ]
    different = {
        name
        for name in digests[0] | digests[1]
        if digests[0].get(name) != digests[1].get(name)
    }
    print(f"{len(digests[0])} files, {len(different)} differ")
    for name in sorted(different):
        print(f"  {name}")
    raise SystemExit(bool(different))


def _digest(file: Path) -> str:
    """Digest a file; of a saved result the numbers, without the seconds it took."""
    if file.suffix != ".npz":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    with np.load(file) as arrays:
        names = [name for name in sorted(arrays.files) if name != "_header"]
        numbers = [arrays[name].tobytes() for name in names]
    return hashlib.sha256(b"".join(numbers)).hexdigest()


if __name__ == "__main__":
    main()
