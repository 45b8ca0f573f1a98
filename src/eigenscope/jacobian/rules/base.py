"""What a rule is: it takes a call apart and turns cotangents into gradients."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from eigenscope.jacobian.layout import Layout
from eigenscope.jacobian.rules.parts import PerSample


@dataclass(slots=True, kw_only=True)
class Use:
    """One call of a function on data and weights, taken apart by its rule.

    Attributes:
        inputs: Data that the gradients need. Before the samples of the call are known
            their leading axes are those of the call's output; a rule's `gradients`
            gets them as (sample, repeat, *rest), the repeats being whatever other
            axis was folded into the sample axis (1 if none was).
        weights: What may be a parameter or made of parameters, by role.
        options: Further arguments.
        axis: The axis of the call's output that holds the samples.
    """

    inputs: tuple[Tensor, ...]
    weights: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    axis: int = 0


class Rule(ABC):
    """Per-sample gradients of a function's weights from its inputs and cotangents.

    Attributes:
        name: What the coverage report calls it.
        any_axis: Whether the samples may also be on axis 1 of the output, as in
            (position, sample, feature); otherwise they are on axis 0 alone or folded
            with another axis there.
    """

    name: str
    any_axis: bool

    @abstractmethod
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        """Take a call apart; return None if the rule does not apply to it.

        Args:
            args: Positional arguments of the call.
            kwargs: Keyword arguments of the call.
            output: What it returned.

        Returns:
            The parts, or None.
        """

    def accepts(self, use: Use, output_shape: tuple[int, ...], layout: Layout) -> bool:
        """Return whether the rule holds for samples that are laid out like this."""
        del use
        axis = layout.axis
        return axis == 0 or (self.any_axis and axis < len(output_shape) - 1)

    @abstractmethod
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        """Return the per-sample gradients of the weights in the given roles.

        Args:
            use: The call, its inputs arranged as (sample, repeat, *rest).
            cotangents: (sample, output, repeat, *rest).
            roles: Roles that are wanted.

        Returns:
            Role to gradients (sample, output, *weight).
        """
