"""Figures of several trainings side by side: what their axes show."""

import torch

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
