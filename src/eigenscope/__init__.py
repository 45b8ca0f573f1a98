"""Spectra of PyTorch networks: exact when they fit, with error bars when they don't.

`import eigenscope as es`; every public name is an attribute of this module and is
loaded, with torch, when it is first used.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eigenscope.analysis import (
        Bulk,
        PowerLaw,
        Summary,
        fit_bulk,
        fit_power_law,
        height_distance,
        principal_angles,
        subspace_overlap,
        summarize,
        wasserstein,
        wasserstein_estimate,
    )
    from eigenscope.estimators import (
        Interrupted,
        Verdict,
        apply_function,
        diagonal,
        log_determinant,
        norm,
        spectral_sum,
        spectrum,
        top_eigenpairs,
        trace,
        verify,
        weight_spectra,
    )
    from eigenscope.jacobian import (
        input_jacobian,
        parameter_jacobian,
        per_sample_gradients,
        register_rule,
    )
    from eigenscope.kernels import (
        condition_number,
        conjugate_kernel,
        kernel_alignment,
        kernel_target_alignment,
        ntk,
        ntk_components,
        projected_ntk,
    )
    from eigenscope.losses import next_token_loss
    from eigenscope.operators import (
        NTK,
        Dense,
        Fisher,
        GaussNewton,
        Hessian,
        InputJacobian,
        ParameterJacobian,
        gram,
        layer_blocks,
    )
    from eigenscope.problem import DataChangedError, Problem
    from eigenscope.spectra import Density, Eigenpairs, Estimate, Quadrature, Spectrum
    from eigenscope.store import Run
    from eigenscope.training import (
        Checkpoints,
        CurvatureEigenvalues,
        CurvatureSpectra,
        CurvatureTrace,
        History,
        JacobianSpectrum,
        LayerDistances,
        Recorder,
        Schedule,
        TailExponent,
        TargetAlignment,
        TracePenalty,
        WeightSpectra,
        find_checkpoints,
        record_series,
    )

__all__ = [
    "NTK",
    "Bulk",
    "Checkpoints",
    "CurvatureEigenvalues",
    "CurvatureSpectra",
    "CurvatureTrace",
    "DataChangedError",
    "Dense",
    "Density",
    "Eigenpairs",
    "Estimate",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "History",
    "InputJacobian",
    "Interrupted",
    "JacobianSpectrum",
    "LayerDistances",
    "ParameterJacobian",
    "PowerLaw",
    "Problem",
    "Quadrature",
    "Recorder",
    "Run",
    "Schedule",
    "Spectrum",
    "Summary",
    "TailExponent",
    "TargetAlignment",
    "TracePenalty",
    "Verdict",
    "WeightSpectra",
    "apply_function",
    "condition_number",
    "conjugate_kernel",
    "diagonal",
    "find_checkpoints",
    "fit_bulk",
    "fit_power_law",
    "gram",
    "height_distance",
    "input_jacobian",
    "kernel_alignment",
    "kernel_target_alignment",
    "layer_blocks",
    "log_determinant",
    "next_token_loss",
    "norm",
    "ntk",
    "ntk_components",
    "parameter_jacobian",
    "per_sample_gradients",
    "principal_angles",
    "projected_ntk",
    "record_series",
    "register_rule",
    "spectral_sum",
    "spectrum",
    "subspace_overlap",
    "summarize",
    "top_eigenpairs",
    "trace",
    "verify",
    "wasserstein",
    "wasserstein_estimate",
    "weight_spectra",
]

__version__ = version("eigenscope")

_HOMES = {
    "Checkpoints": "training",
    "find_checkpoints": "training",
    "record_series": "training",
    "CurvatureEigenvalues": "training",
    "CurvatureSpectra": "training",
    "CurvatureTrace": "training",
    "JacobianSpectrum": "training",
    "LayerDistances": "training",
    "TailExponent": "training",
    "TargetAlignment": "training",
    "TracePenalty": "training",
    "WeightSpectra": "training",
    "Bulk": "analysis",
    "DataChangedError": "problem",
    "Dense": "operators",
    "Density": "spectra",
    "Eigenpairs": "spectra",
    "Estimate": "spectra",
    "Fisher": "operators",
    "GaussNewton": "operators",
    "Hessian": "operators",
    "History": "training",
    "InputJacobian": "operators",
    "Interrupted": "estimators",
    "NTK": "operators",
    "ParameterJacobian": "operators",
    "PowerLaw": "analysis",
    "Problem": "problem",
    "Quadrature": "spectra",
    "Recorder": "training",
    "Run": "store",
    "Schedule": "training",
    "Spectrum": "spectra",
    "Summary": "analysis",
    "Verdict": "estimators",
    "apply_function": "estimators",
    "condition_number": "kernels",
    "conjugate_kernel": "kernels",
    "diagonal": "estimators",
    "fit_bulk": "analysis",
    "fit_power_law": "analysis",
    "gram": "operators",
    "height_distance": "analysis",
    "input_jacobian": "jacobian",
    "kernel_alignment": "kernels",
    "kernel_target_alignment": "kernels",
    "layer_blocks": "operators",
    "log_determinant": "estimators",
    "next_token_loss": "losses",
    "norm": "estimators",
    "ntk": "kernels",
    "ntk_components": "kernels",
    "parameter_jacobian": "jacobian",
    "per_sample_gradients": "jacobian",
    "principal_angles": "analysis",
    "projected_ntk": "kernels",
    "register_rule": "jacobian",
    "spectral_sum": "estimators",
    "spectrum": "estimators",
    "subspace_overlap": "analysis",
    "summarize": "analysis",
    "top_eigenpairs": "estimators",
    "trace": "estimators",
    "verify": "estimators",
    "wasserstein": "analysis",
    "wasserstein_estimate": "analysis",
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
