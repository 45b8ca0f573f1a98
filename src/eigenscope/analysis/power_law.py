"""Power-law tails: exponent, start, distance, and whether to believe them."""

from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from jaxtyping import Float

from eigenscope._types import JsonValue, require_choice
from eigenscope.analysis.tail_bootstrap import GoodnessOfFit, bootstrap
from eigenscope.analysis.tail_comparison import LikelihoodRatio, compare_laws
from eigenscope.analysis.tail_laws import TailLaw
from eigenscope.analysis.tail_scan import (
    Likelihood,
    best_start,
    fit_tail,
    log_excess,
    slope_stderr,
)
from eigenscope.analysis.tail_start import (
    PeakEdge,
    XminOrigin,
    XminRule,
    max_slope,
    peak_start,
    require_consistent,
    require_tail,
    scan_start,
)
from eigenscope.analysis.tail_values import (
    Sample,
    Values,
    Weights,
    read_tail_values,
)

Points = float | Float[np.ndarray, "*point"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """A fitted tail: density ∝ x^(−α) on [xmin, xmax], or from xmin on.

    Attributes:
        alpha: Exponent α.
        alpha_stderr: Its standard error at this xmin.
        xmin: Where the tail starts.
        xmax: Where the law ends; None means nowhere.
        ks_distance: max |P(X < x | tail) − cdf(x)| over the values x of the tail.
        num_tail: How many values are in the tail; an integer unless weights are
            fractional, as is every count here.
        num_values: How many values took part: above the noise floor, up to xmax.
        num_below_floor: How many were left out as zeros or rounding.
        num_above_xmax: How many were left out above xmax.
        noise_floor: Up to where values count as zeros or rounding.
        max_alpha: Exponents from this one on were no candidates of the scan.
        rule: How xmin was found: "scan", "peak" or "given".
        likelihood: Of which law α maximizes the likelihood: the one up to xmax
            ("bounded") or the one without end ("unbounded").
        peak_edge: Edge of the fullest bin that "peak" takes.
        bins: Bins of the histogram of "peak".
        sample: The values that took part.

    Example:
        >>> values = (1 - np.linspace(0, 1, 1000, endpoint=False)) ** (-1 / 1.5)
        >>> fit = fit_power_law(values, xmin=2.0)
        >>> round(float(fit.ccdf(4.0)), 2), round(2.0 ** (1 - fit.alpha), 2)
        (0.35, 0.35)
    """

    alpha: float
    alpha_stderr: float
    xmin: float
    xmax: float | None
    ks_distance: float
    num_tail: int | float
    num_values: int | float
    num_below_floor: int | float
    num_above_xmax: int | float
    noise_floor: float
    max_alpha: float | None
    rule: XminOrigin
    likelihood: Likelihood
    peak_edge: PeakEdge
    bins: int
    sample: Sample = field(repr=False, compare=False)

    def pdf(self, x: Points) -> Float[np.ndarray, "*point"]:
        """Density of the law; its integral over the tail is 1.

        To draw it over a density of all values, multiply by num_tail / num_values.

        Args:
            x: Where, in units of the values.

        Returns:
            The density, 0 outside of the tail.
        """
        points, logs = self._logs(x)
        density = (self.alpha - 1) / self._mass * np.exp(-self.alpha * logs)
        inside = (points >= self.xmin) & (points <= (self.xmax or np.inf))
        return np.where(inside, density / self.xmin, 0.0)

    def cdf(self, x: Points) -> Float[np.ndarray, "*point"]:
        """Probability of at most x under the law, within the tail.

        Args:
            x: Where, in units of the values.

        Returns:
            The probability: 0 up to xmin, 1 from xmax on.
        """
        _, logs = self._logs(x)
        return np.asarray(-np.expm1((1 - self.alpha) * logs) / self._mass)

    def ccdf(self, x: Points) -> Float[np.ndarray, "*point"]:
        """Probability of more than x under the law, within the tail.

        Args:
            x: Where, in units of the values.

        Returns:
            The probability, accurate however small: 1 up to xmin, 0 from xmax on.
        """
        _, logs = self._logs(x)
        decay, end = (1 - self.alpha) * logs, (1 - self.alpha) * self._span
        return np.asarray((np.exp(decay) - np.exp(end)) / self._mass)

    def empirical_ccdf(
        self,
    ) -> tuple[Float[np.ndarray, " distinct"], Float[np.ndarray, " distinct"]]:
        """Distinct values x of the tail and the share of the tail at or above each.

        Returns:
            The values, ascending, and the shares, from 1 down.
        """
        tail = self.sample.from_value(self.xmin)
        return tail.values, tail.at_least / tail.size

    def goodness_of_fit(
        self,
        *,
        num_replicas: int = 1000,
        generator: torch.Generator | None = None,
    ) -> GoodnessOfFit:
        """Bootstrap p-value: the share of replicas farther from their own fit.

        A replica has as many values as the data: each is drawn from the law with
        probability num_tail / num_values, else from the values below xmin, and xmin
        is then found anew by the same rule. (A given xmin stays, and the values below
        it take no part.) A p-value below 0.1 or so rules the power law out.

        Args:
            num_replicas: At least 1; the error of p is at most 0.5 / √num_replicas.
            generator: Source of all randomness; a fresh one with a fixed seed if
                None, so that repeated calls agree.

        Returns:
            The p-value and its standard error.

        Raises:
            ValueError: If values stand for fractions of an eigenvalue, of which no
                replica can be drawn, or `num_replicas` is less than 1.

        Cost:
            One sort of all values per replica, and a scan that ends at the first start
            nearer than `ks_distance`.

        References:
            Clauset, Shalizi, Newman (2009), SIAM Review 51(4), section 4.1.
        """
        counts = self.sample.counts
        if not np.array_equal(counts, np.rint(counts)):
            raise ValueError(
                "weights must be whole numbers to draw replicas, and these are "
                "fractions (as of an estimated spectrum); fit single eigenvalues."
            )
        inside = 0 if self.rule == "given" else len(counts)
        num_below = int(np.searchsorted(self.sample.values[:inside], self.xmin))
        body = Sample.of_distinct(
            self.sample.values[:num_below], self.sample.counts[:num_below]
        )
        return bootstrap(
            self._is_nearer,
            body=body,
            num_tail=int(self.num_tail),
            draw_tail=self._quantile,
            num_replicas=num_replicas,
            generator=generator,
        )

    def likelihood_ratio(self, first: TailLaw, second: TailLaw) -> LikelihoodRatio:
        """R = Σ log p₁(x) − log p₂(x) over the tail; R > 0 prefers the first law.

        Both laws are fitted to the tail on [xmin, xmax] by maximum likelihood. The
        p-value is Vuong's, but for the power law against the truncated one, which are
        nested (χ²). Where a lognormal or a truncated power law fits best in the limit
        in which it is a power law, it is one: R against the power law is then 0.

        Args:
            first: "power_law", "lognormal", "exponential" or "truncated_power_law".
            second: Another of them.

        Returns:
            R, normalized and not, its p-value, and the parameters of both laws.

        Raises:
            ValueError: If a law is unknown or both are the same.

        References:
            Vuong (1989), Econometrica 57(2); Clauset, Shalizi, Newman (2009), SIAM
            Review 51(4), section 5.

        Example:
            >>> values = 1 - np.log(1 - np.linspace(0, 1, 1000, endpoint=False))
            >>> fit = fit_power_law(values, xmin=1.0)
            >>> result = fit.likelihood_ratio("power_law", "exponential")
            >>> result.ratio < 0, result.p_value < 1e-6
            (True, True)
        """
        tail = self.sample.from_value(self.xmin)
        return compare_laws(first, second, tail=tail, xmin=self.xmin, xmax=self.xmax)

    def summary(self) -> dict[str, JsonValue]:
        """Every number of the fit by name, ready for JSON.

        Returns:
            All attributes but the values themselves.
        """
        names = [name for name in self.__slots__ if name != "sample"]
        return {name: getattr(self, name) for name in names}

    @property
    def _span(self) -> float:
        return np.inf if self.xmax is None else float(np.log(self.xmax / self.xmin))

    @property
    def _mass(self) -> float:
        return float(-np.expm1((1 - self.alpha) * self._span))

    def _logs(self, x: Points) -> tuple[np.ndarray, np.ndarray]:
        points = np.asarray(x, dtype=np.float64)
        clipped = np.clip(points, self.xmin, self.xmax)
        return points, log_excess(np.asarray(clipped), self.xmin)

    def _quantile(self, level: np.ndarray) -> np.ndarray:
        return self.xmin * np.exp(np.log1p(-level * self._mass) / (1 - self.alpha))

    def _is_nearer(self, replica: Sample) -> bool:
        xmax, likelihood = self.xmax, self.likelihood
        if self.rule == "scan":
            found = best_start(
                replica,
                xmax,
                likelihood,
                max_slope=max_slope(self.max_alpha),
                better_than=self.ks_distance,
            )
            return found is not None
        xmin = self.xmin
        if self.rule == "peak":
            xmin = peak_start(replica, self.bins, self.peak_edge)
        tail = replica.from_value(xmin)
        if len(tail.values) < 2:
            return False
        return fit_tail(tail, xmin, xmax, likelihood)[1] < self.ks_distance


def fit_power_law(
    values: Values,
    *,
    xmin: XminRule | float = "scan",
    xmax: float | None = None,
    likelihood: Likelihood = "unbounded",
    weights: Weights | None = None,
    noise_floor: float | None = None,
    max_alpha: float | None = None,
    peak_edge: PeakEdge = "left",
    bins: int = 100,
    memory: str | int | None = None,
) -> PowerLaw:
    """Fit α = 1 + n / Σ log(x / xmin) to the values x from xmin on.

    With xmin="scan" every distinct value but the largest is tried, and the one whose
    tail has the smallest Kolmogorov-Smirnov distance to its own law is xmin; the
    distance is exact, and the smallest of equally good ones is taken.

    An xmax leaves out the values above it and ends the law there, as it enters the
    distance. α stays the formula above unless likelihood="bounded", which maximizes
    the likelihood of the law that ends: use it where xmax really cuts a tail off
    (values up to 10 xmin of a law with α = 2 give α = 2.3 by the formula). With xmax
    far out, at the largest value say, the two agree.

    Args:
        values: Eigenvalues or other positive numbers in any order, or a `Spectrum`,
            of which each value stands weight · dimension times.
        xmin: "scan"; "peak", the mode of the histogram of log10(values); or a number.
        xmax: Upper end, above xmin; None means no end.
        likelihood: "unbounded" or "bounded"; the latter needs `xmax`.
        weights: How many times each value stands; None means once.
        noise_floor: Values up to this one are left out as zeros or rounding, negative
            ones as well; None means the spectrum's own, and 0 for arrays.
        max_alpha: Let the scan try only starts whose exponent is below this one; None
            means all. 3 is what `powerlaw` does from version 2.0 on, unless told
            otherwise.
        peak_edge: Which edge of the fullest bin "peak" takes.
        bins: How many bins "peak" uses.
        memory: Budget such as "4GiB"; half of what is available if None.

    Returns:
        The fit, which can be drawn, tested and compared with other laws.

    Raises:
        TypeError: If the values are complex.
        ValueError: If there are too few distinct values or none but rounding, if some
            are negative or not finite, if the tail from xmin has fewer than two
            distinct values, if they do not fit the budget, or if an option is unknown
            or contradicts another.

    Cost:
        O(n log n) to sort, O(n) for the scan in all but contrived cases; 170 bytes for
        each value.

    References:
        Clauset, Shalizi, Newman (2009), SIAM Review 51(4), eq. 3.1 and section 3.3;
        the share of the tail below x, not up to x, enters the distance, as in the
        package `powerlaw` (Alstott, Bullmore, Plenz (2014), PLoS ONE 9(1)).

    Example:
        >>> values = (1 - np.linspace(0, 1, 1000, endpoint=False)) ** (-1 / 1.5)
        >>> fit = fit_power_law(values)
        >>> round(fit.alpha, 2), fit.xmin, fit.num_tail
        (2.51, 1.0, 1000)
    """
    require_choice("likelihood", likelihood, Likelihood)
    require_choice("peak_edge", peak_edge, PeakEdge)
    require_consistent(xmin, xmax, likelihood, bins)
    read = read_tail_values(
        values, weights=weights, noise_floor=noise_floor, xmax=xmax, memory=memory
    )
    sample = read.sample
    if xmin == "scan":
        start = scan_start(sample, xmax, likelihood, max_alpha)
    elif xmin == "peak":
        start = peak_start(sample, bins, peak_edge)
    else:
        start = float(xmin)
    tail = sample.from_value(start)
    require_tail(tail, sample, start)
    slope, distance = fit_tail(tail, start, xmax, likelihood)
    return PowerLaw(
        alpha=1 + slope,
        alpha_stderr=slope_stderr(slope, tail.size, start, xmax, likelihood),
        xmin=start,
        xmax=xmax,
        ks_distance=distance,
        num_tail=_count(tail.size),
        num_values=_count(sample.size),
        num_below_floor=_count(read.num_below_floor),
        num_above_xmax=_count(read.num_above_xmax),
        noise_floor=read.noise_floor,
        max_alpha=max_alpha,
        rule=xmin if isinstance(xmin, str) else "given",
        likelihood=likelihood,
        peak_edge=peak_edge,
        bins=bins,
        sample=sample,
    )


def _count(number: float) -> int | float:
    return int(number) if number.is_integer() else number
