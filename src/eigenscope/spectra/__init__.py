"""Spectra as measures, their densities, and eigenpairs: frozen results."""

from eigenscope.spectra.density import Density, DensityKind, DensityScale
from eigenscope.spectra.eigenpairs import Eigenpairs
from eigenscope.spectra.estimate import Estimate
from eigenscope.spectra.measure import Spectrum
from eigenscope.spectra.quadrature import Quadrature
from eigenscope.spectra.rounding import rounding_floor

__all__ = [
    "Density",
    "DensityKind",
    "DensityScale",
    "Eigenpairs",
    "Estimate",
    "Quadrature",
    "Spectrum",
    "rounding_floor",
]
