"""Run the command line in children that are killed at random moments, then finish it.

    python tests/killed_cli.py WHOLE KILLED...

Children are forked from here, so that all of them need one import.
"""

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from cli_cases import TILED, files_of

from eigenscope.cli import main

NUM_KILLS = 4


def begin(words: list[str]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            main(words)
            code = 0
        finally:
            os._exit(code)
    return child


def finish(words: list[str]) -> None:
    _, status = os.waitpid(begin(words), 0)
    assert status == 0


def kill(words: list[str], out: Path, *, num_files: int, seconds: float) -> None:
    """Kill the verb once so many files are there and some time has passed."""
    child = begin(words)
    while len(files_of(out)) < num_files:
        time.sleep(0.001)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it has ended by itself"
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def work(whole: Path, killed: list[Path]) -> None:
    importlib.import_module("eigenscope.cli.jacobian")
    finish([*TILED, "--out", str(whole)])
    total = len(files_of(whole))
    assert total > 24
    chance = random.Random(0)
    for out in killed:
        words = [*TILED, "--out", str(out)]
        for num_files in sorted(chance.sample(range(total), NUM_KILLS)):
            kill(words, out, num_files=num_files, seconds=0.02 * chance.random())
            if (out / "manifest.json").exists():
                words = ["jacobian", "--resume", "--out", str(out)]
        finish(words)


if __name__ == "__main__":
    first, *others = map(Path, sys.argv[1:])
    work(first, others)
