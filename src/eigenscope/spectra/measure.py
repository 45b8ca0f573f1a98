"""A spectrum as a measure Σ_i w_i δ(λ_i), with what follows from it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float

from eigenscope._types import JsonValue
from eigenscope.spectra import files
from eigenscope.spectra.checks import Numbers, as_json, require_measure, with_zeros
from eigenscope.spectra.density import Density, DensityKind, DensityScale, density
from eigenscope.spectra.estimate import Estimate
from eigenscope.spectra.quadrature import Quadrature


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """Eigenvalues λ_i of a symmetric D × D matrix as the measure Σ_i w_i δ(λ_i).

    An exact spectrum may hold fewer than D values: a multiplicity known from the
    structure, above all the zeros of a low-rank matrix, is one value with its whole
    weight. Values are never merged by a threshold and never clamped: rounding leaves
    small negative ones, and `noise_floor` says up to where. Every quantity below is
    one of the matrix whose spectrum this is.

    Attributes:
        values: Eigenvalues, ascending, float64, read-only.
        weights: Their weights, non-negative, adding up to 1, read-only.
        dimension: D.
        exact: Whether every eigenvalue is there (else it is an estimate).
        noise_floor: Moduli up to this one cannot be told from rounding.
        error: Bound of the W1 distance to the true spectrum, with 95 % confidence,
            in units of the eigenvalues: spread between probes and resolution; 0 for
            exact spectra.
        converged: Whether the error that was asked for was reached.
        quadrature: What each probe of an estimate says; None for exact spectra.
        provenance: How it was made: method, driver, dtype, seconds, …

    Raises:
        ValueError: If the arrays differ in length, are empty, not finite, not
            ascending, or the weights negative or not adding up to 1.
        TypeError: If `provenance` cannot be written as JSON.

    Example:
        >>> spectrum = Spectrum.from_eigenvalues([3.0, 1.0], dimension=4)
        >>> spectrum.values, spectrum.weights
        (array([0., 1., 3.]), array([0.5 , 0.25, 0.25]))
        >>> spectrum.trace(), spectrum.rank(), spectrum.condition_number()
        (4.0, 2, inf)
    """

    values: Float[np.ndarray, "eig"]
    weights: Float[np.ndarray, "eig"]
    dimension: int
    exact: bool
    noise_floor: float
    error: float = 0.0
    converged: bool = True
    quadrature: Quadrature | None = None
    provenance: dict[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("values", "weights"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        require_measure(self.values, self.weights)
        if self.dimension < 1:
            raise ValueError(f"dimension must be at least 1; got {self.dimension}.")
        if not (math.isfinite(self.noise_floor) and self.noise_floor >= 0):
            raise ValueError(
                f"noise_floor must be finite and not negative; got {self.noise_floor}."
            )
        if not self.error >= 0:
            raise ValueError(f"error must not be negative; got {self.error}.")
        object.__setattr__(self, "provenance", as_json(self.provenance))

    @classmethod
    def from_eigenvalues(
        cls,
        values: Numbers,
        *,
        dimension: int | None = None,
        noise_floor: float = 0.0,
        provenance: Mapping[str, JsonValue] | None = None,
    ) -> "Spectrum":
        """Exact spectrum of `values` and, up to `dimension`, zeros as one atom.

        Args:
            values: Eigenvalues in any order, each of multiplicity one.
            dimension: D; the D - len(values) others are zero. None means that
                `values` are all.
            noise_floor: Moduli up to this one cannot be told from rounding.
            provenance: How they were made.

        Returns:
            The spectrum.

        Raises:
            ValueError: If there are more values than `dimension`.

        Example:
            >>> Spectrum.from_eigenvalues([2.0, 1.0]).values
            array([1., 2.])
        """
        known = np.sort(np.asarray(values, dtype=np.float64).reshape(-1))
        size = len(known) if dimension is None else dimension
        if len(known) > size:
            raise ValueError(
                f"dimension must be at least the number of eigenvalues, {len(known)}; "
                f"got {dimension}."
            )
        values, weights = with_zeros(known, size)
        return cls(
            values=values,
            weights=weights,
            dimension=size,
            exact=True,
            noise_floor=noise_floor,
            provenance=dict(provenance or {}),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spectrum):
            return NotImplemented
        return (
            np.array_equal(self.values, other.values)
            and np.array_equal(self.weights, other.weights)
            and self.dimension == other.dimension
            and self.exact == other.exact
            and self.noise_floor == other.noise_floor
            and self.provenance == other.provenance
            and self.quadrature == other.quadrature
        )

    def __hash__(self) -> int:
        return hash((self.values.tobytes(), self.weights.tobytes(), self.dimension))

    @property
    def num_below_noise_floor(self) -> int:
        """Number of eigenvalues, of D, whose modulus is at most the noise floor."""
        return self.dimension - self.rank()

    def rank(self) -> int:
        """Number of eigenvalues, of D, whose modulus is above the noise floor.

        Returns:
            The weight above the floor times D, rounded.
        """
        above = np.abs(self.values) > self.noise_floor
        return round(float(self.weights[above].sum()) * self.dimension)

    def cdf(self, x: Numbers) -> Float[np.ndarray, "*shape"]:
        """Weight of the eigenvalues at or below `x` (right-continuous).

        Args:
            x: Where to evaluate, of any shape.

        Returns:
            An array of the shape of `x`; 0 below all eigenvalues, 1 from the largest.

        Example:
            >>> Spectrum.from_eigenvalues([1.0, 2.0]).cdf([0.0, 1.0, 5.0])
            array([0. , 0.5, 1. ])
        """
        steps = np.concatenate([[0.0], self._cumulative()])
        places = np.searchsorted(self.values, np.asarray(x), side="right")
        return np.asarray(steps[places])

    def quantile(self, level: Numbers) -> Float[np.ndarray, "*shape"]:
        """Least eigenvalue whose cdf reaches `level`.

        Args:
            level: Between 0 and 1, of any shape.

        Returns:
            An array of the shape of `level`.

        Raises:
            ValueError: If a level is outside [0, 1].
        """
        wanted = np.asarray(level, dtype=np.float64)
        if not bool(np.all((wanted >= 0) & (wanted <= 1))):
            raise ValueError(f"level must be between 0 and 1; got {level}.")
        slack = 4 * np.finfo(np.float64).eps * len(self.values)
        places = np.searchsorted(self._cumulative(), wanted - slack)
        return np.asarray(self.values[places])

    def moment(self, order: int) -> float:
        """Σ_i w_i λ_i^order, the mean of a power of the eigenvalues.

        Args:
            order: The power, at least 0.

        Returns:
            The moment; `moment(1) * dimension` is the trace.

        Raises:
            ValueError: If `order` is negative.
        """
        if order < 0:
            raise ValueError(f"order must be at least 0; got {order}.")
        return float(self.weights @ self.values**order)

    def trace(self) -> float:
        """D Σ_i w_i λ_i, the sum of all eigenvalues.

        Returns:
            The trace of the matrix.
        """
        return self.dimension * self.moment(1)

    def sum(
        self, function: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]
    ) -> Estimate:
        """Σ f(λ) = tr f(A) over all D eigenvalues.

        Args:
            function: f, applied to arrays of eigenvalues.

        Returns:
            The sum; from an estimate with its standard error over probes and, as
            `bias`, what half the steps change.

        Example:
            >>> print(Spectrum.from_eigenvalues([1.0, 2.0]).sum(np.square))
            5 ± 0
        """
        if self.quadrature is None:
            value = float(self.weights @ function(self.values)) * self.dimension
            return Estimate(value=value, stderr=0.0, num_matvecs=0)
        value, stderr, bias = self.quadrature.sum(function, self.dimension)
        made = self.provenance
        return Estimate(
            value=value,
            stderr=stderr,
            bias=bias,
            num_terms=self.quadrature.num_probes,
            num_matvecs=int(str(made.get("num_matvecs", 0))),
            converged=self.converged,
            provenance=made,
        )

    def effective_rank(self) -> float:
        """exp(-Σ_j p_j log p_j) over all D eigenvalues, p_j = |λ_j| / Σ|λ|.

        Returns:
            Between 1 and D; 0 for the zero matrix.

        References:
            Roy and Vetterli (2007), The effective rank, EUSIPCO.
        """
        sizes = np.abs(self.values)
        total = float(self.weights @ sizes) * self.dimension
        if total == 0.0:
            return 0.0
        share = sizes[sizes > 0] / total
        counts = self.weights[sizes > 0] * self.dimension
        return float(np.exp(-(counts * share) @ np.log(share)))

    def stable_rank(self) -> float:
        """Σλ² / max λ², the squared Frobenius norm over the squared spectral norm.

        Of the matrix whose spectrum this is; that of the Jacobian behind a Gram
        matrix is the Gram's `intrinsic_dimension()`.

        Returns:
            Between 1 and D; 0 for the zero matrix.
        """
        sizes = np.abs(self.values)
        top = float(sizes.max())
        if top == 0.0:
            return 0.0
        return float(self.weights @ (sizes / top) ** 2) * self.dimension

    def intrinsic_dimension(self) -> float:
        """Σ|λ| / max|λ|; for a Gram matrix 𝒥𝒥ᵀ the stable rank of 𝒥.

        Returns:
            Between 1 and D; 0 for the zero matrix.
        """
        sizes = np.abs(self.values)
        top = float(sizes.max())
        if top == 0.0:
            return 0.0
        return float(self.weights @ (sizes / top)) * self.dimension

    def condition_number(self) -> float:
        """max|λ| / min|λ|, infinite if min|λ| is at or below the noise floor.

        Returns:
            At least 1.
        """
        sizes = np.abs(self.values[self.weights > 0])
        smallest = float(sizes.min())
        if smallest <= self.noise_floor:
            return math.inf
        return float(sizes.max()) / smallest

    def density(
        self,
        *,
        scale: DensityScale = "linear",
        kind: DensityKind = "smooth",
        bandwidth: float | None = None,
        num_points: int = 1024,
        num_bins: int = 100,
    ) -> Density:
        """Σ_i w_i K(x - x_i) on a grid of x = λ or x = log10 λ.

        K is a Gaussian of standard deviation `bandwidth`, averaged over each cell of
        the grid, or a histogram. A log axis cannot show values at or below
        max(0, noise floor): their weight is left out, and said.

        Args:
            scale: "linear" for an axis of λ, "log" for an axis of log10 λ.
            kind: "smooth" or "histogram".
            bandwidth: In units of the axis: the standard deviation of the kernel
                (None: Silverman's rule 0.9 · min(σ, IQR/1.34) · N^(-1/5), and at
                least 1/500 of the range and the kernel's width of "kpm"), or the width
                of a bin (None: `num_bins` bins between the extreme values).
            num_points: Points of a smooth density.
            num_bins: Bins of a histogram.

        Returns:
            The density; it integrates to 1 minus its `omitted_weight`. That of an
            estimate has a confidence band, `lower` and `upper`.

        Raises:
            ValueError: If an option is out of its range, or nothing is above the
                noise floor on a log axis.

        Cost:
            At most N · `num_points` evaluations of the normal cdf for N values.

        Example:
            >>> density = Spectrum.from_eigenvalues([1.0, 2.0, 4.0]).density()
            >>> round(float(density.heights.sum()) * density.spacing, 12)
            1.0
        """
        return density(
            self.values,
            self.weights,
            threshold=self.noise_floor,
            scale=scale,
            kind=kind,
            bandwidth=bandwidth,
            num_points=num_points,
            num_bins=num_bins,
            quadrature=self.quadrature,
            dimension=self.dimension,
        )

    def save(self, path: str | Path, *, wall_time: bool = True) -> None:
        """Write one NumPy archive with a format version, all or nothing.

        Nothing is pickled. The archive replaces a file of that name in one step, so
        a killed process leaves the old file or the new one. Doubles keep every bit.

        Args:
            path: The file's name, taken as it is.
            wall_time: Whether the seconds it took are kept. In runs they are in the
                manifest alone, so that equal spectra are equal files.
        """
        names = ("dimension", "exact", "noise_floor", "error", "converged")
        header: dict[str, JsonValue] = {name: getattr(self, name) for name in names}
        header["provenance"] = files.kept(self.provenance, wall_time=wall_time)
        arrays = {"values": self.values, "weights": self.weights}
        if self.quadrature is not None:
            arrays |= self.quadrature.arrays()
        files.write(Path(path), kind="spectrum", header=header, arrays=arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Spectrum":
        """Read what `save` wrote.

        Args:
            path: The file's name.

        Returns:
            A spectrum equal to the saved one.

        Raises:
            ValueError: If the file is damaged, of another kind, or of a newer format.
            FileNotFoundError: If there is no such file.
        """
        header, arrays = files.read(Path(path), kind="spectrum")
        found: Any = {name: arrays.pop(name) for name in ("values", "weights")}
        quadrature = Quadrature.from_arrays(arrays) if arrays else None
        return cls(**found, **header, quadrature=quadrature)

    def _cumulative(self) -> Float[np.ndarray, "eig"]:
        """Weight up to each value; the last is exactly 1."""
        total = np.cumsum(self.weights)
        return total / total[-1]
