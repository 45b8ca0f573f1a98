"""Laws that a tail may follow, fitted by maximum likelihood.

In u = log(x / xmin) ≥ 0, every law here is an exponential family

    density(u) = exp(−a u − b s(u)) / Z(a, b),    b ≥ 0:

| law                 | s(u)   | free | parameters                              |
|---------------------|--------|------|-----------------------------------------|
| power law           |        | a    | α = a + 1                               |
| exponential         | eᵘ − 1 | b    | rate = b / xmin (a = −1)                |
| truncated power law | eᵘ − 1 | a, b | α = a + 1, rate = b / xmin              |
| lognormal           | u²     | a, b | σ² = 1 / (2b), μ = log xmin − a σ²      |

so their log-likelihoods are concave and one solver serves all. The power law is the
edge b = 0 of the last two, and the exponential the edge α = 0 of the truncated power
law; where the data pull a fit over an edge, the law of that edge is the fit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, final

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq, minimize

from eigenscope.analysis.tail_scan import log_excess, tail_slope
from eigenscope.analysis.tail_values import Sample

TailLaw = Literal["power_law", "lognormal", "exponential", "truncated_power_law"]

DROP = 45.0  # e⁻⁴⁵ of the largest density is nothing in float64
PANELS = 48
TOLERANCE = 1e-9
MAX_LOG = 300.0  # of b on the way to the fit
MAX_DEFECT = 1e-6  # of a log-likelihood, summed over the tail
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(16)

Statistic = Callable[[Any], Any]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LawFit:
    """A fitted law.

    Attributes:
        parameters: Name and value of each.
        log_likelihoods: Of each distinct value of the tail, in u.
        converged: Whether the likelihood equations hold at the fit.
    """

    parameters: dict[str, float]
    log_likelihoods: Float[np.ndarray, " distinct"]
    converged: bool


def fit_law(law: TailLaw, tail: Sample, xmin: float, xmax: float | None) -> LawFit:
    """Fit one law to a tail on [xmin, xmax] by maximum likelihood.

    Returns:
        Its parameters, and how likely they make each value.
    """
    logs = log_excess(tail.values, xmin)
    span = np.inf if xmax is None else float(np.log(xmax / xmin))
    if law == "exponential":
        return _fit_exponential(tail, logs, span, xmin)
    edge = float(tail_slope(float(tail.counts @ logs) / tail.size, span))
    if law == "power_law":
        return LawFit(
            parameters={"alpha": edge + 1},
            log_likelihoods=-edge * logs - _log_edge_mass(edge, span),
            converged=True,
        )
    statistic: Statistic = np.square if law == "lognormal" else np.expm1
    a, b, converged = _fit_pair(tail, logs, statistic, edge, span)
    if law == "truncated_power_law" and a < -1 <= edge:
        exponential = _fit_exponential(tail, logs, span, xmin)
        parameters = {"alpha": 0.0, **exponential.parameters}
        return replace(exponential, parameters=parameters)
    log_mass = (
        _log_edge_mass(a, span)
        if b == 0
        else _Family(a=a, b=b, statistic=statistic, span=span).log_mass
    )
    with np.errstate(divide="ignore"):
        variance = float(np.float64(0.5) / b)
    parameters = (
        {"mu": float(np.log(xmin)) - a * variance, "sigma": variance**0.5}
        if law == "lognormal"
        else {"alpha": a + 1, "rate": b / xmin}
    )
    scores = -a * logs - b * statistic(logs) - log_mass
    return LawFit(parameters=parameters, log_likelihoods=scores, converged=converged)


def _fit_exponential(
    tail: Sample, logs: np.ndarray, span: float, xmin: float
) -> LawFit:
    # In y = x / xmin − 1 the exponential is what the power law is in u.
    excess, reach = np.expm1(logs), np.expm1(span)
    b = float(tail_slope(float(tail.counts @ excess) / tail.size, reach))
    return LawFit(
        parameters={"rate": b / xmin},
        log_likelihoods=logs - b * excess - _log_edge_mass(b, reach),
        converged=True,
    )


def _log_edge_mass(a: float, span: float) -> float:
    # log ∫ e^(−a u) du over [0, span]
    return float(np.log(-np.expm1(-a * span) / a))


def _fit_pair(
    tail: Sample, logs: np.ndarray, statistic: Statistic, edge: float, span: float
) -> tuple[float, float, bool]:
    # If the likelihood falls from b = 0 on, that edge is its maximum.
    means = np.array([tail.counts @ logs, tail.counts @ statistic(logs)]) / tail.size
    if means[1] >= _edge_mean(statistic, edge, span):
        return edge, 0.0, True

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        family = _Family.at(point, statistic, span)
        return family.cost(means), family.gradient(means)

    def curvature(point: np.ndarray) -> np.ndarray:
        return _Family.at(point, statistic, span).hessian(means)

    result = minimize(
        objective,
        np.array([edge, -np.log(float(statistic(logs[-1:])[0]))]),
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": TOLERANCE * min(1.0, means[0])},
    )
    family = _Family.at(result.x, statistic, span)
    gradient = family.gradient(means)
    step = np.linalg.lstsq(family.hessian(means), gradient)[0]
    defect = tail.size * abs(float(gradient @ step)) / 2
    return family.a, family.b, defect < MAX_DEFECT


def _edge_mean(statistic: Statistic, edge: float, span: float) -> float:
    # The mean of s(u) under the power law, where the families meet it.
    if np.isfinite(span):
        return float(_Family(a=edge, b=0.0, statistic=statistic, span=span).means[1])
    if statistic is np.square:
        return 2 / edge**2
    return 1 / (edge - 1) if edge > 1 else np.inf


@final
class _Family:
    """Moments of (u, s(u)) at one (a, b), by Gauss-Legendre panels.

    The cost is minus the mean log-likelihood of a sample, of which it needs nothing
    but the means of u and s(u); its derivatives are those in (a, log b).
    """

    def __init__(
        self, *, a: float, b: float, statistic: Statistic, span: float
    ) -> None:
        self.a, self.b = a, b
        peak, low, high = _support(a, b, statistic, span)
        edges = np.linspace(low, high, PANELS + 1)
        half = (high - low) / (2 * PANELS)
        u = (edges[:-1, None] + half * (NODES + 1)).reshape(-1)
        statistics = np.stack([u, statistic(u)])
        top = a * peak + b * float(statistic(peak))
        density = np.exp(top - a * statistics[0] - b * statistics[1])
        density *= np.tile(NODE_WEIGHTS * half, PANELS)
        mass = float(density.sum())
        self.log_mass = float(np.log(mass)) - top
        self.means = statistics @ density / mass
        centered = statistics - self.means[:, None]
        self.covariance = (centered * density) @ centered.T / mass

    def cost(self, sample_means: np.ndarray) -> float:
        return self.log_mass + self.a * sample_means[0] + self.b * sample_means[1]

    def gradient(self, sample_means: np.ndarray) -> np.ndarray:
        return (sample_means - self.means) * [1.0, self.b]

    def hessian(self, sample_means: np.ndarray) -> np.ndarray:
        hessian = self.covariance * np.outer([1.0, self.b], [1.0, self.b])
        hessian[1, 1] += self.gradient(sample_means)[1]
        return hessian

    @classmethod
    def at(cls, point: np.ndarray, statistic: Statistic, span: float) -> "_Family":
        a, log_b = point
        b = float(np.exp(np.clip(log_b, -MAX_LOG, MAX_LOG)))
        return cls(a=float(a), b=b, statistic=statistic, span=span)


def _support(
    a: float, b: float, statistic: Statistic, span: float
) -> tuple[float, float, float]:
    # The peak of the density, and the interval outside of which it is negligible.

    def cost(u: float) -> float:
        return a * u + b * float(statistic(u))

    def crossing(below: float, above: float) -> float:
        return cast("float", brentq(lambda u: cost(u) - floor, below, above))  # pyright: ignore[reportUnknownLambdaType]

    peak = 0.0
    if a < 0 and b == 0:
        peak = span
    elif a < 0:
        peak = -a / (2 * b) if statistic is np.square else float(np.log(max(-a / b, 1)))
    peak = min(peak, span)
    floor = cost(peak) + DROP
    low = 0.0 if cost(0.0) <= floor else crossing(0.0, peak)
    step = 1.0
    while peak + step < span and cost(peak + step) < floor:
        step *= 2
    high = min(peak + step, span)
    if cost(high) > floor:
        high = crossing(peak, high)
    return peak, low, high
