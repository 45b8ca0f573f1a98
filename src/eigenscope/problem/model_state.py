"""A model's weights, buffers and modes at one time, to be compared later."""

from typing import final

from torch import nn

from eigenscope.problem.data import DataChangedError
from eigenscope.problem.model import state_digest


@final
class ModelState:
    """What a model was when something that depends on it was made.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._found = self._now()

    def require_same(self, user: str) -> None:
        """Raise if weights, buffers or modes are not what they were.

        Args:
            user: What was made of the model, for the message.

        Raises:
            DataChangedError: If they differ.
        """
        if self._now() != self._found:
            raise DataChangedError(
                f"the model must stay as it is while its {user} is in use; its "
                f"weights, buffers or mode have changed since the {user} was made. "
                "Make a new one after every training step."
            )

    def _now(self) -> tuple[str, list[bool]]:
        modes = [module.training for module in self._model.modules()]
        return state_digest(self._model), modes
