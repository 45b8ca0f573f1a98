"""Kill a verb of `eigenscope` half-way, resume it, and compare it bit for bit.

    python benchmarks/kill_and_resume.py FOLDER --tiles 5 [--verb jacobian] -- OPTIONS

runs the verb once without a break into FOLDER/whole and once into FOLDER/killed, where
it is killed with SIGKILL as soon as each of the given numbers of tiles is on disk, and
resumed; then every array and every spectrum of both runs must have the same bytes.
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
    parser.add_argument("--tiles", type=int, nargs="+", required=True)
    parser.add_argument("--verb", default="jacobian", choices=("jacobian", "ntk"))
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:split])
    options = [given.verb, *words[split + 1 :]]
    whole, killed = given.folder / "whole", given.folder / "killed"
    for path in (whole, killed):
        shutil.rmtree(path, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(_command(options, whole), check=True)
    print(f"without a break: {time.perf_counter() - start:.1f} s", flush=True)
    resume: list[str] = []
    for tiles in given.tiles:
        process = subprocess.Popen([*_command(options, killed), *resume])
        while process.poll() is None and _num_tiles(killed) < tiles:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed with {_num_tiles(killed)} tiles on disk", flush=True)
        resume = ["--resume"]
    start = time.perf_counter()
    subprocess.run([*_command(options, killed), *resume], check=True)
    print(f"the rest: {time.perf_counter() - start:.1f} s", flush=True)
    _compare(whole, killed)


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
