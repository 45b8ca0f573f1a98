"""Densities, diagonals and tails on axes."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from plot_cases import ROUNDING, axes, curve, fits_of, heavy, histogram_of, legend_of

import eigenscope as es
from eigenscope.analysis import fit_power_law
from eigenscope.plots import plot_density, plot_diagonal, plot_tail
from eigenscope.plots.curvature import plot_log_density, plot_moduli
from eigenscope.plots.kernels import kernel_figure
from eigenscope.spectra import Spectrum


def test_a_smooth_density_over_decades_integrates_to_the_share_that_is_shown():
    ax = plot_density(axes(), {"lenet": heavy(100, rank=75)})
    x, heights = curve(ax, "lenet")
    # Midpoint sums over 1024 cells are exact up to the cells' own rounding.
    np.testing.assert_allclose(
        heights.sum() * np.diff(np.log10(x)).mean(), 0.75, rtol=1e-6
    )
    assert legend_of(ax)[0] == "lenet (25 % zero or rounding)"


def test_a_histogram_on_the_linear_axis_shows_all_weight():
    ax = plot_density(axes(), {"a": heavy(rank=90)}, scale="linear", kind="histogram")
    heights, edges = histogram_of(ax)
    np.testing.assert_allclose(heights @ np.diff(edges), 1.0, rtol=ROUNDING)
    assert ax.get_yscale() == "log"
    assert legend_of(ax) == ["a"]


def test_large_numbers_on_a_linear_axis_have_their_power_at_the_tick():
    """One power for the whole axis would run into the label of the axis."""
    large = Spectrum.from_eigenvalues(1e9 * heavy().values)
    ax = plot_density(axes(), {"a": large}, scale="linear")
    FigureCanvasAgg(ax.get_figure(root=True)).draw()
    assert ax.xaxis.get_offset_text().get_text() == ""
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert all(text == "0" or r"\cdot 10^{" in text for text in labels)


def test_overlaid_spectra_have_their_own_colors_and_the_axes_have_units():
    spectra = {f"run {seed}": heavy(seed=seed) for seed in range(3)}
    ax = plot_density(axes(), spectra)
    colors = {to_hex(line.get_color()) for line in ax.lines}
    assert len(colors) == 3
    assert legend_of(ax) == list(spectra)
    assert "(output/input)²" in ax.get_xlabel()
    assert ax.get_ylabel() == "density per decade"
    assert ax.get_xscale() == "log"


def test_negative_eigenvalues_that_a_log_axis_cannot_show_are_not_called_rounding():
    ax = plot_density(axes(), {"h": Spectrum.from_eigenvalues([-3.0, 1.0, 2.0, 4.0])})
    assert legend_of(ax) == ["h (25 % not above the noise floor)"]


@pytest.mark.parametrize(("floor", "seen"), [(0.9, True), (1e-9, False)])
def test_the_noise_floor_is_marked_where_it_lies_in_view(floor, seen):
    values = np.geomspace(1.0, 30.0, 20)
    spectrum = Spectrum.from_eigenvalues(values, noise_floor=floor)
    ax = plot_density(axes(), {"a": spectrum})
    places = [np.asarray(line.get_xdata()).tolist() for line in ax.lines]
    assert ([floor, floor] in places) == seen
    assert ("noise floor" in legend_of(ax)) == seen


def test_a_floor_that_is_next_to_zero_is_not_marked_on_a_linear_axis():
    spectrum = Spectrum.from_eigenvalues([0.0, 1.0, 9.0], noise_floor=1e-6)
    ax = plot_density(axes(), {"a": spectrum}, scale="linear")
    assert "noise floor" not in legend_of(ax)


def test_spectra_with_nothing_to_show_are_named_beside_the_others():
    spectra = {"dead": Spectrum.from_eigenvalues([0.0, 0.0]), "alive": heavy()}
    ax = plot_density(axes(), spectra)
    assert legend_of(ax) == ["dead (none above the noise floor)", "alive"]


def test_the_curves_stay_below_the_legend():
    ax = plot_density(axes(), {"a": heavy(), "b": heavy(seed=1)})
    top = max(np.asarray(line.get_ydata()).max() for line in ax.lines)
    assert top < 0.85 * ax.get_ylim()[1]


def test_many_runs_have_their_legend_below_the_axes():
    spectra = {f"run {seed}": heavy(60, seed=seed) for seed in range(7)}
    figure = Figure()
    ax = plot_density(figure.subplots(), spectra)
    figure.draw_without_rendering()
    legend = ax.get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    assert box.y1 < ax.get_window_extent().y0
    assert box.x1 <= figure.bbox.x1
    names = [text.get_window_extent() for text in legend.get_texts()]
    assert names[0].y0 == pytest.approx(names[4].y0)  # two columns of short names


@pytest.mark.message
@pytest.mark.parametrize("draw", [plot_density, lambda ax, _: plot_tail(ax, {}, {})])
def test_no_spectrum_is_refused(draw):
    with pytest.raises(ValueError, match="spectra must hold at least one spectrum"):
        draw(axes(), {})


def test_the_diagonal_is_a_histogram_with_the_tail_from_its_start():
    values = np.random.default_rng(0).pareto(2.0, 400) + 1.0
    fit = fit_power_law(values)
    ax = plot_diagonal(axes(), values, fit=fit)
    heights, edges = histogram_of(ax)
    np.testing.assert_allclose(heights @ np.diff(np.log10(edges)), 1.0, rtol=ROUNDING)
    x, law = curve(ax, "scan")
    np.testing.assert_allclose(x[0], fit.xmin, rtol=ROUNDING)
    # Its integral over decades is the tail's share up to the largest value.
    share = fit.num_tail / len(values) * fit.cdf(values.max())
    area = np.trapezoid(law, np.log10(x))
    np.testing.assert_allclose(area, share, rtol=1e-3)  # trapezoids of 200 points
    assert "squared norm" in ax.get_xlabel()


def test_a_law_far_above_the_data_is_cut_off():
    values = np.random.default_rng(0).pareto(2.0, 400) + 1.0
    fit = fit_power_law(values)
    ax = plot_density(axes(), {"a": heavy()})
    tall = plot_diagonal(axes(), np.geomspace(1e-9, values.max(), 400), fit=fit)
    assert tall.get_ylim()[1] < 0.5
    assert legend_of(ax) == ["a"]


def test_the_tail_shows_the_share_of_all_eigenvalues_at_or_above_each():
    spectrum = Spectrum.from_eigenvalues([1.0, 2.0, 2.0, 5.0], dimension=8)
    ax = plot_tail(axes(), {"a": spectrum}, {})
    x, share = curve(ax, "a")
    np.testing.assert_allclose(x, [1.0, 2.0, 5.0])
    np.testing.assert_allclose(share, [4 / 8, 3 / 8, 1 / 8])
    assert legend_of(ax) == ["a (no power law)"]


def test_the_laws_start_on_the_data_and_say_exponent_error_and_distance():
    spectrum = heavy(300, rank=200)
    fits = fits_of(spectrum)
    ax = plot_tail(axes(), {"a": spectrum}, {"a": fits})
    values = spectrum.values
    for fit, start in ((fits["scan"], "scan"), (fits["peak"], "peak")):
        x, share = curve(ax, start)
        assert share[0] == pytest.approx(np.sum(values >= fit.xmin * 0.999999) / 300)
        np.testing.assert_allclose([x[0], x[-1]], [fit.xmin, values[-1]])
        slope = np.diff(np.log(share)) / np.diff(np.log(x))
        np.testing.assert_allclose(slope, 1 - fit.alpha, rtol=1e-6)
        (text,) = [text for text in legend_of(ax) if text.startswith(start)]
        assert f"α = {fit.alpha:.2f} ± {fit.alpha_stderr:.2f}" in text
        assert f"KS = {fit.ks_distance:.3f}" in text
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_a_law_with_an_end_leaves_out_what_lies_beyond():
    spectrum = Spectrum.from_eigenvalues(np.geomspace(1.0, 100.0, 101))
    fit = fit_power_law(spectrum, xmin=1.0, xmax=50.0)
    ax = plot_tail(axes(), {"a": spectrum}, {"a": {"given": fit}})
    x, share = curve(ax, "given xmin")
    assert share[0] == pytest.approx(1.0)
    expected = (fit.num_tail * fit.ccdf(x[-1]) + fit.num_above_xmax) / 101
    assert share[-1] == pytest.approx(float(expected))
    assert x[-1] <= 50.0


def test_of_very_many_values_the_largest_are_all_drawn():
    values = np.random.default_rng(0).pareto(2.0, 20_000) + 1.0
    ax = plot_tail(axes(), {"a": Spectrum.from_eigenvalues(values)}, {})
    x, share = curve(ax, "a")
    assert len(x) <= 2000
    np.testing.assert_allclose(x[-100:], np.sort(values)[-100:])
    np.testing.assert_allclose(share[-1], 1 / 20_000)


def test_overlaid_tails_have_one_legend_entry_each_in_their_own_color():
    spectra = {"true": heavy(), "random": heavy(seed=1), "dead": heavy(seed=2)}
    fits = {name: {"scan": fits_of(spectra[name])["scan"]} for name in spectra}
    del fits["dead"]
    ax = plot_tail(axes(), spectra, fits)
    texts = legend_of(ax)
    assert [text.split(":")[0] for text in texts] == [
        "true",
        "random",
        "dead (no power law)",
    ]
    colors = [to_hex(line.get_color()) for line in ax.lines]
    assert colors[0] == colors[1] != colors[2] == colors[3] != colors[4]


def test_the_laws_end_above_the_legend():
    spectrum = heavy()
    figure = Figure()
    fits = {"a": fits_of(spectrum)}
    ax = plot_tail(figure.subplots(), {"a": spectrum}, fits)
    figure.draw_without_rendering()
    legend = ax.get_legend()
    assert legend is not None
    least = min(np.asarray(line.get_ydata()).min() for line in ax.lines)
    assert ax.transData.transform((1.0, least))[1] > legend.get_window_extent().y1


def test_a_law_far_below_the_data_is_cut_off():
    values = np.append(1 + np.random.default_rng(0).exponential(0.01, 500), 1e6)
    spectrum = Spectrum.from_eigenvalues(values)
    fit = fit_power_law(spectrum, xmin=1.0)
    ax = plot_tail(axes(), {"a": spectrum}, {"a": {"given": fit}})
    assert fit.ccdf(1e6) < 1e-12
    assert ax.get_ylim()[0] > 1e-6


def test_a_density_of_an_estimate_is_shaded_by_its_band():
    diagonal = torch.linspace(-1.0, 2.0, 300, dtype=torch.float64).diag()
    for method, count in (("exact", 0), ("slq", 1)):
        options: Any = {"method": method}
        if method == "slq":
            options |= {"max_probes": 4, "tolerance": 0.5}
        found = es.spectrum(diagonal, **options)
        ax = Figure().subplots()
        plot_log_density(ax, {"λ": found}, bandwidth=0.05, colors=["C0"])
        assert len(ax.collections) == count


def test_long_class_names_stay_inside_the_picture_of_a_kernel():
    names = ["T-shirt/top", *"abcdefgh", "Ankle boot"]
    targets = np.repeat(np.arange(10), 12)
    options: dict[str, Any] = {"targets": targets, "class_names": names}
    figure = kernel_figure(np.eye(120) + 0.1, title="Kernel", **options)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (ax, _) = figure.axes
    labels = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert min(box.x0 for box in labels) >= 0


@pytest.mark.parametrize("values", [np.linspace(0.07, 0.12, 9), np.geomspace(1, 1e-7)])
def test_a_legend_covers_no_eigenvalue_by_rank_and_no_noise_floor(values):
    ax = axes()
    spectrum = es.spectrum(np.diag(np.concatenate([values, np.zeros(3)])))
    plot_moduli(ax, spectrum, quantity="λ")
    FigureCanvasAgg(ax.get_figure(root=True)).draw()
    legend = ax.get_legend()
    assert legend is not None
    covered = legend.get_window_extent()
    points = [line.get_transform().transform(line.get_xydata()) for line in ax.lines]
    assert not any(covered.contains(x, y) for x, y in np.concatenate(points))
    floor = points[-1][0, 1]
    assert not covered.y0 <= floor <= covered.y1
