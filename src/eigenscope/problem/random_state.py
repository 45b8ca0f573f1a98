"""The global random states, given back after data or a model advanced them."""

import random
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomState:
    """The states of Python's, NumPy's and torch's global generators, and of others."""

    python: Any
    numpy: Any
    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]
    others: tuple[tuple[torch.Generator, Tensor], ...]

    @classmethod
    def capture(cls, others: Iterable[torch.Generator] = ()) -> "RandomState":
        """Return the states as they are now.

        Args:
            others: Generators besides the global ones.

        Returns:
            The states.
        """
        cuda = torch.cuda.is_initialized()
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),  # noqa: NPY002 - saved and restored, not used
            torch_cpu=torch.get_rng_state(),
            torch_cuda=tuple(torch.cuda.get_rng_state_all()) if cuda else (),
            others=tuple((generator, generator.get_state()) for generator in others),
        )

    def restore(self) -> None:
        """Make the states what they were."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(self.torch_cuda)
        for generator, state in self.others:
            generator.set_state(state)


@contextmanager
def rng_preserved(others: Iterable[torch.Generator] = ()) -> Generator[None]:
    """Give back the random states that data or a model may have advanced.

    Args:
        others: Generators besides the global ones.

    Yields:
        Nothing.
    """
    state = RandomState.capture(others)
    try:
        yield
    finally:
        state.restore()
