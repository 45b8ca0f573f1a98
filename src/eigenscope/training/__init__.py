"""Training: a small honest trainer, and a recorder for anybody's own loop."""

from eigenscope.training.checkpoints import Checkpoints, find_checkpoints
from eigenscope.training.classifier import TrainingLog, accuracy, train_classifier
from eigenscope.training.history import History
from eigenscope.training.measurement import Measure
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
from eigenscope.training.recorder import Recorder
from eigenscope.training.regularization import TracePenalty
from eigenscope.training.schedule import Schedule
from eigenscope.training.series import record_series

__all__ = [
    "Checkpoints",
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
    "find_checkpoints",
    "record_series",
    "train_classifier",
]
