"""Spectra through training: ridges over each other, and a film."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from eigenscope.plots.style import INK, PALETTE, new_figure, write_legend
from eigenscope.spectra import Spectrum

_NUM_POINTS: Final = 600
_WIDTH: Final = 0.02  # standard deviation of the kernel, as a share of the axis
_LINEAR: Final = 1e-3  # of the largest |λ|, below which the axis is linear
_MOST_RIDGES: Final = 26
_FRAMES_PER_SECOND: Final = 5
_FILM_DOTS: Final = 80

Points = Float[np.ndarray, " point"]


@final
class SignedAxis:
    """The axis u = sign(λ) log10(1 + |λ|/c): logarithmic to both sides of zero.

    Args:
        spectra: Whose values fit on the axis; c is 1/1000 of the largest modulus.
    """

    def __init__(self, spectra: list[Spectrum]) -> None:
        largest = max(float(np.abs(found.values).max()) for found in spectra) or 1.0
        self._unit = _LINEAR * largest
        ends = [self.place(found.values[[0, -1]]) for found in spectra]
        low = min(float(end[0]) for end in ends)
        high = max(float(end[1]) for end in ends)
        margin = 0.06 * (high - low or 1.0)
        self.grid = np.linspace(low - margin, high + margin, _NUM_POINTS)

    def place(self, values: Points) -> Points:
        """Return the coordinate of values."""
        return np.sign(values) * np.log10(1 + np.abs(values) / self._unit)

    def heights(self, found: Spectrum) -> Points:
        """Return the share of the eigenvalues per unit of the axis, smoothed."""
        sigma = _WIDTH * (self.grid[-1] - self.grid[0])
        apart = (self.grid[:, None] - self.place(found.values)) / sigma
        kernel = np.exp(-(apart**2) / 2) / (sigma * np.sqrt(2 * np.pi))
        return kernel @ found.weights

    def label(self, ax: Axes, quantity: str) -> None:
        """Write λ at the ticks of the axis."""

        def text(place: float, _: int | None) -> str:
            value = float(f"{np.sign(place) * self._unit * (10 ** abs(place) - 1):.2g}")
            is_plain = value == 0 or 1e-3 <= abs(value) < 1e5
            return f"{value:,.10g}" if is_plain else f"{value:.2g}"

        ax.xaxis.set_major_formatter(FuncFormatter(text))
        ax.set(xlabel=quantity, xlim=(self.grid[0], self.grid[-1]))


def ridge_figure(
    spectra: Mapping[int, Spectrum], *, title: str, quantity: str
) -> Figure:
    """Draw log-densities by epoch, one over the other, from below upwards.

    Args:
        spectra: By epoch; of more than 26, evenly taken ones are drawn.
        title: Of the figure.
        quantity: Label of the axis of λ.

    Returns:
        The figure.
    """
    places = np.linspace(0, len(spectra) - 1, min(len(spectra), _MOST_RIDGES))
    epochs = np.array(list(spectra))[np.unique(places.round().astype(int))]
    axis = SignedAxis([spectra[epoch] for epoch in epochs])
    colors = colormaps["viridis"](np.linspace(0, 0.92, len(epochs)))
    with new_figure(title, width=7.5, height=2.0 + 0.24 * len(epochs)) as figure:
        ax = figure.subplots()
        for row, (epoch, color) in enumerate(zip(epochs, colors, strict=True)):
            found = spectra[int(epoch)]
            heights = axis.heights(found)
            lowest = 0.5 / found.dimension
            tall = np.log10(np.maximum(heights, lowest) / lowest)
            tall = row + 2.4 * tall / np.log10(found.dimension * 10)
            order = len(epochs) - row
            ax.fill_between(
                axis.grid, row, tall, color=color, alpha=0.75, lw=0, zorder=order
            )
            ax.plot(axis.grid, tall, color="white", lw=0.8, zorder=order)
        axis.label(ax, quantity)
        step = max(1, len(epochs) // 10)
        ax.set(yticks=range(0, len(epochs), step), ylabel="epoch")
        ax.set_yticklabels([str(epoch) for epoch in epochs[::step]])
        ax.axvline(0, color=INK, lw=0.6, ls=":")
    return figure


def film(
    full: Mapping[int, Spectrum],
    layers: Mapping[str, Mapping[int, Spectrum]],
    *,
    title: str,
    quantity: str,
) -> bytes:
    """Draw the layers' log-densities over the full one's, a picture for each epoch.

    Args:
        full: The full spectrum by epoch.
        layers: The layers' spectra by name and epoch.
        title: Of the film.
        quantity: Label of the axis of λ.

    Returns:
        The content of a GIF file.

    Cost:
        About a third of a second for each epoch.
    """
    epochs = [n for n in full if all(n in part for part in layers.values())]
    everything = [full[n] for n in epochs]
    everything += [part[n] for part in layers.values() for n in epochs]
    axis = SignedAxis(everything)
    lowest = 0.5 / max(found.dimension for found in everything)
    with new_figure(title, width=7.5, height=4.6) as figure:
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        lines = {"full": ax.plot(axis.grid, axis.grid, color=INK, lw=2.4, label="full")}
        for name, color in zip(layers, PALETTE * len(layers), strict=False):
            lines[name] = ax.plot(axis.grid, axis.grid, color=color, lw=1.2, label=name)
        ax.set(yscale="log", ylim=(lowest, 60), ylabel="share of eigenvalues per unit")
        axis.label(ax, quantity)
        write_legend(ax, loc="upper right")
        note = ax.text(0.02, 0.95, "", transform=ax.transAxes, va="top")

        def draw(epoch: int) -> list[Any]:
            for name, (line,) in lines.items():
                found = full[epoch] if name == "full" else layers[name][epoch]
                line.set_ydata(np.maximum(axis.heights(found), lowest / 10))
            note.set_text(f"epoch {epoch}")
            return []

        return _as_gif(FuncAnimation(figure, draw, frames=epochs))


def _as_gif(animation: FuncAnimation) -> bytes:
    """Return the film's pictures as a GIF."""
    writer = PillowWriter(fps=_FRAMES_PER_SECOND)
    with tempfile.TemporaryDirectory() as folder:  # the writer takes files alone
        path = Path(folder) / "film.gif"
        animation.save(path, writer=writer, dpi=_FILM_DOTS)
        return path.read_bytes()
