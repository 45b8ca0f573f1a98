"""The recorder in other libraries' trainers."""

from eigenscope.training.adapters.callbacks import (
    lightning_callback,
    transformers_callback,
)

__all__ = ["lightning_callback", "transformers_callback"]
