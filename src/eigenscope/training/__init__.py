"""Training: a small honest trainer, and a recorder for anybody's own loop."""

from eigenscope.training.classifier import TrainingLog, accuracy, train_classifier
from eigenscope.training.history import History
from eigenscope.training.measures import (
    CurvatureEigenvalues,
    CurvatureSpectra,
    CurvatureTrace,
    JacobianSpectrum,
    LayerDistances,
    TailExponent,
    TargetAlignment,
    WeightSpectra,
)
from eigenscope.training.recorder import Measure, Recorder
from eigenscope.training.regularization import TracePenalty
from eigenscope.training.schedule import Schedule

__all__ = [
    "CurvatureEigenvalues",
    "CurvatureSpectra",
    "CurvatureTrace",
    "History",
    "JacobianSpectrum",
    "LayerDistances",
    "Measure",
    "Recorder",
    "Schedule",
    "TailExponent",
    "TargetAlignment",
    "TracePenalty",
    "TrainingLog",
    "WeightSpectra",
    "accuracy",
    "train_classifier",
]
