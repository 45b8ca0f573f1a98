"""Runs under a memory budget: peak resident set, one kill, and a corner to compare.

    python benchmarks/beyond_memory.py FOLDER [--num-samples 20000] [--memory 2GiB]

The input Jacobian's Gram matrix and the trace NTK of a LeNet over real Fashion-MNIST
go to disk under the budget; each run is killed with SIGKILL once, and resumed. The
corner of the first samples must be that of a run of these alone without a budget.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from report import Report

from eigenscope.operators import StoredGram
from eigenscope.spectra import Spectrum
from eigenscope.store import Run

VERBS = {
    "jacobian": ("gram_logits_samples", "spectrum_logits_samples"),
    "ntk": ("kernel_trace", "spectrum_trace"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-samples", type=int, default=20_000)
    parser.add_argument("--corner", type=int, default=2_000)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--kill-after", type=float, default=20.0)
    given = parser.parse_args()
    report = Report()
    report.table(
        "run", "samples", "budget", "peak resident set", "time", "killed after",
        "difference of the corner", "λ_max", "W1 error / mean λ",
    )  # fmt: skip
    for verb, (matrix, spectrum) in VERBS.items():
        whole, corner = given.folder / verb, given.folder / f"{verb}-corner"
        for path in (whole, corner):
            shutil.rmtree(path, ignore_errors=True)
        words = command(verb, whole, given.num_samples, "--memory", given.memory)
        started = time.perf_counter()
        first, was_killed = watched(words, kill_after=given.kill_after)
        second, _ = watched([*words, "--resume"]) if was_killed else (0, False)
        seconds = time.perf_counter() - started
        watched(command(verb, corner, given.corner))
        gap = difference(whole, corner, matrix, given.corner)
        found = Spectrum.load(whole / "results" / f"{spectrum}.npz")
        report.row(
            verb,
            f"{given.num_samples:,}",
            given.memory,
            f"{max(first, second) / 2**30:.2f} GiB",
            f"{seconds:.0f} s",
            f"{given.kill_after:.0f} s" if was_killed else "not",
            f"{gap:.1e}",
            f"{found.values[-1]:.5g}",
            "exact" if found.exact else f"{found.error / found.moment(1):.3f}",
        )


def command(verb: str, out: Path, num_samples: int, *others: str) -> list[str]:
    data = ["--data", "fashion-mnist", "--split", "train", "--model", "lenet"]
    size = ["--num-samples", str(num_samples), "--out", str(out)]
    return [sys.executable, "-m", "eigenscope", verb, *data, *size, *others]


def watched(words: list[str], *, kill_after: float | None = None) -> tuple[int, bool]:
    """Run a command; return its peak resident set, and whether it was killed."""
    out = Path(words[words.index("--out") + 1])
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    seen, peak = psutil.Process(process.pid), 0
    started = None  # once the first tile is on disk
    while process.poll() is None:
        try:
            peak = max(peak, seen.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        if started is None and any((out / "arrays.zarr").glob("*/c/**/*")):
            started = time.perf_counter()
        elapsed = time.perf_counter() - (started or time.perf_counter())
        if kill_after is not None and elapsed > kill_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return peak, True
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return peak, False


def difference(whole: Path, corner: Path, name: str, size: int) -> float:
    """Return max |A - B| / max |B| of the first rows and columns."""
    a, b = (StoredGram(Run.open(path).open_array(name)) for path in (whole, corner))
    part = slice(0, size)
    expected = b.block(part, part)
    return float((a.block(part, part) - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
