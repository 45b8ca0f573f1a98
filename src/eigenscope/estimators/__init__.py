"""Spectra, eigenpairs and what else is computed from an operator's products."""

from eigenscope.estimators.dense import spectrum, top_eigenpairs
from eigenscope.estimators.weights import weight_spectra

__all__ = ["spectrum", "top_eigenpairs", "weight_spectra"]
