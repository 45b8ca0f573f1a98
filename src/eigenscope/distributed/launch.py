"""Joining the processes that torchrun, or another launcher, has started."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import (
    _get_default_store,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)

from eigenscope.distributed.failures import leave_word

# A rank may wait for hours while another works on its share; one that ends is
# noticed at once, whatever the timeout.
_TIMEOUT: Final = timedelta(days=30)


@contextmanager
def joined() -> Generator[torch.device | None]:
    """Join the process group that the environment describes, as torchrun sets it.

    Yields:
        The accelerator of this rank, None where there is none or one process is alone.

    Raises:
        BaseException: What the block raises; the other ranks are told.
    """
    if not dist.is_torchelastic_launched() and "WORLD_SIZE" not in os.environ:
        yield None
        return
    device = _own_accelerator()
    backend = None if device is not None else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield device
    except BaseException as error:
        leave_word(_get_default_store(), dist.get_rank(), error)
        raise
    finally:
        dist.destroy_process_group()


def _own_accelerator() -> torch.device | None:
    """Return the CUDA device whose number is that of this rank on its host."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
