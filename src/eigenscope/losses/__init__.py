"""Losses as numerators and denominators, and their second derivatives."""

from eigenscope.losses.base import FisherKind, Loss, RiskLoss
from eigenscope.losses.cross_entropy import CrossEntropy, next_token_loss
from eigenscope.losses.interpret import known_loss, per_sample_losses
from eigenscope.losses.output_matrix import Categorical, OutputMatrix
from eigenscope.losses.risk import Risk

__all__ = [
    "Categorical",
    "CrossEntropy",
    "FisherKind",
    "Loss",
    "OutputMatrix",
    "Risk",
    "RiskLoss",
    "known_loss",
    "next_token_loss",
    "per_sample_losses",
]
