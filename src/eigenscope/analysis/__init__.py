"""What spectra say: bulk, outliers and classes, tails, distances, subspaces."""

from eigenscope.analysis.classwise import ClassDecomposition, decompose_by_class
from eigenscope.analysis.distance import wasserstein, wasserstein_estimate
from eigenscope.analysis.heights import height_distance
from eigenscope.analysis.power_law import PowerLaw, fit_power_law
from eigenscope.analysis.random_matrix import Bulk, fit_bulk
from eigenscope.analysis.subspace import principal_angles, subspace_overlap
from eigenscope.analysis.summary import Summary, summarize

__all__ = [
    "Bulk",
    "ClassDecomposition",
    "PowerLaw",
    "Summary",
    "decompose_by_class",
    "fit_bulk",
    "fit_power_law",
    "height_distance",
    "principal_angles",
    "subspace_overlap",
    "summarize",
    "wasserstein",
    "wasserstein_estimate",
]
