"""Symmetric matrices on the raw outputs of a batch, block-diagonal over samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

Function = Callable[[Tensor], Tensor]


class OutputMatrix(ABC):
    """M with one block for each sample of a batch, M = S₊ S₊ᵀ - S₋ S₋ᵀ.

    Attributes:
        is_indefinite: Whether there may be a part S₋.
    """

    is_indefinite: bool = False

    @abstractmethod
    def product(self, outputs: Tensor) -> Tensor:
        """Return M u for u of the shape of the raw outputs."""

    @abstractmethod
    def project(self, raw: Tensor) -> Float[Tensor, "sample row"]:
        """Return S₊ᵀ z, which autograd can differentiate by z; S₊ is constant."""

    def project_negative(self, raw: Tensor) -> Float[Tensor, "sample row"]:
        """Return S₋ᵀ z."""
        return raw.new_zeros(len(raw), 0)


@final
class Diagonal(OutputMatrix):
    """M = diag(entries) with entries ≥ 0.

    Args:
        entries: Of the shape of the raw outputs.
    """

    def __init__(self, entries: Tensor) -> None:
        self._entries = entries

    @override
    def product(self, outputs: Tensor) -> Tensor:
        return outputs * self._entries

    @override
    def project(self, raw: Tensor) -> Float[Tensor, "sample row"]:
        return (raw * self._entries.sqrt()).reshape(len(raw), -1)


@final
class Categorical(OutputMatrix):
    """M = m (diag p - ppᵀ) at every position, p the softmax of the logits.

    T = √m (diag √p - p √pᵀ) has T Tᵀ = M and T √p = 0. The reflection of √p to the
    last axis, I - w wᵀ / (1 + √p_k) with w = √p + e_k, therefore leaves k - 1 columns
    S, which is the rank of M. No class × class matrix is ever formed.

    Args:
        logits: Classes on axis 1.
        mass: m ≥ 0 for each position.
        arrange: From the raw outputs to (sample, class, position).
        restore: From that to the raw outputs' shape.

    Attributes:
        probabilities: p, (sample, class, position).
        mass: m, (sample, 1, position).
        restored: From what is arranged so to the raw outputs' shape.
    """

    def __init__(
        self,
        logits: Float[Tensor, "sample class position"],
        mass: Float[Tensor, "sample position"],
        arrange: Function,
        restore: Function,
    ) -> None:
        self.probabilities = torch.softmax(logits, 1)
        self.mass = mass.unsqueeze(1)
        self._arrange = arrange
        self.restored = restore

    @override
    def product(self, outputs: Tensor) -> Tensor:
        p = self.probabilities
        weighted = self._arrange(outputs) * p
        weighted.addcmul_(p, weighted.sum(1, keepdim=True), value=-1)
        return self.restored(weighted.mul_(self.mass))

    @override
    def project(self, raw: Tensor) -> Float[Tensor, "sample row"]:
        p, logits = self.probabilities, self._arrange(raw)
        roots = p.sqrt()
        centered = logits - (p * logits).sum(1, keepdim=True)
        images = centered * roots * self.mass.sqrt()
        last = images[:, -1:] / (1 + roots[:, -1:])
        return (images[:, :-1] - roots[:, :-1] * last).flatten(1)


@final
class Directions(OutputMatrix):
    """M = Σ_d v_d v_dᵀ / number of draws, a sum over terms and draws.

    Args:
        directions: v_d for every draw.
        arrange: From the raw outputs to (sample, entry, term); vectors of different
            terms of a sample do not mix.
        restore: From that to the raw outputs' shape.
    """

    def __init__(
        self,
        directions: Float[Tensor, "draw sample entry term"],
        arrange: Function,
        restore: Function,
    ) -> None:
        self._directions = directions * len(directions) ** -0.5
        self._arrange = arrange
        self._restore = restore

    @override
    def product(self, outputs: Tensor) -> Tensor:
        parts = self._parts(self._arrange(outputs)).unsqueeze(2)
        return self._restore((self._directions * parts).sum(0))

    @override
    def project(self, raw: Tensor) -> Float[Tensor, "sample row"]:
        return self._parts(self._arrange(raw)).movedim(0, 1).flatten(1)

    def _parts(self, arranged: Tensor) -> Float[Tensor, "draw sample term"]:
        return (self._directions * arranged).sum(2)


@final
class Recorded(OutputMatrix):
    """M as autograd gives it for any loss whose samples do not mix.

    Args:
        multiply: u → M u.
    """

    is_indefinite = True

    def __init__(self, multiply: Function) -> None:
        self._multiply = multiply
        self._roots: tuple[Tensor, Tensor] | None = None

    @override
    def product(self, outputs: Tensor) -> Tensor:
        return self._multiply(outputs).clone()  # zeros of autograd are read-only

    @override
    def project(self, raw: Tensor) -> Float[Tensor, "sample row"]:
        return _combined(self._factors(raw)[0], raw)

    @override
    def project_negative(self, raw: Tensor) -> Float[Tensor, "sample row"]:
        return _combined(self._factors(raw)[1], raw)

    def _factors(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return S₊ and S₋ (sample, output, row)."""
        if self._roots is None:
            blocks = self._blocks(raw.detach())
            values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
            above, below = values.clamp(min=0).sqrt(), (-values).clamp(min=0).sqrt()
            self._roots = vectors * above.unsqueeze(1), vectors * below.unsqueeze(1)
        return self._roots

    def _blocks(self, raw: Tensor) -> Float[Tensor, "sample output output"]:
        columns: list[Tensor] = []
        for place in range(raw[0].numel()):
            unit = torch.zeros_like(raw).reshape(len(raw), -1)
            unit[:, place] = 1
            columns.append(self._multiply(unit.view_as(raw)).reshape(len(raw), -1))
        return torch.stack(columns, 2)


def _combined(roots: Tensor, raw: Tensor) -> Float[Tensor, "sample row"]:
    flat = raw.reshape(len(raw), 1, -1)
    return (flat @ roots).squeeze(1)
