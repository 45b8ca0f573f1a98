"""Spectra of PyTorch networks: exact when they fit, with error bars when they don't.

`import eigenscope as es`; every public name is an attribute of this module and is
loaded, with torch, when it is first used.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eigenscope.analysis import PowerLaw, fit_power_law, wasserstein
    from eigenscope.estimators import spectrum, top_eigenpairs, weight_spectra
    from eigenscope.jacobian import (
        input_jacobian,
        parameter_jacobian,
        per_sample_gradients,
        register_rule,
    )
    from eigenscope.losses import next_token_loss
    from eigenscope.operators import Dense, InputJacobian, ParameterJacobian, gram
    from eigenscope.problem import DataChangedError, Problem
    from eigenscope.spectra import Density, Eigenpairs, Spectrum
    from eigenscope.store import Run
    from eigenscope.training import History, Recorder, Schedule

__all__ = [
    "DataChangedError",
    "Dense",
    "Density",
    "Eigenpairs",
    "History",
    "InputJacobian",
    "ParameterJacobian",
    "PowerLaw",
    "Problem",
    "Recorder",
    "Run",
    "Schedule",
    "Spectrum",
    "fit_power_law",
    "gram",
    "input_jacobian",
    "next_token_loss",
    "parameter_jacobian",
    "per_sample_gradients",
    "register_rule",
    "spectrum",
    "top_eigenpairs",
    "wasserstein",
    "weight_spectra",
]

__version__ = version("eigenscope")

_HOMES = {
    "DataChangedError": "problem",
    "Dense": "operators",
    "Density": "spectra",
    "Eigenpairs": "spectra",
    "History": "training",
    "InputJacobian": "operators",
    "ParameterJacobian": "operators",
    "PowerLaw": "analysis",
    "Problem": "problem",
    "Recorder": "training",
    "Run": "store",
    "Schedule": "training",
    "Spectrum": "spectra",
    "fit_power_law": "analysis",
    "gram": "operators",
    "input_jacobian": "jacobian",
    "next_token_loss": "losses",
    "parameter_jacobian": "jacobian",
    "per_sample_gradients": "jacobian",
    "register_rule": "jacobian",
    "spectrum": "estimators",
    "top_eigenpairs": "estimators",
    "wasserstein": "analysis",
    "weight_spectra": "estimators",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eigenscope' has no attribute {name!r}")
    home = importlib.import_module(f"eigenscope.{_HOMES[name]}")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
