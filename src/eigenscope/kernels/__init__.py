"""Empirical kernels of networks: neural tangent and conjugate."""

from eigenscope.kernels.alignment import (
    ConditionNumber,
    condition_number,
    kernel_alignment,
    kernel_target_alignment,
)
from eigenscope.kernels.choices import KernelChoice
from eigenscope.kernels.conjugate import conjugate_kernel
from eigenscope.kernels.engine import KernelEngine, KernelSettings
from eigenscope.kernels.projection import ProjectedNTK, projected_ntk
from eigenscope.kernels.tangent import ntk, ntk_components

__all__ = [
    "ConditionNumber",
    "KernelChoice",
    "KernelEngine",
    "KernelSettings",
    "ProjectedNTK",
    "condition_number",
    "conjugate_kernel",
    "kernel_alignment",
    "kernel_target_alignment",
    "ntk",
    "ntk_components",
    "projected_ntk",
]
