import itertools
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from eigenscope.analysis import PowerLaw, fit_power_law
from eigenscope.plots import (
    comparison_figure,
    demo_figure,
    diagonal_figure,
    eigenvector_figure,
    plot_density,
    plot_diagonal,
    plot_input_vectors,
    plot_sample_vector,
    plot_tail,
    render_figure,
    save_figure,
    spectrum_figure,
)
from eigenscope.spectra import Eigenpairs, Spectrum

# The lines show what the results hold, on axes of doubles.
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


# --- densities -----------------------------------------------------------------


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
    assert legend.get_window_extent().y1 < ax.get_window_extent().y0


@pytest.mark.message
@pytest.mark.parametrize("draw", [plot_density, lambda ax, _: plot_tail(ax, {}, {})])
def test_no_spectrum_is_refused(draw):
    with pytest.raises(ValueError, match="spectra must hold at least one spectrum"):
        draw(axes(), {})


# --- the diagonal --------------------------------------------------------------


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


# --- tails ---------------------------------------------------------------------


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


# --- eigenvectors --------------------------------------------------------------


def test_one_channel_is_shown_in_diverging_colors_centered_on_zero():
    vectors = np.stack([np.arange(6.0) - 2.0, np.zeros(6)], axis=1)
    both = list(Figure().subplots(1, 2))
    shown = plot_input_vectors(
        both, vectors, sample_shape=(1, 2, 3), values=np.array([3.5, 0.25])
    )
    np.testing.assert_allclose(image_of(shown[0]), [[-2, -1, 0], [1, 2, 3]])
    assert shown[0].images[0].get_clim() == (-3.0, 3.0)
    assert [ax.get_title() for ax in shown] == ["λ₁ = 3.5", "λ₂ = 0.25"]


def test_three_channels_are_scaled_symmetrically_so_that_zero_is_gray():
    vector = np.array([[-1.0, 0.0, 0.5, 0.0, 0.0, 0.0]]).T
    (ax,) = plot_input_vectors(
        [axes()], vector, sample_shape=(3, 1, 2), values=np.ones(1)
    )
    colors = image_of(ax)
    np.testing.assert_allclose(colors[0, 0], [0.0, 0.75, 0.5])
    np.testing.assert_allclose(colors[0, 1], [0.5, 0.5, 0.5])


def test_a_flat_input_is_a_line_and_other_shapes_are_a_strip():
    vector = np.arange(16.0).reshape(-1, 1)
    (line,) = plot_input_vectors(
        [axes()], vector, sample_shape=(16,), values=np.ones(1)
    )
    np.testing.assert_allclose(np.asarray(line.lines[0].get_ydata()), vector[:, 0])
    (strip,) = plot_input_vectors(
        [axes()], vector, sample_shape=(4, 2, 2), values=np.ones(1)
    )
    assert image_of(strip).shape == (4, 4)


def test_parts_of_a_vector_stand_side_by_side_one_for_each_output():
    vector = np.arange(24.0).reshape(-1, 1)
    (ax,) = plot_input_vectors([axes()], vector, sample_shape=(2, 4), values=np.ones(1))
    shown = image_of(ax)
    np.testing.assert_allclose(shown[:, 5:9], vector[8:16, 0].reshape(2, 4))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]


def test_of_many_outputs_the_first_ten_are_shown_and_the_axis_says_so():
    vector = np.ones((48, 1))
    (ax,) = plot_input_vectors(
        [axes()], vector, sample_shape=(1, 2, 2), values=np.ones(1)
    )
    assert len(ax.get_xticks()) == 10
    assert ax.get_xlabel() == "outputs 0 to 9 of 12"


@pytest.mark.message
def test_input_vectors_of_another_length_or_number_are_refused():
    ones = np.ones(1)
    with pytest.raises(ValueError, match=r"multiple of 4 entries.*\(2, 2\).* got 6"):
        plot_input_vectors([axes()], np.ones((6, 1)), sample_shape=(2, 2), values=ones)
    with pytest.raises(ValueError, match="as many as the vectors, 2; got 1 axes"):
        plot_input_vectors([axes()], np.ones((4, 2)), sample_shape=(2, 2), values=ones)


def test_samples_are_ordered_by_class_with_boundaries_and_names():
    vector = np.array([0.5, -0.5, 0.25, 1.0])
    ax = plot_sample_vector(
        axes(), vector, targets=np.array([2, 0, 2, 0]), class_names=["a", "b", "c"]
    )
    drawn = [
        np.asarray(x.get_ydata()).tolist() for x in ax.lines if x.get_marker() == "."
    ]
    assert drawn == [[-0.5, 1.0], [0.5, 0.25]]
    assert [1.5, 1.5] in [np.asarray(x.get_xdata()).tolist() for x in ax.lines]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "c"]
    np.testing.assert_allclose(ax.get_xticks(), [0.5, 2.5])


def test_entries_of_one_sample_stay_together_in_layout_outputs():
    vector = np.arange(6.0)
    ax = plot_sample_vector(axes(), vector, targets=np.array([1, 0, 1]))
    drawn = [
        np.asarray(x.get_ydata()).tolist() for x in ax.lines if x.get_marker() == "."
    ]
    assert drawn == [[2.0, 3.0], [0.0, 1.0, 4.0, 5.0]]


def test_without_targets_the_samples_keep_the_order_of_the_data():
    vector = np.arange(4.0)
    ax = plot_sample_vector(axes(), vector)
    assert ax.get_xlabel() == "sample, in the order of the data"
    np.testing.assert_allclose(np.asarray(ax.lines[1].get_ydata()), vector)


def test_a_hundred_classes_are_counted_instead_of_named():
    ax = plot_sample_vector(axes(), np.ones(200), targets=np.arange(200) % 100)
    assert ax.get_xlabel() == "sample, ordered by its class (100 classes)"
    assert len(ax.get_xticks()) == 0


@pytest.mark.message
def test_targets_that_do_not_fit_the_vector_are_refused():
    with pytest.raises(ValueError, match=r"multiple of len\(targets\) = 3.*got 4"):
        plot_sample_vector(axes(), np.ones(4), targets=np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="every class from 0 to 2; got 2 names"):
        plot_sample_vector(
            axes(), np.ones(3), targets=np.array([0, 1, 2]), class_names=["a", "b"]
        )


# --- whole figures -------------------------------------------------------------


def panels_of(figure: Figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes]


def require_readable(figure: Figure, title: str) -> None:
    """The figure has its title, and no text that is seen is smaller than 9 points."""
    figure.draw_without_rendering()
    assert figure.get_suptitle() == title
    texts = [x for x in figure.findobj(Text) if x.get_text() and x.get_visible()]
    assert min(float(text.get_fontsize()) for text in texts) >= 9


def test_the_figure_of_a_spectrum_has_density_on_both_axes_and_the_tail():
    spectrum = heavy()
    figure = spectrum_figure(spectrum, fits_of(spectrum), title="𝒥𝒥ᵀ of logits")
    require_readable(figure, "𝒥𝒥ᵀ of logits")
    assert panels_of(figure) == ["Spectrum", "Logarithmic axis", "Tail"]
    assert [ax.get_xscale() for ax in figure.axes] == ["linear", "log", "log"]
    tail = legend_of(figure.axes[2])
    assert [text.split(":")[0] for text in tail] == [
        "eigenvalues",
        "scan",
        "peak",
    ]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)


def test_the_figure_of_values_that_are_no_jacobian_can_name_them():
    spectrum = heavy()
    figure = spectrum_figure(spectrum, {}, title="file", quantity="value")
    assert [ax.get_xlabel() for ax in figure.axes] == ["value"] * 3


def test_the_figure_of_the_diagonal_has_histogram_and_tail():
    values = np.random.default_rng(0).pareto(2.0, 300) + 1.0
    fits = {"scan": fit_power_law(values), "peak": fit_power_law(values, xmin="peak")}
    figure = diagonal_figure(values, fits, title="diag")
    require_readable(figure, "diag")
    assert panels_of(figure) == ["Histogram", "Tail"]
    assert len(legend_of(figure.axes[1])) == 3
    assert legend_of(diagonal_figure(values, title="diag").axes[1]) == [
        "samples (no power law)"
    ]


def test_the_comparison_overlays_runs_with_an_exponent_for_each():
    spectra = {f"run {seed}": heavy(80, seed=seed) for seed in range(8)}
    fits = {name: fits_of(spectrum) for name, spectrum in spectra.items()}
    figure = comparison_figure(spectra, fits, title="eight runs")
    require_readable(figure, "eight runs")
    density, tail = (legend_of(ax) for ax in figure.axes)
    assert density[:8] == list(spectra)
    assert len(tail) == 8
    assert all(
        f"α = {fits[name]['scan'].alpha:.2f}" in text
        for name, text in zip(spectra, tail, strict=True)
    )


def test_the_demo_has_a_row_for_each_output():
    spectra = {
        output: {labels: heavy(seed=row + col) for col, labels in enumerate(("t", "r"))}
        for row, output in enumerate(("logits", "probabilities"))
    }
    fits = {
        o: {k: fits_of(s) for k, s in named.items()} for o, named in spectra.items()
    }
    del fits["probabilities"]["r"]
    figure = demo_figure(spectra, fits, title="true and random labels")
    require_readable(figure, "true and random labels")
    assert panels_of(figure) == [
        f"{output}: {panel}"
        for output, panel in itertools.product(spectra, ("density", "tail"))
    ]
    assert legend_of(figure.axes[3])[1] == "r (no power law)"


@pytest.mark.message
def test_a_demo_of_nothing_is_refused():
    with pytest.raises(ValueError, match="spectra must hold at least one output"):
        demo_figure({}, {}, title="none")


def test_eigenvectors_of_the_columns_are_shown_as_inputs():
    pairs = pairs_of(64, 12)
    figure = eigenvector_figure(
        pairs, side="columns", sample_shape=(1, 8, 8), title="top"
    )
    require_readable(figure, "top (first 10 of 12)")
    assert len(figure.axes) == 10
    np.testing.assert_allclose(
        image_of(figure.axes[1]),
        pairs.vectors[:, 1].reshape(8, 8),
        rtol=1e-6,  # float32 vectors
    )


@pytest.mark.parametrize(
    ("dim", "shape"), [(640, (1, 8, 8)), (1, (1,)), (40, (40,)), (96, (3, 16, 2))]
)
def test_eigenvectors_of_any_input_shape_can_be_drawn(dim, shape):
    figure = eigenvector_figure(
        pairs_of(dim, 1), side="columns", sample_shape=shape, title="any"
    )
    require_readable(figure, "any")


def test_eigenvectors_of_the_rows_are_shown_by_sample():
    figure = eigenvector_figure(
        pairs_of(30, 6),
        side="rows",
        sample_shape=(1, 8, 8),
        targets=np.arange(30) % 3,
        class_names=["cat", "dog", "hen"],
        title="top",
    )
    require_readable(figure, "top (first 5 of 6)")
    assert panels_of(figure)[0] == "λ₁ = 6"
    labels = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert labels == ["cat", "dog", "hen"]


@pytest.mark.message
def test_an_eigenvector_figure_needs_vectors_and_a_known_side():
    with pytest.raises(ValueError, match="side must be one of 'rows', 'columns'"):
        eigenvector_figure(pairs_of(4, 1), side="both", sample_shape=(4,), title="x")  # pyright: ignore[reportArgumentType]
    empty = Eigenpairs(
        values=torch.zeros(0, dtype=torch.float64),
        vectors=torch.zeros(4, 0),
        residuals=torch.zeros(0, dtype=torch.float64),
        converged=torch.zeros(0, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match="at least one eigenvector"):
        eigenvector_figure(empty, side="rows", sample_shape=(4,), title="x")


DEGENERATE = {
    "all zero": Spectrum.from_eigenvalues([0.0], dimension=7),
    "one positive": Spectrum.from_eigenvalues([3.0], dimension=7),
    "a single value": Spectrum.from_eigenvalues([1.0]),
    "all equal": Spectrum.from_eigenvalues(np.full(5, 2.0)),
    "two values": Spectrum.from_eigenvalues([1e-3, 1e3]),
    "all below the floor": Spectrum.from_eigenvalues([1e-9, 2e-9], noise_floor=1e-8),
    "tiny": Spectrum.from_eigenvalues([1e-240, 2e-240, 5e-239]),
    "huge": Spectrum.from_eigenvalues([1e230, 2e240, 5e240]),
    "nearly equal": Spectrum.from_eigenvalues([1.0, 1.0 + 1e-13]),
    "negative rounding": Spectrum.from_eigenvalues([-1e-17, 0.0, 1.0, 2.0]),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_spectra_are_drawn_without_a_warning(name):
    spectrum = DEGENERATE[name]
    require_readable(spectrum_figure(spectrum, {}, title=name), name)
    spectra = {"degenerate": spectrum, "healthy": heavy(40)}
    require_readable(comparison_figure(spectra, {}, title=name), name)


def test_a_spectrum_of_zeros_says_that_there_is_nothing_to_show():
    figure = spectrum_figure(DEGENERATE["all zero"], {}, title="zeros")
    notes = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert notes == [[], *[["no eigenvalue above the noise floor"]] * 2]


def test_a_diagonal_of_zeros_can_be_drawn():
    require_readable(diagonal_figure(np.zeros(5), title="dead network"), "dead network")


def test_names_are_taken_literally():
    name = "$\\nope$ run_{1}"  # no formula: drawn as one it raises
    figure = comparison_figure({name: heavy(40)}, {}, title="run")
    require_readable(figure, "run")
    require_readable(comparison_figure({"run": heavy(40)}, {}, title=name), name)
    assert legend_of(figure.axes[0]) == [name]


def test_no_setting_of_the_user_is_changed():
    with mpl.rc_context({"font.size": 17.0, "svg.hashsalt": "mine"}):
        before = dict(mpl.rcParams)
        render_figure(comparison_figure({"a": heavy(40)}, {}, title="a"))
        assert dict(mpl.rcParams) == before


# --- files ---------------------------------------------------------------------


def small_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG\r\n"), (".PDF", b"%PDF"), (".svg", b"<?xml")],
)
def test_the_suffix_of_a_file_says_its_format(tmp_path: Path, suffix, start):
    path = tmp_path / f"figure{suffix}"
    save_figure(small_figure(), path)
    assert path.read_bytes().startswith(start)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_png_has_150_dots_per_inch():
    content = render_figure(small_figure())
    size = [int.from_bytes(content[place : place + 4], "big") for place in (16, 20)]
    assert size == [300, 150]


@pytest.mark.parametrize("image_format", ["png", "pdf", "svg"])
def test_the_same_figure_gives_the_same_bytes(image_format: Any):
    first, second = (
        render_figure(small_figure(), image_format=image_format) for _ in range(2)
    )
    assert first == second
    assert not re.search(rb"CreationDate|<dc:date>", first)


@pytest.mark.message
def test_a_file_of_another_format_is_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"must end in .png, .pdf or .svg; got 'a.gif'"
    ):
        save_figure(small_figure(), tmp_path / "a.gif")
    with pytest.raises(ValueError, match="image_format must be one of 'png'"):
        render_figure(small_figure(), image_format="gif")  # pyright: ignore[reportArgumentType]
