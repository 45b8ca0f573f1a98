"""Eigenvalues with their vectors, and how well they solve Av = λv."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.spectra import files

_KIND = "eigenpairs"
_ARRAYS = ("values", "vectors", "residuals", "converged")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Eigenpairs:
    """k solutions of A v = λ v, best first by the criterion they were asked for.

    Attributes:
        values: Eigenvalues λ, float64.
        vectors: Unit eigenvectors as columns, in the operator's dtype and on its
            device, so `operator @ pairs.vectors` works. Their signs are arbitrary.
        residuals: ‖A v - λ v‖ of each returned pair, float64.
        converged: Whether a residual is at most the tolerance, 1e-6 · |λ|_max unless
            told otherwise.
        provenance: How they were made: method, driver, dtype, seconds, …

    Example:
        >>> import torch
        >>> from eigenscope.estimators import top_eigenpairs
        >>> pairs = top_eigenpairs(torch.diag(torch.tensor([1.0, 4.0, 9.0])), 2)
        >>> pairs.values.tolist(), pairs.converged.tolist()
        ([9.0, 4.0], [True, True])
    """

    values: Float[Tensor, "k"]
    vectors: Float[Tensor, "dim k"]
    residuals: Float[Tensor, "k"]
    converged: Bool[Tensor, "k"]
    provenance: dict[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.values)
        lengths = (self.vectors.shape[-1], len(self.residuals), len(self.converged))
        if self.vectors.ndim != 2 or lengths != (count, count, count):
            raise ValueError(
                "Eigenpairs needs values (k,), vectors (D, k), residuals (k,) and "
                f"converged (k,) with one k; got {tuple(self.values.shape)}, "
                f"{tuple(self.vectors.shape)}, {tuple(self.residuals.shape)} and "
                f"{tuple(self.converged.shape)}."
            )

    def __len__(self) -> int:
        return len(self.values)

    def save(self, path: str | Path, *, wall_time: bool = True) -> None:
        """Write one NumPy archive with a format version, all or nothing.

        Args:
            path: The file's name, taken as it is.
            wall_time: Whether the seconds it took are kept. In runs they are in the
                manifest alone, so that equal pairs are equal files.
        """
        arrays = {name: getattr(self, name).cpu() for name in _ARRAYS}
        if arrays["vectors"].dtype == torch.bfloat16:  # NumPy has none
            arrays["vectors"] = arrays["vectors"].float()
        header: dict[str, JsonValue] = {
            "provenance": files.kept(self.provenance, wall_time=wall_time)
        }
        found = {name: array.numpy() for name, array in arrays.items()}
        files.write(Path(path), kind=_KIND, header=header, arrays=found)

    @classmethod
    def load(cls, path: str | Path) -> "Eigenpairs":
        """Read what `save` wrote.

        Args:
            path: The file's name.

        Returns:
            The pairs, on the CPU; bfloat16 vectors come back in float32.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, of another kind, or of a newer format.
        """
        header, arrays = files.read(Path(path), kind=_KIND)
        tensors = {name: torch.from_numpy(arrays[name]) for name in _ARRAYS}
        return cls(**tensors, **header)
