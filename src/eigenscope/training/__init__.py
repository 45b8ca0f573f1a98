"""Training: a small honest trainer, and a recorder for anybody's own loop."""

from eigenscope.training.classifier import TrainingLog, accuracy, train_classifier
from eigenscope.training.history import History
from eigenscope.training.recorder import Measure, Recorder
from eigenscope.training.schedule import Schedule

__all__ = [
    "History",
    "Measure",
    "Recorder",
    "Schedule",
    "TrainingLog",
    "accuracy",
    "train_classifier",
]
