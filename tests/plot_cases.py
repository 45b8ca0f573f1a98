"""Spectra to draw, and what is read off the drawings."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from eigenscope.analysis import PowerLaw, fit_power_law
from eigenscope.spectra import Eigenpairs, Spectrum

ROUNDING = 1e-9


def heavy(num=150, seed=0, rank=None, floor=0.0) -> Spectrum:
    """Eigenvalues of a random Gram matrix whose rows have heavy-tailed norms."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((rank or num, 2 * num))
    rows *= rng.pareto(1.5, (len(rows), 1)) + 0.2
    values = np.linalg.eigvalsh(rows @ rows.T) / num
    return Spectrum.from_eigenvalues(values, dimension=num, noise_floor=floor)


def fits_of(spectrum: Spectrum) -> dict[str, PowerLaw]:
    return {
        "scan": fit_power_law(spectrum, xmin="scan"),
        "peak": fit_power_law(spectrum, xmin="peak"),
    }


def axes() -> Axes:
    return Figure().subplots()


def legend_of(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def histogram_of(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Heights and edges of the first histogram."""
    (steps, *_) = [x for x in ax.patches if isinstance(x, StepPatch)]
    heights, edges, _ = steps.get_data()
    return np.asarray(heights), np.asarray(edges)


def image_of(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def curve(ax: Axes, start: str) -> tuple[np.ndarray, np.ndarray]:
    """Data of the line whose label starts so."""
    (line,) = [x for x in ax.lines if str(x.get_label()).startswith(start)]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def pairs_of(dim: int, count: int) -> Eigenpairs:
    rng = np.random.default_rng(dim)
    vectors = np.linalg.qr(rng.standard_normal((dim, count)))[0]
    return Eigenpairs(
        values=torch.arange(count, 0, -1, dtype=torch.float64),
        vectors=torch.from_numpy(vectors).float(),
        residuals=torch.zeros(count, dtype=torch.float64),
        converged=torch.ones(count, dtype=torch.bool),
    )
