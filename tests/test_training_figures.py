"""Figures of several trainings side by side: what their axes show."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import eigenscope as es
from eigenscope.plots.trainings import evolution_figure, panels_figure


def test_no_panel_hides_the_largest_eigenvalue_of_another_run():
    bulk = torch.logspace(0, 1, 40, dtype=torch.float64)
    narrow = es.spectrum(torch.diag(bulk))
    wide = es.spectrum(torch.diag(torch.cat([bulk, torch.tensor([5e3]).double()])))
    figure = evolution_figure({"wide": {0: wide}, "narrow": {0: narrow}}, title="t")
    for ax in figure.axes:
        low, high = ax.get_xlim()
        assert low < 1.0
        assert high > 5e3


def test_accuracies_are_drawn_on_a_linear_axis():
    points = ([0.0, 1.0], [0.05, 0.9])
    names = ("accuracy, train", "trace")
    figure = panels_figure(
        {name: {"run": points} for name in names},
        axes=dict.fromkeys(names, "epoch"),
        title="t",
    )
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "log"]


@pytest.mark.parametrize("num_runs", [3, 14])
def test_the_legend_of_all_panels_is_below_them_and_names_every_run(num_runs):
    runs = [f"batch-{number:03d} $x$" for number in range(num_runs)]
    points = ([0.0, 1.0], [0.5, 0.9])
    names = ("accuracy, train", "trace", "largest", "last")
    panels = {name: dict.fromkeys(runs, points) for name in names}
    del panels[names[0]][runs[-1]]  # nothing of it in the first panel
    figure = panels_figure(panels, axes=dict.fromkeys(panels, "epoch"), title="t")
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == runs
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box is not None
        assert not extent.overlaps(box)
        assert box.height > 150  # panels keep their height
