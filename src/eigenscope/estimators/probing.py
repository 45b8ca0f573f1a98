"""Random vectors and their images, group by group, kept in a run if there is one."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from eigenscope._types import JsonValue
from eigenscope.estimators.dense import code
from eigenscope.estimators.kept import KeptImages
from eigenscope.estimators.long_vectors import orthonormal_rows, project_off
from eigenscope.estimators.matrices import Operand
from eigenscope.estimators.probes import ProbeLaw, draw_probes, first_seed
from eigenscope.estimators.probing_vectors import probing_vectors
from eigenscope.estimators.products import Products
from eigenscope.precision import widened
from eigenscope.progress import progress
from eigenscope.spectra import Estimate
from eigenscope.store import Run

_RANK: Final = 100.0  # roundings, below which a direction of a sketch is none

Rows = Float[Tensor, "probe dim"]
Pairs = Iterator[tuple[Rows, Rows]]
Term = Callable[[Rows, Rows], Float[Tensor, "probe ..."]]


@final
class MeanOfTerms:
    """Mean of independent terms, numbers or vectors, as they come.

    Attributes:
        count: Terms so far.

    References:
        Welford (1962), Technometrics 4(3).
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Float[Tensor, ...] = torch.zeros((), dtype=torch.float64)
        self._squares: Float[Tensor, ...] = torch.zeros((), dtype=torch.float64)

    def add(self, terms: Float[Tensor, "probe ..."]) -> None:
        """Take more terms.

        Args:
            terms: They are summed in float64 on the CPU.
        """
        for term in widened(terms).cpu():
            self.count += 1
            change = term - self._mean
            self._mean = self._mean + change / self.count
            self._squares = self._squares + change * (term - self._mean)

    def result(self) -> tuple[Any, Any, int]:
        """The mean, its standard error, and the number of terms.

        Returns:
            The first two are numbers, or vectors.
        """
        stderr = (self._squares / (self.count * (self.count - 1))).sqrt()
        if self._mean.ndim:
            return self._mean, stderr, self.count
        return float(self._mean), float(stderr), self.count


def require_products(num_matvecs: int, least: int, method: str) -> None:
    """Raise if a method is given too few products.

    Raises:
        ValueError: If there are less than the least number.
    """
    if num_matvecs < least:
        raise ValueError(
            f"num_matvecs must be at least {least} for method={method!r}; got "
            f"{num_matvecs}."
        )


@final
class Probing:
    """The products of one estimate.

    Args:
        operand: A symmetric operator or matrix.
        num_matvecs: Products to take.
        least: Products without which there is no estimate.
        law: Distribution of the probes.
        method: What is done with them.
        term: What a probe v and its image Av say of the quantity.
        has_entries: Whether that is a vector.
        generator: Source of all randomness.
        memory: Budget.
        run: Where products are kept, or None.
        name: Name of the estimate in the run.

    Attributes:
        products: Products with A.
        num_matvecs: Products to take.
        law: Distribution of the probes.
        method: What is done with them.

    Raises:
        ValueError: If there are too few products, or the vectors do not fit.
    """

    def __init__(
        self,
        operand: Operand,
        *,
        num_matvecs: int,
        least: int,
        law: ProbeLaw,
        method: str,
        term: Term,
        has_entries: bool,
        generator: torch.Generator | None,
        memory: str | int | None,
        run: Run | None,
        name: str,
    ) -> None:
        self.products = Products(operand)
        require_products(num_matvecs, least, method)
        self.num_matvecs, self.method = num_matvecs, method
        self.law: ProbeLaw = law
        self._together = probing_vectors(
            method,
            num_matvecs,
            dim=self.products.dim,
            itemsize=self.products.dtype.itemsize,
            has_entries=has_entries,
            memory=memory,
        ).width
        self._name, self._term = name, term
        self._started = time.perf_counter()
        self._plain = MeanOfTerms()
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
            self.products.kept = KeptImages(
                run,
                name,
                self._made,
                shape=(num_matvecs, self.products.dim),
                dtype=self.products.dtype,
            )

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
        width = self._together
        firsts = range(0, count, width)
        for first in progress(firsts, label=f"{self._name}: {kind}", total=len(firsts)):
            indices = range(first, min(first + width, count))
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
            images = self.products(probes)
            if without is None:
                self._plain.add(self._term(probes, images))
            yield probes, images

    def parts(self, kind: str, rows: Float[Tensor, "vector dim"]) -> Pairs:
        """Multiply given vectors, some at a time.

        Args:
            kind: What they are for.
            rows: The vectors.

        Yields:
            Vectors and their images, as rows.
        """
        firsts = range(0, len(rows), self._together)
        label = f"{self._name}: {kind}"
        for first in progress(firsts, label=label, total=len(firsts)):
            some = rows[first : first + self._together]
            yield some, self.products(some)

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
        found = torch.empty_like(rows)
        _fill([found], ((images,) for _, images in self.parts(kind, rows)))
        return found

    def sketch(self, count: int) -> tuple[Rows, Rows]:
        """Probes, and their images.

        Args:
            count: How many.

        Returns:
            Both as rows.
        """
        probes = self._empty(count)
        images = self._empty(count)
        _fill([probes, images], self.groups("sketch", count))
        return probes, images

    def range_of_sketch(self, count: int) -> Float[Tensor, "basis dim"]:
        """An orthonormal basis of the range of A S for random S.

        Args:
            count: Vectors in S.

        Returns:
            The basis, of fewer vectors where A has a smaller rank.
        """
        sketch = self._empty(count)
        _fill([sketch], ((images,) for _, images in self.groups("sketch", count)))
        orthonormal, triangle = orthonormal_rows(sketch)
        del sketch
        left, sizes, _ = torch.linalg.svd(triangle)
        limit = _RANK * self.products.epsilon * float(sizes[0])
        return left[:, sizes > limit].T.to(orthonormal) @ orthonormal

    def partial(self) -> Estimate | None:
        """The mean over the probes that were multiplied as they are.

        Returns:
            A valid estimate, or None from fewer than two probes.
        """
        if self._plain.count < 2:
            return None
        return replace(self.finished(*self._plain.result()), converged=False)

    def exact_diagonal(self) -> Float[Tensor, "dim"]:
        """The diagonal by D products with unit vectors.

        Returns:
            Its entries, float64, on the CPU.
        """
        self._made["method"] = "exact"
        found = torch.zeros(self.products.dim, dtype=torch.float64)
        firsts = range(0, self.products.dim, self._together)
        label = f"{self._name}: units"
        for first in progress(firsts, label=label, total=len(firsts)):
            some = found[first : first + self._together]
            unit = self._empty(len(some)).zero_()
            unit[:, first:].fill_diagonal_(1)
            some.copy_(widened(self.products(unit)[:, first:].diagonal()))
        return found

    def _empty(self, count: int) -> Rows:
        """Memory for some vectors."""
        return torch.empty(
            count,
            self.products.dim,
            dtype=self.products.dtype,
            device=self.products.device,
        )

    def finished(
        self,
        value: float | Float[Tensor, "dim"],
        stderr: float | Float[Tensor, "dim"],
        num_terms: int | None = None,
    ) -> Estimate:
        """The estimate with its cost and provenance.

        Args:
            value: What was estimated.
            stderr: Its standard error.
            num_terms: Terms whose spread that is.

        Returns:
            The result.
        """
        how: dict[str, JsonValue] = {"seconds": time.perf_counter() - self._started}
        return Estimate(
            value=value,
            stderr=stderr,
            num_terms=num_terms,
            num_matvecs=self.products.count,
            provenance=self._made | how | code(),
        )


def _fill(targets: Sequence[Rows], groups: Iterable[tuple[Rows, ...]]) -> None:
    """Put groups of rows below each other."""
    start = 0
    for group in groups:
        stop = start + len(group[0])
        for target, rows in zip(targets, group, strict=True):
            target[start:stop] = rows
        start = stop
