"""An orthonormal basis on the device, on the host and on disk, as it fits."""

import tempfile
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope.budget import rows_within
from eigenscope.estimators.long_vectors import inner_products
from eigenscope.precision import wide_device

_PANEL_BYTES: Final = 2**26  # made and released together
_COLUMNS_AT_ONCE: Final = 2**14  # entries of all vectors that are turned together


def panel_size(vector_bytes: int) -> int:
    """Return the vectors of every set that a basis makes room for at a time.

    Args:
        vector_bytes: Bytes of one vector of every set.

    Returns:
        At least 1.
    """
    return max(1, min(_PANEL_BYTES // vector_bytes, 64))


@final
class Basis:
    """Vectors of `num_groups` independent sets, each orthonormal on its own.

    Panels of consecutive vectors live on the device while its budget lasts, then on
    the host, then in an unnamed file in the system's temporary folder.

    Args:
        num_groups: Number of sets; a block of vectors has one row of vectors per set.
        dim: D.
        dtype: Type of the entries.
        device: Where blocks come from and coefficients go.
        memory: Bytes of host (or, on an accelerator, of device and of host) memory
            that the basis may take.

    Attributes:
        size: Vectors in each set.
    """

    def __init__(
        self,
        num_groups: int,
        dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        memory: int,
    ) -> None:
        self._num_groups, self._dim = num_groups, dim
        self._dtype, self._device = dtype, device
        vector_bytes = num_groups * dim * dtype.itemsize
        self._panel_size = panel_size(vector_bytes)
        self._panel_bytes = self._panel_size * vector_bytes
        self._memory = memory
        self._panels: list[Tensor] = []
        self.size = 0

    @property
    def num_spilled(self) -> int:
        """Panels that are on disk."""
        return max(0, len(self._panels) - self._num_fast - self._num_host)

    @property
    def _num_fast(self) -> int:
        """Panels that fit on the device."""
        return self._memory // self._panel_bytes

    @property
    def _num_host(self) -> int:
        """Further panels that fit on the host; the CPU has none besides."""
        return 0 if self._device.type == "cpu" else self._memory // self._panel_bytes

    def append(self, block: Float[Tensor, "group vector dim"]) -> None:
        """Add vectors to every set.

        Args:
            block: The new vectors, orthonormal to those that are there.
        """
        done = 0
        while done < block.shape[1]:
            panel, used = divmod(self.size, self._panel_size)
            if panel == len(self._panels):
                self._panels.append(self._new_panel())
            count = min(self._panel_size - used, block.shape[1] - done)
            target = self._panels[panel][:, used : used + count]
            target.copy_(block[:, done : done + count])
            self.size += count
            done += count

    def coefficients(
        self, block: Float[Tensor, "group vector dim"]
    ) -> Float[Tensor, "group basis vector"]:
        """Inner products of every basis vector with the block's vectors of its set.

        Args:
            block: Some vectors for each set.

        Returns:
            ⟨v_i, y_j⟩ in float64, on the block's device.
        """
        parts = [
            inner_products(panel, block.to(panel.device)).to(self._device)
            for panel in self._used()
        ]
        if not parts:
            shape = (self._num_groups, 0, block.shape[1])
            return torch.zeros(
                shape, dtype=torch.float64, device=wide_device(block.device)
            )
        return torch.cat(parts, 1)

    def combine(
        self, coefficients: Float[Tensor, "group basis vector"]
    ) -> Float[Tensor, "group vector dim"]:
        """Σ_i c_ij v_i for every j.

        Args:
            coefficients: c.

        Returns:
            The vectors, on the device.
        """
        count = coefficients.shape[2]
        result = torch.zeros(
            self._num_groups, count, self._dim, dtype=self._dtype, device=self._device
        )
        self._add(result, coefficients, factor=1)
        return result

    def remove(
        self, block: Float[Tensor, "group vector dim"]
    ) -> Float[Tensor, "group basis vector"]:
        """Make a block orthogonal to the basis, in place, by two passes.

        Args:
            block: Changed in place.

        Returns:
            The coefficients that were taken out, of both passes, in float64.

        References:
            Giraud, Langou, Rozložník (2005), Comput. Math. Appl. 50: twice is enough.
        """
        total = self.coefficients(block)
        self._add(block, total, factor=-1)
        again = self.coefficients(block)
        self._add(block, again, factor=-1)
        return total + again

    def rotate(self, turn: Float[Tensor, "basis kept"]) -> None:
        """Replace v_1 … v_n by the fewer vectors Σ_i v_i turn_ij, in place.

        Args:
            turn: Matrix with orthonormal columns, the same for every set.
        """
        kept = turn.shape[1]
        for start in range(0, self._dim, _COLUMNS_AT_ONCE):
            columns = slice(start, start + _COLUMNS_AT_ONCE)
            parts = [panel[:, :, columns].to(self._device) for panel in self._used()]
            old = torch.cat(parts, 1)
            new = turn.T.to(old) @ old
            for place in range(0, kept, self._panel_size):
                part = new[:, place : place + self._panel_size]
                panel = self._panels[place // self._panel_size]
                panel[:, : part.shape[1], columns] = part.to(panel.device)
        self.size = kept
        del self._panels[-(-kept // self._panel_size) :]

    def vectors(self) -> Float[Tensor, "group basis dim"]:
        """All vectors, in new memory on the device.

        Returns:
            The vectors as rows.
        """
        parts = [panel.to(self._device) for panel in self._used()]
        return torch.cat(parts, 1)

    def _add(self, block: Tensor, coefficients: Tensor, *, factor: int) -> None:
        """Add or subtract a combination of the basis."""
        start = 0
        for panel in self._used():
            part = coefficients[:, start : start + panel.shape[1]].to(panel)
            start += panel.shape[1]
            if panel.device == block.device:
                torch.baddbmm(block, part.mT, panel, alpha=factor, out=block)
            else:
                block += factor * torch.bmm(part.mT, panel).to(block.device)

    def _used(self) -> list[Tensor]:
        """The filled part of every panel."""
        return [
            panel[:, : min(self._panel_size, self.size - place * self._panel_size)]
            for place, panel in enumerate(self._panels)
            if place * self._panel_size < self.size
        ]

    def _new_panel(self) -> Tensor:
        """Memory for the next vectors: device, host or disk."""
        shape = (self._num_groups, self._panel_size, self._dim)
        place = len(self._panels)
        if place < self._num_fast:
            return torch.empty(shape, dtype=self._dtype, device=self._device)
        if place < self._num_fast + self._num_host:
            return torch.empty(shape, dtype=self._dtype)
        numpy_dtype = torch.empty(0, dtype=self._dtype).numpy().dtype
        with tempfile.TemporaryFile(prefix="eigenscope-basis-") as file:
            mapped = np.memmap(file, dtype=numpy_dtype, mode="w+", shape=shape)
        return torch.from_numpy(mapped)


def probes_together(
    dim: int, *, num_steps: int, itemsize: int, memory: int, most: int
) -> int:
    """Number of recurrences whose bases of `num_steps` vectors fit the memory.

    Args:
        dim: D.
        num_steps: Vectors in each basis.
        itemsize: Bytes of an entry.
        memory: Bytes for all of them.
        most: Upper bound.

    Returns:
        At least 1: what does not fit goes to disk.
    """
    needed = dim * num_steps * itemsize
    return min(most, rows_within(max(memory, needed), needed))
