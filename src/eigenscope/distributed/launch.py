"""Joining the processes that torchrun, or another launcher, has started."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist

from eigenscope.distributed.group import tell_why

# A rank may wait for hours while another works on its share; one that ends is
# noticed at once, whatever the timeout.
_TIMEOUT: Final = timedelta(days=30)


@contextmanager
def joined() -> Generator[None]:
    """Join the process group that the environment describes, as torchrun sets it.

    Where there are CUDA devices, each process takes the one of its number on its host.

    Yields:
        Nothing.

    Raises:
        BaseException: What the block raises; the other ranks are told.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield
    except BaseException as error:
        tell_why(error)
        raise
    finally:
        dist.destroy_process_group()
