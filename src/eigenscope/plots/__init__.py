"""Figures of results: Axes in, Axes out; and whole figures for the command line."""

from eigenscope.plots.classes import classes_figure
from eigenscope.plots.curvature import (
    CURVATURE_EIGENVALUE,
    curvature_figure,
    layers_figure,
    plot_log_density,
    plot_moduli,
)
from eigenscope.plots.densities import plot_density, plot_diagonal
from eigenscope.plots.figures import (
    comparison_figure,
    demo_figure,
    diagonal_figure,
    eigenvector_figure,
    spectrum_figure,
)
from eigenscope.plots.files import render_figure, save_figure
from eigenscope.plots.kernels import (
    kernel_figure,
    plot_kernel,
    plot_shares,
    share_figure,
)
from eigenscope.plots.overview import overview_figure, plot_series, series_figure
from eigenscope.plots.style import (
    EIGENVALUE,
    FEATURE_EIGENVALUE,
    SQUARED_NORM,
    TANGENT_EIGENVALUE,
)
from eigenscope.plots.tails import plot_tail
from eigenscope.plots.vectors import plot_input_vectors, plot_sample_vector

__all__ = [
    "CURVATURE_EIGENVALUE",
    "EIGENVALUE",
    "FEATURE_EIGENVALUE",
    "SQUARED_NORM",
    "TANGENT_EIGENVALUE",
    "classes_figure",
    "comparison_figure",
    "curvature_figure",
    "demo_figure",
    "diagonal_figure",
    "eigenvector_figure",
    "kernel_figure",
    "layers_figure",
    "overview_figure",
    "plot_density",
    "plot_diagonal",
    "plot_input_vectors",
    "plot_kernel",
    "plot_log_density",
    "plot_moduli",
    "plot_sample_vector",
    "plot_series",
    "plot_shares",
    "plot_tail",
    "render_figure",
    "save_figure",
    "series_figure",
    "share_figure",
    "spectrum_figure",
]
