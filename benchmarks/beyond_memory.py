"""Runs under a memory budget: peak resident set, one kill, and a corner to compare.

    python benchmarks/beyond_memory.py FOLDER [--num-samples 20000] [--memory 2GiB]
        [--weights lenet.safetensors] [--verb jacobian]

The input Jacobian's Gram matrix and the trace NTK of a LeNet over real Fashion-MNIST
go to disk under the budget; each run is killed with SIGKILL once, and resumed. The
corner of the first samples must be that of a run of these alone without a budget.
The peak is the kernel's own high-water mark (VmHWM): Python, torch and file pages too.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

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
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--verb", choices=[*VERBS], nargs="+", default=[*VERBS])
    given = parser.parse_args()
    report = Report()
    report.table(
        "run", "samples", "budget", "peak resident set", "time", "killed after",
        "difference of the corner", "λ_max", "W1 error / mean λ",
    )  # fmt: skip
    network = ["--weights", str(given.weights)] if given.weights else []
    for verb in given.verb:
        matrix, spectrum = VERBS[verb]
        whole, corner = given.folder / verb, given.folder / f"{verb}-corner"
        for path in (whole, corner):
            shutil.rmtree(path, ignore_errors=True)
        budget = ["--memory", given.memory]
        words = command(verb, whole, given.num_samples, *network, *budget)
        started = time.perf_counter()
        first, was_killed = watched(
            words, tiles=whole / "arrays.zarr" / matrix, kill_after=given.kill_after
        )
        second, _ = watched([*words, "--resume"]) if was_killed else (0, False)
        seconds = time.perf_counter() - started
        watched(command(verb, corner, given.corner, *network))
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
    side = ["--side", "rows"] if verb == "jacobian" else []  # n × n, also of k·d < n
    return [sys.executable, "-m", "eigenscope", verb, *data, *size, *side, *others]


def watched(
    words: list[str], *, tiles: Path | None = None, kill_after: float = 0.0
) -> tuple[int, bool]:
    """Run a command; return its peak resident set, and whether it was killed.

    It is killed some seconds after the first tile is in a folder, if one is given.
    """
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    peak = 0
    started = None
    while process.poll() is None:
        peak = max(peak, high_water(process.pid))
        if started is None and tiles is not None and any(tiles.glob("c/*/*")):
            started = time.perf_counter()
        if started is not None and time.perf_counter() - started > kill_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return peak, True
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return peak, False


def high_water(pid: int) -> int:
    """Return the largest resident set that a process has had so far, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return 1024 * found[0] if found else 0  # a process that ends has none


def difference(whole: Path, corner: Path, name: str, size: int) -> float:
    """Return max |A - B| / max |B| of the first rows and columns."""
    a, b = (StoredGram(Run.open(path).open_array(name)) for path in (whole, corner))
    part = slice(0, size)
    expected = b.block(part, part)
    return float((a.block(part, part) - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
