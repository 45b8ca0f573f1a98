"""Models, data sets and weights by name, and the user's own as module:factory."""

from eigenscope.zoo.datasets import ImageData, data_names, load_data
from eigenscope.zoo.factories import data_from_factory, import_factory, is_factory
from eigenscope.zoo.models import build_model, model_names
from eigenscope.zoo.weights import load_weights, save_weights, weight_faults

__all__ = [
    "ImageData",
    "build_model",
    "data_from_factory",
    "data_names",
    "import_factory",
    "is_factory",
    "load_data",
    "load_weights",
    "model_names",
    "save_weights",
    "weight_faults",
]
