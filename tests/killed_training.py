"""Train in children that are killed at random moments, then finish the training.

python tests/killed_training.py CONFIG WHOLE KILLED...
"""

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from eigenscope.cli import main

NUM_KILLS = 3


def begin(words: list[str]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with Path(os.devnull).open("w") as sys.stdout:
                main(words)
            code = 0
        finally:
            os._exit(code)
    return child


def finish(words: list[str]) -> float:
    start = time.monotonic()
    _, status = os.waitpid(begin(words), 0)
    assert status == 0
    return time.monotonic() - start


def kill(words: list[str], seconds: float) -> bool:
    """Kill the training after some time; False if it has ended before."""
    child = begin(words)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def work(config: str, whole: Path, killed: list[Path]) -> None:
    importlib.import_module("eigenscope.cli.train")
    train = ["train", config, "--out"]
    seconds = finish([*train, str(whole)])
    chance = random.Random(0)
    for out in killed:
        kills = 0
        while kills < NUM_KILLS:
            again = ["--resume"] if (out / "manifest.json").exists() else []
            share = chance.uniform(0.1, 0.5)
            if not kill([*train, str(out), *again], share * seconds):
                break
            kills += 1
        sys.stdout.write(f"{kills}\n")
        sys.stdout.flush()
        finish([*train, str(out), "--resume"])


if __name__ == "__main__":
    name, first, *others = sys.argv[1:]
    work(name, Path(first), [Path(other) for other in others])
