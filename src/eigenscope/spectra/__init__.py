"""Spectra as measures, their densities, and eigenpairs: frozen results."""

from eigenscope.spectra.density import Density, DensityKind, DensityScale
from eigenscope.spectra.eigenpairs import Eigenpairs
from eigenscope.spectra.measure import Spectrum, rounding_floor

__all__ = [
    "Density",
    "DensityKind",
    "DensityScale",
    "Eigenpairs",
    "Spectrum",
    "rounding_floor",
]
