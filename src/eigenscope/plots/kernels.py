"""Kernels as pictures: samples by samples, and what each layer adds."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eigenscope.plots.style import INK, PALETTE, new_figure

_MOST_NAMES = 20


def plot_kernel(
    ax: Axes,
    kernel: Float[np.ndarray, "sample sample"],
    *,
    targets: Integer[np.ndarray, " sample"] | None = None,
    class_names: Sequence[str] | None = None,
) -> Axes:
    """Show K[i, j] / √(K[i, i] K[j, j]), the cosines of a kernel, ordered by class.

    Args:
        ax: Where to draw.
        kernel: K.
        targets: Class of each sample; None keeps the order of the data.
        class_names: By class; None shows the numbers.

    Returns:
        `ax`.

    Raises:
        ValueError: If there is not one target per sample.

    Example:
        >>> ax = plot_kernel(Figure().subplots(), np.eye(3))
        >>> ax.get_images()[0].get_array().shape
        (3, 3)
    """
    if targets is not None and len(targets) != len(kernel):
        raise ValueError(
            f"there must be one target for each of the {len(kernel)} samples; got "
            f"{len(targets)}."
        )
    norms = np.sqrt(np.clip(np.diagonal(kernel), 0, None))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = kernel * scale[:, None] * scale
    if targets is not None:
        order = np.argsort(targets, kind="stable")
        cosines = cosines[np.ix_(order, order)]
    lowest = min(float(np.quantile(cosines, 0.005)), 0.999)
    image = ax.imshow(cosines, cmap="viridis", vmin=lowest, vmax=1, aspect="equal")
    figure = ax.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=ax, label="cosine, K / √(K_ii K_jj)", shrink=0.85)
    ax.spines[:].set_visible(False)
    if targets is None:
        ax.set(xlabel="sample, in the order of the data", yticks=[])
        return ax
    found, counts = np.unique(targets, return_counts=True)
    ends = np.cumsum(counts)
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color="white", lw=0.5, alpha=0.6)
        ax.axvline(end - 0.5, color="white", lw=0.5, alpha=0.6)
    ax.set(xticks=[], yticks=[], xlabel="sample, ordered by its class")
    if len(found) <= _MOST_NAMES:
        names = [str(class_names[c] if class_names else c) for c in found]
        ax.set_yticks(ends - counts / 2 - 0.5, names, parse_math=False)
        ax.tick_params(axis="y", length=0)
    return ax


def plot_shares(ax: Axes, shares: Mapping[str, float]) -> Axes:
    """Show what share of a kernel's trace each parameter has, in order, as bars.

    Args:
        ax: Where to draw.
        shares: By name.

    Returns:
        `ax`.

    Example:
        >>> ax = plot_shares(Figure().subplots(), {"weight": 0.75, "bias": 0.25})
        >>> len(ax.patches)
        2
    """
    places = np.arange(len(shares))
    percent = [100 * share for share in shares.values()]
    ax.barh(places, percent, color=PALETTE[0], height=0.75)
    ax.set_yticks(places, list(shares), parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    for place, value in enumerate(percent):
        ax.text(value, place, f" {value:.2g} %", va="center", color=INK, fontsize=8)
    ax.set(xlabel="share of the trace, %", xlim=(0, 1.15 * max(percent, default=1.0)))
    return ax


def kernel_figure(
    kernel: Float[np.ndarray, "sample sample"],
    *,
    title: str,
    targets: Integer[np.ndarray, " sample"] | None = None,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw a kernel as a picture of cosines; see `plot_kernel`.

    Args:
        kernel: The kernel of some samples.
        title: Of the figure.
        targets: Class of each sample.
        class_names: By class.

    Returns:
        The figure, of one panel.
    """
    with new_figure(title, width=7.6, height=6.4) as figure:
        figure.set_layout_engine("compressed")  # room for labels beside a square
        ax = figure.subplots()
        plot_kernel(ax, kernel, targets=targets, class_names=class_names)
    return figure


def share_figure(shares: Mapping[str, float], *, title: str) -> Figure:
    """Draw every parameter's share of a kernel's trace; see `plot_shares`.

    Args:
        shares: By name.
        title: Of the figure.

    Returns:
        The figure, of one panel.
    """
    with new_figure(title, width=7.6, height=1.4 + 0.24 * len(shares)) as figure:
        plot_shares(figure.subplots(), shares)
    return figure
