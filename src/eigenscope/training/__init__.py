"""Training: a small honest trainer, and a recorder for anybody's own loop."""

from eigenscope.training.adapters import lightning_callback, transformers_callback
from eigenscope.training.checkpoints import Checkpoints, find_checkpoints
from eigenscope.training.classifier import (
    EpochPass,
    TrainingLog,
    accuracy,
    evaluate,
    train_classifier,
)
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
from eigenscope.training.sinks import Sink, TensorBoardSink, WandbSink
from eigenscope.training.trainer import Optimization, Trainer

__all__ = [
    "Checkpoints",
    "CurvatureEigenvalues",
    "CurvatureSpectra",
    "CurvatureTrace",
    "EpochPass",
    "History",
    "JacobianSpectrum",
    "LayerDistances",
    "Measure",
    "Optimization",
    "Recorder",
    "Schedule",
    "Sink",
    "TailExponent",
    "TargetAlignment",
    "TensorBoardSink",
    "TracePenalty",
    "Trainer",
    "TrainingLog",
    "WandbSink",
    "WeightSpectra",
    "accuracy",
    "evaluate",
    "find_checkpoints",
    "lightning_callback",
    "record_series",
    "train_classifier",
    "transformers_callback",
]
