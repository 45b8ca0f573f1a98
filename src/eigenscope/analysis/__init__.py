"""What spectra say: power-law tails and distances."""

from eigenscope.analysis.distance import wasserstein
from eigenscope.analysis.power_law import PowerLaw, fit_power_law

__all__ = ["PowerLaw", "fit_power_law", "wasserstein"]
