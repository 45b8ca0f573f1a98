"""Ready-made measures for the recorder: made once, called with the network."""

from eigenscope.training.measures.curvature import (
    CurvatureEigenvalues,
    CurvatureSpectra,
    CurvatureTrace,
)
from eigenscope.training.measures.derived import LayerDistances, TailExponent
from eigenscope.training.measures.network import (
    JacobianSpectrum,
    TargetAlignment,
    WeightSpectra,
)

__all__ = [
    "CurvatureEigenvalues",
    "CurvatureSpectra",
    "CurvatureTrace",
    "JacobianSpectrum",
    "LayerDistances",
    "TailExponent",
    "TargetAlignment",
    "WeightSpectra",
]
