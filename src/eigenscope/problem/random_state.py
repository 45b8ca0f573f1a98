"""The global random states, given back after data or a model advanced them."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomState:
    """The states of Python's, NumPy's and torch's global generators."""

    python: Any
    numpy: Any
    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]

    @classmethod
    def capture(cls) -> "RandomState":
        """Return the states as they are now."""
        cuda = torch.cuda.is_initialized()
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),  # noqa: NPY002 - saved and restored, not used
            torch_cpu=torch.get_rng_state(),
            torch_cuda=tuple(torch.cuda.get_rng_state_all()) if cuda else (),
        )

    def restore(self) -> None:
        """Make the states what they were."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(self.torch_cuda)


@contextmanager
def rng_preserved() -> Generator[None]:
    """Give back the global random states that data or a model may have advanced."""
    state = RandomState.capture()
    try:
        yield
    finally:
        state.restore()
