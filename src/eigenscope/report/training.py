"""Figures of a training, and its line in a table, from what the run has saved."""

from collections.abc import Sequence
from pathlib import Path

from eigenscope.plots import save_figure
from eigenscope.plots.training import curves_figure
from eigenscope.store import Run
from eigenscope.training import History

TRAINING_HEADER = (
    "experiment",
    "model",
    "data",
    "epochs",
    "loss, train",
    "loss, test",
    "accuracy, train",
    "accuracy, test",
    "recorded",
    "s training",
    "s recording",
)
_STAGE = "training"


def training_row(run: Run) -> Sequence[object]:
    """Return the numbers of a run, as `TRAINING_HEADER` names them.

    Args:
        run: A run of the verb "train".

    Returns:
        The row.
    """
    timing = dict(run.manifest.timing)
    history = History.load(run)
    measured = [name for name in timing if name != _STAGE]
    return (
        run.arguments.get("experiment"),
        run.arguments.get("model"),
        run.arguments.get("data"),
        run.results.get("epochs"),
        run.results.get("loss_train"),
        run.results.get("loss_test"),
        run.results.get("accuracy_train"),
        run.results.get("accuracy_test"),
        len(history.names),
        timing.get(_STAGE),
        sum(timing[name] for name in measured),
    )


def draw_training(run: Run) -> Path:
    """Draw loss and accuracy into a run's `figures`.

    Args:
        run: A run with recordings.

    Returns:
        The figure's path.
    """
    path = run.figures_path("curves.png")
    figure = curves_figure(History.load(run), title=str(run.arguments["experiment"]))
    save_figure(figure, path)
    return path
