"""What is run by name: each experiment writes a run that resumes."""

from eigenscope.experiments.class_structure import ClassStructure, load_class_structure
from eigenscope.experiments.curvature_spectra import (
    CurvaturePlan,
    CurvatureResult,
    load_curvature_results,
    prepare_curvature,
    run_curvature,
)
from eigenscope.experiments.jacobian_spectra import (
    JacobianPlan,
    JacobianResults,
    SpectrumResult,
    load_jacobian_results,
    prepare_jacobian,
    run_jacobian_spectra,
)
from eigenscope.experiments.kernel_spectra import (
    KernelPlan,
    KernelResult,
    KernelResults,
    load_kernel_results,
    prepare_kernels,
    run_kernels,
)
from eigenscope.experiments.tails import tail_numbers

__all__ = [
    "ClassStructure",
    "CurvaturePlan",
    "CurvatureResult",
    "JacobianPlan",
    "JacobianResults",
    "KernelPlan",
    "KernelResult",
    "KernelResults",
    "SpectrumResult",
    "load_class_structure",
    "load_curvature_results",
    "load_jacobian_results",
    "load_kernel_results",
    "prepare_curvature",
    "prepare_jacobian",
    "prepare_kernels",
    "run_curvature",
    "run_jacobian_spectra",
    "run_kernels",
    "tail_numbers",
]
