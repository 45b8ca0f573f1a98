"""Loss and accuracy through training."""

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eigenscope.plots.style import PALETTE, new_figure, write_legend
from eigenscope.training import History

SPLITS: Final = ("train", "test")


def curves_figure(history: History, *, title: str) -> Figure:
    """Draw loss and accuracy on training and test images by epoch.

    Args:
        history: Of a training.
        title: Of the figure.

    Returns:
        The figure, of two panels.
    """
    with new_figure(title, width=9.5, height=3.8) as figure:
        loss, accuracy = figure.subplots(1, 2)
        for ax, name, label in (
            (loss, "loss", "mean cross-entropy"),
            (accuracy, "accuracy", "share of right answers"),
        ):
            for split, color in zip(SPLITS, PALETTE, strict=False):
                epochs, values = history.series(f"{name}/{split}")
                ax.plot(epochs, values, color=color, marker=".", ms=3, label=split)
            ax.set(xlabel="epoch", ylabel=label)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            write_legend(ax, loc="upper right" if name == "loss" else "lower left")
        _set_scale(loss, history)
        loss.set_title("Loss")
        accuracy.set(title="Accuracy", ylim=(0, 1.03))
    return figure


def _set_scale(ax: Axes, history: History) -> None:
    """Take a log axis where a loss falls by more than a decade."""
    values = history.series("loss/train")[1]
    if values.min() > 0 and values.max() > 10 * values.min():
        ax.set_yscale("log")
