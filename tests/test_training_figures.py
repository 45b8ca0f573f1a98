"""Figures of several trainings side by side: what their axes show."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import eigenscope as es
from eigenscope.plots.families import FamilyMember, family_figure
from eigenscope.plots.trainings import Points, evolution_figure, panels_figure


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
    points = Points([0.0, 1.0], [0.05, 0.9])
    names = ("accuracy, train", "trace")
    figure = panels_figure(
        {name: {"run": points} for name in names},
        axes=dict.fromkeys(names, "epoch"),
        title="t",
    )
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "log"]


def test_bars_are_standard_errors():
    lines = {
        "sure": Points([0.0, 1.0], [3.0, 2.0]),
        "estimated": Points([0.0, 1.0], [3.0, 2.5], [0.5, 0.25]),
    }
    figure = panels_figure({"trace": lines}, axes={"trace": "epoch"}, title="t")
    (bars,) = figure.axes[0].collections
    ends = [(s[0, 1], s[1, 1]) for s in bars.get_segments()]  # type: ignore[attr-defined]
    assert ends == [(2.5, 3.5), (2.25, 2.75)]


@pytest.mark.parametrize("num_runs", [3, 14])
def test_the_legend_of_all_panels_is_below_them_and_names_every_run(num_runs):
    runs = [f"batch-{number:03d} $x$" for number in range(num_runs)]
    points = Points([0.0, 1.0], [0.5, 0.9])
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


DEPTHS = (22, 58, 112, 167, 275, 545, 1004)


def member(number: int, **changes: float | None) -> FamilyMember:
    numbers = {
        "accuracy": 0.7 + 0.002 * number,  # close to each other
        "alpha": 2.0 + 0.01 * (-1) ** number,
        "alpha_stderr": 0.3,
        "ks_distance": 0.05 + 0.001 * number,
        "lambda_max": 10.0 ** (2 + number % 3),
    }
    depth = DEPTHS[number]
    known = {**numbers, **changes}
    return FamilyMember(name=f"resnet{depth} $x$", depth=depth, **known)


@pytest.fixture(scope="module")
def family() -> Figure:
    figure = family_figure([member(n) for n in range(len(DEPTHS))], title="t")
    FigureCanvasAgg(figure).draw()
    return figure


def test_a_family_is_drawn_point_by_point_against_depth_and_accuracy(family):
    members = [member(number) for number in range(len(DEPTHS))]
    assert [ax.get_xscale() for ax in family.axes] == ["log"] * 3 + ["linear"] * 3
    assert [ax.get_yscale() for ax in family.axes] == ["linear", "linear", "log"] * 2
    for ax in family.axes:
        assert [text.get_text() for text in ax.texts] == [one.name for one in members]
        marks = [bars.lines[0] for bars in bars_of(ax)]
        places = [float(np.asarray(mark.get_xdata())[0]) for mark in marks]
        by_depth = ax.get_xscale() == "log"
        assert places == [one.depth if by_depth else one.accuracy for one in members]
    for bars in bars_of(family.axes[0]):
        height = float(np.asarray(bars.lines[0].get_ydata())[0])
        (segment,) = bars.lines[2][0].get_segments()
        assert segment[:, 1].tolist() == pytest.approx([height - 0.3, height + 0.3])


def test_names_of_a_family_cover_neither_each_other_nor_points(family):
    for ax in (family.axes[1], family.axes[3]):
        boxes = [text.get_window_extent() for text in ax.texts]
        marks = [bars.lines[0].get_xydata() for bars in bars_of(ax)]
        points = ax.transData.transform(np.concatenate(marks))
        for number, box in enumerate(boxes):
            assert family.bbox.x0 <= box.x0 < box.x1 <= family.bbox.x1
            assert not any(box.overlaps(other) for other in boxes[:number])
            assert not any(box.contains(x, y) for x, y in points)


def bars_of(ax: Axes) -> list[Any]:
    return list(ax.containers)


def test_what_no_member_has_is_left_out():
    members = [member(n, accuracy=None, alpha=None, ks_distance=None) for n in (0, 1)]
    (ax,) = family_figure(members, title="t").axes
    assert ax.get_xlabel() == "depth (layers with a matrix)"
    assert ax.get_ylabel() == "λ_max of the Jacobian Gram"
    assert ax.get_xscale() == "linear"  # depths 22 and 58


@pytest.mark.message
def test_a_family_of_which_nothing_is_known_is_refused():
    nothing = dict.fromkeys(("alpha", "ks_distance", "lambda_max"))
    with pytest.raises(ValueError, match="got none in 1 members"):
        family_figure([member(0, **nothing)], title="t")
