"""Eigenvectors: of 𝒥ᵀ𝒥 as inputs, of 𝒥𝒥ᵀ by sample and class."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes

from eigenscope.plots.style import INK, PALETTE, eigenvalue_title

_DIVERGING: Final = (
    "RdBu_r"  # red positive, blue negative; safe for color-blind readers
)
_MOST_NAMES: Final = 20
_MOST_PARTS: Final = 10
_FEW: Final = 50  # entries of a line that are marked
_MANY: Final = 5000  # marks that vector formats keep as an image


def plot_input_vectors(
    axes: Sequence[Axes],
    vectors: Float[np.ndarray, "dim eig"],
    *,
    sample_shape: Sequence[int],
    values: Float[np.ndarray, " eig"],
) -> Sequence[Axes]:
    """Show eigenvectors v of 𝒥ᵀ𝒥 in the shape of an input, titled with λ.

    One channel: red is positive, blue negative, white zero. Three channels: gray is
    zero, and each channel runs over ±max|v|. Any other shape: a line, or a strip with
    one row for each entry of the first axis. In layout "samples" a vector holds one
    such part per output; the first ten stand side by side. The sign of v is arbitrary.

    Args:
        axes: One for each vector.
        vectors: As columns, of length d or k·d, output-major.
        sample_shape: Shape of one sample, d entries in all.
        values: The eigenvalues λ.

    Returns:
        `axes`.

    Raises:
        ValueError: If there are not as many axes and values as vectors, or their
            length is no multiple of d.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = [Figure().subplots()]
        >>> vectors, values = np.ones((64, 1)) / 8, np.array([3.5])
        >>> _ = plot_input_vectors(axes, vectors, sample_shape=(8, 8), values=values)
        >>> axes[0].get_title()
        'λ₁ = 3.5'
    """
    size = math.prod(sample_shape)
    if not len(axes) == len(values) == vectors.shape[1]:
        raise ValueError(
            f"axes and values must be as many as the vectors, {vectors.shape[1]}; got "
            f"{len(axes)} axes and {len(values)} values."
        )
    if vectors.shape[0] % size:
        raise ValueError(
            f"vectors must have a multiple of {size} entries, as a sample of shape "
            f"{tuple(sample_shape)} has; got {vectors.shape[0]}. Eigenvectors of 𝒥𝒥ᵀ "
            "have one entry per sample: use plot_sample_vector."
        )
    for number, (ax, vector, value) in enumerate(
        zip(axes, vectors.T, values, strict=True), start=1
    ):
        parts = vector.reshape(-1, *sample_shape)
        _draw_parts(ax, np.asarray(parts[:_MOST_PARTS], dtype=np.float64))
        if len(parts) > _MOST_PARTS:
            ax.set_xlabel(f"outputs 0 to {_MOST_PARTS - 1} of {len(parts)}")
        ax.set_title(eigenvalue_title(number, value))
    return axes


def plot_sample_vector(
    ax: Axes,
    vector: Float[np.ndarray, " entry"],
    *,
    targets: Integer[np.ndarray, " target"] | None = None,
    class_names: Sequence[str] | None = None,
) -> Axes:
    """Show an eigenvector of 𝒥𝒥ᵀ, entry by entry, ordered and colored by class.

    Within a class the samples keep their order. In layout "outputs" each sample has
    one entry per output; they stay together. The sign of the vector is arbitrary.

    Args:
        ax: Where to draw.
        vector: n entries, or n·k, sample-major.
        targets: Class of each sample, or of each entry; None draws them in order.
        class_names: By class; None shows the numbers.

    Returns:
        `ax`.

    Raises:
        ValueError: If the length of the vector is no multiple of that of `targets`,
            or a class has no name.
    """
    entry = np.arange(len(vector))
    options: dict[str, Any] = {"ls": "none", "marker": ".", "ms": 3}
    options["rasterized"] = len(entry) > _MANY
    ax.axhline(0, color=INK, lw=0.8, zorder=0)
    ax.set(ylabel="entry of eigenvector", xlim=(-0.5, len(vector) - 0.5))
    if targets is None:
        ax.plot(entry, vector, color=PALETTE[0], **options)
        ax.set_xlabel("sample, in the order of the data")
        return ax
    classes = _class_of_entries(vector, targets, class_names)
    order = np.argsort(classes, kind="stable")
    found, counts = np.unique(classes, return_counts=True)
    ends = np.cumsum(counts)
    for number, (end, count) in enumerate(zip(ends, counts, strict=True)):
        run = slice(end - count, end)
        color = PALETTE[number % len(PALETTE)]
        ax.plot(entry[run], vector[order[run]], color=color, **options)
    for end in ends[:-1]:
        ax.axvline(end - 0.5, color=INK, lw=0.6, alpha=0.4, zorder=0)
    _name_classes(ax, found, ends - counts / 2 - 0.5, class_names)
    return ax


def _draw_parts(ax: Axes, parts: np.ndarray) -> None:
    """Draw parts of one vector side by side, on one scale of colors."""
    top = float(np.abs(parts).max()) or 1.0
    shape = parts.shape[1:]
    if len(shape) == 1:
        ax.plot(parts.T, lw=1.0, marker="." if shape[0] <= _FEW else "")
        ax.axhline(0, color=INK, lw=0.8, zorder=0)
        ax.set(xlabel="entry of the input", ylim=(-1.1 * top, 1.1 * top))
        return
    is_color = len(shape) == 3 and shape[0] == 3
    if is_color:
        images = 0.5 + parts.transpose(0, 2, 3, 1) / (2 * top)
    elif len(shape) == 2 or (len(shape) == 3 and shape[0] == 1):
        images = parts.reshape(len(parts), *shape[-2:])
    else:
        images = parts.reshape(len(parts), shape[0], -1)
    gap = max(images.shape[2] // 16, 1) if len(parts) > 1 else 0
    blank = 1.0 if is_color else np.nan
    padding = [(0, 0), (0, 0), (0, gap), *([(0, 0)] if is_color else [])]
    padded = np.pad(images, padding, constant_values=blank)
    strip = np.concatenate(list(padded), axis=1)
    aspect = "equal" if is_color or len(shape) == 2 or shape[0] == 1 else "auto"
    ax.imshow(
        strip, cmap=_DIVERGING, vmin=-top, vmax=top, aspect=aspect, interpolation="none"
    )
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])
    if len(parts) > 1:
        width = images.shape[2]
        middles = np.arange(len(parts)) * (width + gap) + (width - 1) / 2
        ax.set_xticks(middles, [str(output) for output in range(len(parts))])
        ax.tick_params(length=0)


def _class_of_entries(
    vector: np.ndarray, targets: np.ndarray, class_names: Sequence[str] | None
) -> np.ndarray:
    if len(targets) == 0 or len(vector) % len(targets):
        raise ValueError(
            f"the vector must have a multiple of len(targets) = {len(targets)} "
            f"entries; got {len(vector)}. Pass the targets of the same samples."
        )
    if class_names is not None and (
        targets.min() < 0 or targets.max() >= len(class_names)
    ):
        raise ValueError(
            f"class_names must name every class from {targets.min()} to "
            f"{targets.max()}; got {len(class_names)} names."
        )
    return np.repeat(targets, len(vector) // len(targets))


def _name_classes(
    ax: Axes,
    classes: np.ndarray,
    middles: np.ndarray,
    class_names: Sequence[str] | None,
) -> None:
    if len(classes) > _MOST_NAMES:
        ax.set_xticks([])
        ax.set_xlabel(f"sample, ordered by its class ({len(classes)} classes)")
        return
    names = [str(class_names[c] if class_names else c) for c in classes]
    ax.set_xticks(middles, names, parse_math=False)
    if sum(len(name) + 2 for name in names) > 90:
        ax.tick_params(axis="x", rotation=30)
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("sample, ordered by its class")
