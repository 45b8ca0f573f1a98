"""What the ranks of two hosts compute together, compared with one process.

Started by two_hosts.sh on every rank.
"""

import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from distributed_cases import CASES
from distributed_worker import run
from torch import Tensor

_TOLERANCE = 1e-8  # sums in another order, in float64, through iterations


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    addresses: list[str] = [""] * size
    dist.all_gather_object(addresses, os.environ["GROUP_RANK"])
    found = {name: case() for name, case in CASES.items()}
    run(folder, rank)
    dist.barrier()
    dist.destroy_process_group()
    if rank:
        return
    print(f"{size} processes on {len(set(addresses))} hosts, {socket.gethostname()}")
    found["run"] = torch.load(folder / "0.pt")
    expected = {name: case() for name, case in CASES.items()}
    alone = folder / "alone"
    alone.mkdir()
    run(alone, 0)
    expected["run"] = torch.load(alone / "0.pt")
    worst = 0.0
    for name, values in expected.items():
        gaps = {key: _gap(found[name][key], value) for key, value in values.items()}
        key = max(gaps, key=lambda k: gaps[k])
        print(f"{name}: {len(gaps)} results, largest gap {gaps[key]:.1e} ({key})")
        worst = max(worst, gaps[key])
    if worst > _TOLERANCE:
        raise SystemExit(f"the answers differ by {worst:.1e} of their size")


def _gap(found: Tensor, expected: Tensor) -> float:
    scale = float(expected.abs().max()) or 1.0
    return float((found - expected).abs().max()) / scale


if __name__ == "__main__":
    main()
