"""What is run by name: each experiment writes a run that resumes."""

from eigenscope.experiments.jacobian_spectra import (
    JacobianPlan,
    JacobianResults,
    SpectrumResult,
    load_jacobian_results,
    run_jacobian_spectra,
)

__all__ = [
    "JacobianPlan",
    "JacobianResults",
    "SpectrumResult",
    "load_jacobian_results",
    "run_jacobian_spectra",
]
