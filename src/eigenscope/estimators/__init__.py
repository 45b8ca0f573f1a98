"""Spectra, eigenpairs and what else is computed from an operator's products."""

from eigenscope.estimators.dense import spectrum, top_eigenpairs

__all__ = ["spectrum", "top_eigenpairs"]
