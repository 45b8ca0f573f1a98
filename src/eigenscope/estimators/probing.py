"""Random vectors and their images, group by group, kept in a run if there is one."""

import time
from collections.abc import Iterator
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.estimators.checkpoint import Checkpoint
from eigenscope.estimators.dense import code
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.probes import ProbeLaw, draw_probes, first_seed
from eigenscope.estimators.products import Products
from eigenscope.estimators.recurrences import project_off
from eigenscope.progress import progress
from eigenscope.spectra import Estimate
from eigenscope.store import Run, TiledArray

_TOGETHER: Final = 8
_RANK: Final = 100.0  # roundings, below which a direction of a sketch is none

Pairs = Iterator[tuple[Float[Tensor, "probe dim"], Float[Tensor, "probe dim"]]]


@final
class Probing:
    """The products of one estimate.

    Args:
        operand: A symmetric operator or matrix.
        num_matvecs: Products to take.
        least: Products without which there is no estimate.
        law: Distribution of the probes.
        method: What is done with them.
        generator: Source of all randomness.
        run: Where products are kept, or None.
        name: Name of the estimate in the run.

    Attributes:
        products: Products with A.
        num_matvecs: Products to take.
        law: Distribution of the probes.
        method: What is done with them.

    Raises:
        ValueError: If there are too few products.
    """

    def __init__(
        self,
        operand: Operand,
        *,
        num_matvecs: int,
        least: int,
        law: ProbeLaw,
        method: str,
        generator: torch.Generator | None,
        run: Run | None,
        name: str,
    ) -> None:
        self.products = Products(operand)
        if num_matvecs < least:
            raise ValueError(
                f"num_matvecs must be at least {least} for method={method!r}; got "
                f"{num_matvecs}."
            )
        self.num_matvecs, self.method = num_matvecs, method
        self.law: ProbeLaw = law
        self._run, self._name = run, name
        self._started = time.perf_counter()
        self._plain: list[Float[Tensor, " probe"]] = []
        self._made: dict[str, JsonValue] = {
            "method": method,
            "operator": type(self.products.operator).__name__,
            "dimension": self.products.dim,
            "num_matvecs_allowed": num_matvecs,
            "law": law,
            "seed": first_seed(generator),
        }
        self._seed = int(str(self._made["seed"]))
        if run is not None:
            checkpoint = Checkpoint(run, name, self._made)
            if checkpoint.load() is None:
                checkpoint.save({})

    def groups(
        self,
        kind: str,
        count: int,
        *,
        without: Float[Tensor, "basis dim"] | None = None,
    ) -> Pairs:
        """Draw probes and multiply them, some at a time.

        Args:
            kind: What they are for: "sketch" or "probes".
            count: How many.
            without: Orthonormal rows that the probes are made orthogonal to.

        Yields:
            Probes and their images, as rows.
        """
        start = self._seed + (count if kind == "probes" else 0)
        firsts = range(0, count, _TOGETHER)
        for first in progress(firsts, label=f"{self._name}: {kind}", total=len(firsts)):
            indices = range(first, min(first + _TOGETHER, count))
            probes = draw_probes(
                indices,
                self.products.dim,
                seed=start,
                law=self.law,
                dtype=self.products.dtype,
                device=self.products.device,
            )
            if without is not None:
                project_off(probes, without)
            images = self._multiplied(kind, probes, first, count)
            if without is None:
                self._plain.append(inner(probes, images))
            yield probes, images

    def images(
        self, kind: str, rows: Float[Tensor, "vector dim"]
    ) -> Float[Tensor, "vector dim"]:
        """Multiply given vectors.

        Args:
            kind: What they are for.
            rows: The vectors.

        Returns:
            Their images.
        """
        firsts = range(0, len(rows), _TOGETHER)
        label = f"{self._name}: {kind}"
        parts = [
            self._multiplied(kind, rows[first : first + _TOGETHER], first, len(rows))
            for first in progress(firsts, label=label, total=len(firsts))
        ]
        return torch.cat(parts) if parts else rows.clone()

    def range_of_sketch(self, count: int) -> Float[Tensor, "basis dim"]:
        """An orthonormal basis of the range of A S for random S.

        Args:
            count: Vectors in S.

        Returns:
            The basis, of fewer vectors where A has a smaller rank.
        """
        sketch = torch.cat([images for _, images in self.groups("sketch", count)])
        left, sizes, _ = torch.linalg.svd(sketch.T, full_matrices=False)
        limit = _RANK * self.products.epsilon * float(sizes[0])
        return left[:, sizes > limit].T.contiguous()

    def plain_terms(self) -> Float[Tensor, "probe"]:
        """vᵀAv of the probes that were multiplied as they are.

        Returns:
            One number a probe.
        """
        return torch.cat(self._plain) if self._plain else torch.empty(0)

    def exact_diagonal(self) -> Float[Tensor, "dim"]:
        """The diagonal by D products with unit vectors.

        Returns:
            Its entries, float64, on the CPU.
        """
        unit = torch.eye(
            self.products.dim, dtype=self.products.dtype, device=self.products.device
        )
        self._made["method"] = "exact"
        return self.images("units", unit).diagonal().double().cpu()

    def finished(
        self, value: float | Float[Tensor, "dim"], stderr: float | Float[Tensor, "dim"]
    ) -> Estimate:
        """The estimate with its cost and provenance.

        Args:
            value: What was estimated.
            stderr: Its standard error.

        Returns:
            The result.
        """
        how: dict[str, JsonValue] = {"seconds": time.perf_counter() - self._started}
        return Estimate(
            value=value,
            stderr=stderr,
            num_matvecs=self.products.count,
            provenance=self._made | how | code(),
        )

    def _multiplied(
        self, kind: str, rows: Float[Tensor, "vector dim"], first: int, total: int
    ) -> Float[Tensor, "vector dim"]:
        """Images of some rows of `total`, from the run where they are there."""
        if self._run is None:
            return self.products(rows)
        dtype = str(self.products.dtype).removeprefix("torch.")
        array: TiledArray = self._run.array(
            f"{self._name}.{kind}",
            shape=(total, self.products.dim),
            dtype=dtype,
            tile_shape=(1, self.products.dim),
        )
        places = range(first, first + len(rows))
        ranks = self._run.ranks
        missing = ranks.from_first(
            lambda: [p for p in places if not array.is_written((p, 0))]
        )
        if missing:
            needed = torch.tensor([place - first for place in missing])
            fresh = self.products(rows[needed.to(rows.device)]).cpu().numpy()
            with ranks.together():
                if ranks.is_first:
                    for place, image in zip(missing, fresh, strict=True):
                        array.write((place, 0), image[None])
        self.products.count += len(rows) - len(missing)
        stored = torch.from_numpy(array[first : first + len(rows)])
        return stored.to(self.products.device)


def inner(
    left: Float[Tensor, "vector dim"], right: Float[Tensor, "vector dim"]
) -> Float[Tensor, "vector"]:
    """⟨x, y⟩ of rows, in float64 on the CPU.

    Args:
        left: The x.
        right: The y.

    Returns:
        One number a row.
    """
    return (left.double() * right.double()).sum(1).cpu()
