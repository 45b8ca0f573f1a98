"""What all benchmarks share: a growing Markdown report, medians, peak memory."""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from torch.profiler import ProfilerActivity, profile


@dataclass
class Report:
    """Markdown that is printed as it grows and written at the end."""

    lines: list[str] = field(default_factory=list)

    def add(self, text: str = "") -> None:
        print(text, flush=True)
        self.lines.append(text)

    def table(self, *header: str) -> None:
        self.add("| " + " | ".join(header) + " |")
        self.add("|" + "---|" * len(header))

    def row(self, *cells: str) -> None:
        self.add("| " + " | ".join(cells) + " |")


def medians(
    calls: dict[str, Callable[[], object]], repetitions: int
) -> dict[str, float]:
    """Return the median seconds of each call, taken in turns after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def peak_of(call: Callable[[], object]) -> tuple[int, int]:
    """Return the peak of live tensor bytes and of the resident set's growth."""
    process = psutil.Process()
    base = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        kept = call()
    finally:
        done.set()
        thread.join()
    del kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = recorded.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    live = peak = 0
    for _, num_bytes in sorted(changes):
        live += num_bytes
        peak = max(peak, live)
    return peak, highest - base
