"""One of several processes: computes the cases and saves what it has found."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from distributed_cases import CASES


def main() -> None:
    rank, size = int(sys.argv[1]), int(sys.argv[2])
    folder = Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/met", rank=rank, world_size=size
    )
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, case in CASES.items():
        found[name] = case()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
