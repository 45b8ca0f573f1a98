"""Bulk and outliers: laws of random matrices fitted to the bulk of a spectrum."""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from eigenscope._types import require_choice
from eigenscope.analysis.distance import Measure, atoms
from eigenscope.spectra import Spectrum
from eigenscope.spectra.transport import transport_distance

BulkLaw = Literal["marchenko_pastur", "semicircle"]

_ANGLES: Final = 2001
_ROUNDS: Final = 50
_LEVELS: Final = 200
_MIDDLE: Final = (0.02, 0.95)  # levels of the bulk that are fitted: outliers are above
_MIDDLE_BOTH: Final = (0.05, 0.95)
_EDGE: Final = 2.0  # widths N^(-2/3) of the edge, below which nothing is an outlier
_LEAST: Final = 10
_BOTTOM: Final = 1e-4  # least ratio


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """A law of random matrices on [lower, upper], and what is outside.

    "marchenko_pastur": density √((x - lower)(upper - x)) / (2π σ² γ x) with
    edges σ²(1 ± √γ)², the limit for XXᵀ/m with N/m → γ ≤ 1 and entries of variance
    σ²; "semicircle": 2 √(R² - (x - c)²) / (πR²) with edges c ± R.

    Attributes:
        law: Which law.
        lower: Lower edge.
        upper: Upper edge.
        scale: σ² or R.
        ratio: γ; None for the semicircle.
        num_bulk: Eigenvalues that the law stands for.
        num_above: Outliers: eigenvalues above the upper edge by more than twice the
            width of its fluctuations, (upper - lower) N^(-2/3).
        num_below: The same below the lower edge.
        num_zero: Eigenvalues that take no part: up to the noise floor in modulus, for
            "marchenko_pastur".
        ks_distance: max |F - G| between the cdf of the bulk and that of the law.
        distance: W1 between the two, relative to the width of the law. (Eigenvalues
            repel each other: p-values for independent samples do not apply.)

    Example:
        >>> eigenvalues = np.cos((np.arange(1000) + 0.5) * np.pi / 1000)
        >>> bulk = fit_bulk(eigenvalues, law="semicircle")
        >>> bulk.num_above, bulk.ks_distance > 0.05  # arcsine is no semicircle
        (0.0, True)
    """

    law: BulkLaw
    lower: float
    upper: float
    scale: float
    ratio: float | None
    num_bulk: float
    num_above: float
    num_below: float
    num_zero: float
    ks_distance: float
    distance: float

    def pdf(
        self, x: float | Float[np.ndarray, "*point"]
    ) -> Float[np.ndarray, "*point"]:
        """Density of the law.

        Args:
            x: Where.

        Returns:
            The density; it integrates to 1 and is 0 outside of the edges.
        """
        points = np.asarray(x, dtype=np.float64)
        root = np.sqrt(np.maximum((points - self.lower) * (self.upper - points), 0.0))
        if self.ratio is None:
            return np.asarray(2 * root / (math.pi * self.scale**2))
        inside = np.where(root > 0, points, 1.0)
        return np.asarray(root / (2 * math.pi * self.scale * self.ratio * inside))

    def cdf(
        self, x: float | Float[np.ndarray, "*point"]
    ) -> Float[np.ndarray, "*point"]:
        """Share of the law at or below x.

        Args:
            x: Where.

        Returns:
            Between 0 and 1, to about 1e-6.
        """
        places, shares = _table(self.ratio)
        center, half = (self.upper + self.lower) / 2, (self.upper - self.lower) / 2
        positions = (np.asarray(x, dtype=np.float64) - center) / half
        return np.asarray(np.interp(positions, places, shares))


def fit_bulk(values: Measure, *, law: BulkLaw = "marchenko_pastur") -> Bulk:
    """Fit a law of random matrices to the bulk of a spectrum; count what is outside.

    Least squares between quantiles of the bulk and of the law; eigenvalues beyond the
    edges then leave the bulk, and the fit is repeated until none does.

    Args:
        values: A `Spectrum`, exact or estimated, values, or (values, weights), whose
            weights count eigenvalues.
        law: "marchenko_pastur" for positive spectra (values up to the noise floor are
            left out as zeros) or "semicircle" for symmetric ones.

    Returns:
        The law, the number of outliers on either side, and how well it fits.

    Raises:
        ValueError: If the law is unknown, fewer than ten values take part, or values
            are negative for "marchenko_pastur".

    Cost:
        Some milliseconds for thousands of values.

    References:
        Marchenko and Pastur (1967), Math. USSR Sb. 1; Wigner (1958), Ann. Math. 67.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 800))
        >>> X[0] *= 4
        >>> bulk = fit_bulk(np.linalg.eigvalsh(X @ X.T / 800))
        >>> bulk.num_above, round(bulk.ratio, 1), round(bulk.upper, 1)
        (1.0, 0.2, 2.2)
    """
    require_choice("law", law, BulkLaw)
    points, counts, floor = _counted(values)
    zeros = np.zeros(len(points), dtype=bool)
    if law == "marchenko_pastur":
        if float(points[0]) < -floor:
            raise ValueError(
                "the law of Marchenko and Pastur is for positive spectra; the least "
                f"value is {points[0]:.6g} and the noise floor {floor:.3g}. Use "
                "law='semicircle'."
            )
        zeros = points <= floor
    num_zero = float(counts[zeros].sum())
    points, counts = points[~zeros], counts[~zeros]
    _require_enough(points)
    inside = np.ones(len(points), dtype=bool)
    fitted = _fit(points, counts, law)
    for _ in range(_ROUNDS):
        margin = _EDGE * fitted.width * float(counts[inside].sum()) ** (-2 / 3)
        kept = points <= fitted.upper + margin
        if law == "semicircle":
            kept &= points >= fitted.lower - margin
        if bool((kept == inside).all()) or int(kept.sum()) < _LEAST:
            break
        inside = kept
        fitted = _fit(points[inside], counts[inside], law)
    return _bulk(fitted, points, counts, num_zero, law)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """Edges and parameters of a law."""

    lower: float
    upper: float
    scale: float
    ratio: float | None

    @property
    def width(self) -> float:
        return self.upper - self.lower


def _counted(
    values: Measure,
) -> tuple[Float[np.ndarray, "eig"], Float[np.ndarray, "eig"], float]:
    """Ascending values, how many eigenvalues each is, and the noise floor."""
    points, weights = atoms("values", values)
    if isinstance(values, Spectrum):
        counts = weights * values.dimension
        return points, np.rint(counts) if values.exact else counts, values.noise_floor
    if isinstance(values, tuple):
        total = float(np.sum(np.asarray(values[1], dtype=np.float64)))
        return points, weights * total, 0.0
    return points, np.ones(len(points)), 0.0


def _require_enough(points: Float[np.ndarray, "eig"]) -> None:
    distinct = len(np.unique(points))
    if distinct < _LEAST:
        raise ValueError(
            f"a bulk needs at least {_LEAST} distinct values above the noise floor; "
            f"got {distinct}. Look at the eigenvalues themselves."
        )


def _fit(
    points: Float[np.ndarray, "eig"], counts: Float[np.ndarray, "eig"], law: BulkLaw
) -> _Fitted:
    """Least squares between quantiles in the middle of the bulk."""
    first, last = _MIDDLE if law == "marchenko_pastur" else _MIDDLE_BOTH
    levels = np.linspace(first, last, _LEVELS)
    shares = (np.cumsum(counts) - counts / 2) / counts.sum()
    found = np.interp(levels, shares, points)
    if law == "semicircle":
        places, below = _table(None)
        steps = np.interp(levels, below, places)
        radius, center = map(float, np.polyfit(steps, found, 1))
        return _Fitted(
            lower=center - radius, upper=center + radius, scale=radius, ratio=None
        )

    def quantiles(ratio: float) -> Float[np.ndarray, "level"]:
        places, below = _table(ratio)
        return 1 + ratio + 2 * math.sqrt(ratio) * np.interp(levels, below, places)

    def loss(log_ratio: float) -> float:
        steps = quantiles(math.exp(log_ratio))
        scale = float(steps @ found / (steps @ steps))
        return float(np.sum((found - scale * steps) ** 2))

    best: Any = minimize_scalar(loss, bounds=(math.log(_BOTTOM), 0.0), method="bounded")
    ratio = math.exp(float(best.x))
    steps = quantiles(ratio)
    scale = float(steps @ found / (steps @ steps))
    root = math.sqrt(ratio)
    return _Fitted(
        lower=scale * (1 - root) ** 2,
        upper=scale * (1 + root) ** 2,
        scale=scale,
        ratio=ratio,
    )


def _table(
    ratio: float | None,
) -> tuple[Float[np.ndarray, "place"], Float[np.ndarray, "place"]]:
    """The cdf of a law whose edges are -1 and 1."""
    angles = np.linspace(math.pi, 0.0, _ANGLES)
    places = np.cos(angles)
    mass = np.sin(angles) ** 2
    if ratio is not None:
        mass /= np.maximum(1 + ratio + 2 * math.sqrt(ratio) * places, 1e-12)
    steps = (mass[1:] + mass[:-1]) / 2
    shares = np.concatenate([[0.0], np.cumsum(steps)])
    return places, shares / shares[-1]


def _bulk(
    fitted: _Fitted,
    points: Float[np.ndarray, "eig"],
    counts: Float[np.ndarray, "eig"],
    num_zero: float,
    law: BulkLaw,
) -> Bulk:
    """Counts outside of the edges, and distances inside."""
    margin = _EDGE * fitted.width * float(counts.sum()) ** (-2 / 3)
    above, below = points > fitted.upper + margin, points < fitted.lower - margin
    inside = ~above & ~below
    values, weights = points[inside], counts[inside] / counts[inside].sum()
    places, shares = _table(fitted.ratio)
    center, half = (fitted.upper + fitted.lower) / 2, fitted.width / 2
    expected = np.interp((values - center) / half, places, shares)
    reached = np.cumsum(weights)
    gaps = np.maximum(abs(reached - expected), abs(reached - weights - expected))
    middles = (places[1:] + places[:-1]) / 2
    distance = transport_distance(
        values, weights, center + half * middles, np.diff(shares)
    )
    return Bulk(
        law=law,
        lower=fitted.lower,
        upper=fitted.upper,
        scale=fitted.scale,
        ratio=fitted.ratio,
        num_bulk=float(counts[inside].sum()),
        num_above=float(counts[above].sum()),
        num_below=float(counts[below].sum()),
        num_zero=num_zero,
        ks_distance=float(gaps.max()),
        distance=distance / fitted.width,
    )
