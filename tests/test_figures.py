"""Whole figures, and the files they are saved in."""

import itertools
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from plot_cases import fits_of, heavy, image_of, legend_of, pairs_of

from eigenscope.analysis import fit_power_law
from eigenscope.plots import (
    comparison_figure,
    demo_figure,
    diagonal_figure,
    eigenvector_figure,
    render_figure,
    save_figure,
    spectrum_figure,
)
from eigenscope.spectra import Eigenpairs, Spectrum


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
