"""What random probes say about a spectrum: one small measure for each of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

Nodes = Float[np.ndarray, "probe node"]
CoarseNodes = Float[np.ndarray, "probe coarse"]
LEVEL: Final = 0.95
_REPLICAS: Final = 400


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quadrature:
    """Exactly known eigenvalues, and a measure of the others for each probe.

    The spectrum is (1/D) Σ_i δ(outer_i) + (1 - m/D) · mean over probes of
    Σ_j w_j δ(x_j) for m outer eigenvalues. `coarse` is the same from half as many
    steps; the distance of the two says how far the resolution reaches.

    Attributes:
        nodes: x of each probe.
        weights: w of each probe; every row adds up to 1.
        coarse_nodes: x of each probe from half as many steps.
        coarse_weights: Their weights.
        outer: Eigenvalues that are known one by one, in any order.
        outer_error: Bound on the W1 error that their residuals leave.
        kernel_width: Standard deviation by which damping widens every node in the
            middle of the interval; 0 for Gauss rules.

    Raises:
        ValueError: If nodes and weights differ in shape, or there are none.

    Example:
        >>> rule = {"nodes": np.array([[1.0, 3.0]]), "weights": np.array([[0.5, 0.5]])}
        >>> coarse = {f"coarse_{name}": array for name, array in rule.items()}
        >>> found = Quadrature(**rule, **coarse, outer=np.array([9.0, 9.0]))
        >>> found.measure(4)
        (array([1., 3., 9., 9.]), array([0.25, 0.25, 0.25, 0.25]))
    """

    nodes: Nodes
    weights: Nodes
    coarse_nodes: CoarseNodes
    coarse_weights: CoarseNodes
    outer: Float[np.ndarray, "outer"]
    outer_error: float = 0.0
    kernel_width: float = 0.0

    def __post_init__(self) -> None:
        for pair in (
            (self.nodes, self.weights),
            (self.coarse_nodes, self.coarse_weights),
        ):
            shapes = {array.shape for array in pair}
            if len(shapes) != 1 or pair[0].ndim != 2 or not pair[0].size:
                raise ValueError(
                    "nodes and weights must be (probe, node) and agree in shape; got "
                    f"{pair[0].shape} and {pair[1].shape}."
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quadrature):
            return NotImplemented
        mine, others = self.arrays(), other.arrays()
        return all(np.array_equal(mine[name], others[name]) for name in mine)

    def __hash__(self) -> int:
        return hash(self.nodes.tobytes())

    def arrays(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Everything as arrays, for a file.

        Returns:
            The arrays by name.
        """
        names = [item.name for item in fields(self)]
        return {f"probe_{name}": np.asarray(getattr(self, name)) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Quadrature":
        """What `arrays` gave.

        Args:
            arrays: The arrays by name.

        Returns:
            The quadrature.
        """
        parts: dict[str, Any] = {
            name.removeprefix("probe_"): array for name, array in arrays.items()
        }
        for name in ("outer_error", "kernel_width"):
            parts[name] = float(parts.get(name, 0.0))
        return cls(**parts)

    @property
    def num_probes(self) -> int:
        """Number of probes."""
        return len(self.nodes)

    @property
    def num_steps(self) -> int:
        """Nodes per probe."""
        return self.nodes.shape[1]

    def share(self, dimension: int) -> float:
        """Weight of the part that the probes stand for.

        Args:
            dimension: D.

        Returns:
            1 - m/D.
        """
        return 1 - len(self.outer) / dimension

    def measure(
        self, dimension: int, *, coarse: bool = False
    ) -> tuple[Float[np.ndarray, "eig"], Float[np.ndarray, "eig"]]:
        """Values and weights of the whole spectrum, ascending.

        Args:
            dimension: D.
            coarse: Whether to take half the steps.

        Returns:
            Values, and weights that add up to 1.
        """
        nodes = self.coarse_nodes if coarse else self.nodes
        weights = self.coarse_weights if coarse else self.weights
        scaled = weights * (self.share(dimension) / self.num_probes)
        values = np.concatenate([self.outer, nodes.ravel()])
        known = np.full(len(self.outer), 1 / dimension)
        together = np.concatenate([known, scaled.ravel()])
        counted = np.flatnonzero(together > 0)
        order = counted[np.argsort(values[counted], kind="stable")]
        total = float(together[order].sum())
        return values[order], together[order] / total

    def single_measures(
        self, dimension: int
    ) -> Iterator[tuple[Float[np.ndarray, "eig"], Float[np.ndarray, "eig"]]]:
        """Yield the whole spectrum as each probe alone has it.

        Args:
            dimension: D.

        Yields:
            Values, ascending, and weights that add up to 1.
        """
        for place in range(self.num_probes):
            alone = replace(self, **self.rows(np.array([place])))
            yield alone.measure(dimension)

    def rows(self, places: Int[np.ndarray, " chosen"]) -> dict[str, Any]:
        """What some of the probes say, which may be repeated.

        Args:
            places: Numbers of the probes.

        Returns:
            The four arrays by name.
        """
        names = ("nodes", "weights", "coarse_nodes", "coarse_weights")
        return {name: getattr(self, name)[places] for name in names}

    def per_probe(
        self, function: Callable[[Nodes], Nodes], *, coarse: bool = False
    ) -> Float[np.ndarray, "probe"]:
        """Σ_j w_j f(x_j) for each probe.

        Args:
            function: f, applied to arrays.
            coarse: Whether to take half the steps.

        Returns:
            One number a probe; nodes without weight play no part.
        """
        nodes = self.coarse_nodes if coarse else self.nodes
        weights = self.coarse_weights if coarse else self.weights
        filled = np.where(weights > 0, nodes, nodes[:, :1])
        values = np.where(weights > 0, function(filled), 0.0)
        return (weights * values).sum(1)

    def sum(
        self, function: Callable[[Nodes], Nodes], dimension: int
    ) -> tuple[float, float, float]:
        """Σ f(λ) over all D eigenvalues, with its errors.

        The standard error is that of independent terms, or by the law of the probes
        that of a spectrum as they found it, if that is larger: uniform on the sphere
        of ℝᴺ, they give an eigenvalue weights with the variance 2 w (1 - w)/(N + 2).
        Few probes that all miss an outlier agree with each other, so their spread alone
        would be too small.

        Args:
            function: f, applied to arrays.
            dimension: D.

        Returns:
            The sum, its standard error (infinite for a single probe), and how far half
            the steps are from it.
        """
        count = dimension - len(self.outer)
        known = float(np.sum(function(self.outer))) if len(self.outer) else 0.0
        if not count:
            return known, 0.0, 0.0
        fine = self.per_probe(function)
        coarse = self.per_probe(function, coarse=True)
        spread = self._stderr(fine[:, None])[0]
        spread = count * max(float(spread), self._expected_stderr(function, count))
        bias = abs(float(fine.mean() - coarse.mean())) * count
        return known + count * float(fine.mean()), spread, bias

    def _expected_stderr(self, function: Callable[[Nodes], Nodes], count: int) -> float:
        """√(2 Var f / ((N + 2) n)) for n probes and the measure that they found."""
        unit = float(self.per_probe(lambda x: np.abs(function(x))).max())
        if not unit > 0:
            return 0.0
        mean = float(self.per_probe(lambda x: function(x) / unit).mean())
        squares = self.per_probe(lambda x: np.square(function(x) / unit - mean))
        variance = 2 * float(squares.mean()) / ((count + 2) * self.num_probes)
        return unit * variance**0.5

    def cdf_rows(
        self,
    ) -> tuple[Float[np.ndarray, "place"], Float[np.ndarray, "probe place"]]:
        """The cdf of every probe's measure.

        Returns:
            Ascending places, and the cdfs from each one to the next.
        """
        places = np.unique(self.nodes[self.weights > 0])
        below = [
            np.concatenate([[0.0], np.cumsum(w[order])])[
                np.searchsorted(x[order], places, side="right")
            ]
            for x, w in zip(self.nodes, self.weights, strict=True)
            for order in [np.argsort(x, kind="stable")]
        ]
        return places, np.array(below)

    def noise(self, dimension: int) -> float:
        """Bound of the W1 error by the spread between probes, with 95 % confidence.

        The 95 % quantile of the W1 distance between the mean over probes and means
        over probes drawn from them again (bootstrap), times √(n/(n-1)) and Student's
        over the normal quantile for n probes.

        Args:
            dimension: D.

        Returns:
            The bound in units of the eigenvalues; infinite for a single probe.
        """
        count = self.num_probes
        places, rows = self.cdf_rows()
        if self.share(dimension) == 0 or len(places) < 2:
            return 0.0
        if count < 2:
            return float("inf")
        draws = np.random.default_rng(0).multinomial(
            count, np.full(count, 1 / count), size=_REPLICAS
        )
        gaps = (draws / count) @ (rows[:, :-1] - rows[:, :-1].mean(0))
        distances = np.abs(gaps) @ np.diff(places)
        small = (count / (count - 1)) ** 0.5
        small *= confidence_factor(count) / confidence_factor(None)
        bound = float(np.quantile(distances, LEVEL)) * small
        return bound * self.share(dimension)

    def _stderr(self, rows: Float[np.ndarray, "probe x"]) -> Float[np.ndarray, "x"]:
        """Standard error of the mean of rows, one for each probe."""
        if self.num_probes < 2:
            return np.full(rows.shape[1], np.inf)
        return rows.std(0, ddof=1) / self.num_probes**0.5


def confidence_factor(num_probes: int | None, level: float = LEVEL) -> float:
    """Student's t: half the width of a confidence interval in standard errors.

    Args:
        num_probes: Independent probes, at least 2; None for so many that it is normal.
        level: Confidence.

    Returns:
        The factor.
    """
    freedom = np.inf if num_probes is None else num_probes - 1
    return float(student.ppf((1 + level) / 2, freedom))
