"""Spectra, eigenpairs and what else is computed from an operator's products."""

from eigenscope.estimators.applied import apply_function
from eigenscope.estimators.diagonal import diagonal
from eigenscope.estimators.eigenpairs import top_eigenpairs
from eigenscope.estimators.functions import log_determinant, norm, spectral_sum
from eigenscope.estimators.interruption import Interrupted
from eigenscope.estimators.trace import trace
from eigenscope.estimators.verify import Check, Verdict, verify
from eigenscope.estimators.weights import weight_spectra
from eigenscope.estimators.whole import spectrum

__all__ = [
    "Check",
    "Interrupted",
    "Verdict",
    "apply_function",
    "diagonal",
    "log_determinant",
    "norm",
    "spectral_sum",
    "spectrum",
    "top_eigenpairs",
    "trace",
    "verify",
    "weight_spectra",
]
