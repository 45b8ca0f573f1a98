"""What is run by name: each experiment writes a run that resumes."""

from eigenscope.experiments.jacobian_spectra import (
    JacobianPlan,
    JacobianResults,
    SpectrumResult,
    load_jacobian_results,
    prepare_jacobian,
    run_jacobian_spectra,
)
from eigenscope.experiments.tails import tail_numbers

__all__ = [
    "JacobianPlan",
    "JacobianResults",
    "SpectrumResult",
    "load_jacobian_results",
    "prepare_jacobian",
    "run_jacobian_spectra",
    "tail_numbers",
]
