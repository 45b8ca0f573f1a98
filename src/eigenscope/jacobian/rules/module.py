"""Rules of users for whole modules."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from eigenscope.jacobian.layout import ROWS, Layout
from eigenscope.jacobian.rules.base import Rule, Use
from eigenscope.jacobian.rules.parts import PerSample, Plain

ModuleRule = Callable[[nn.Module, tuple[Any, ...], Tensor], Mapping[str, Tensor]]


@final
class WholeModule(Rule):
    """A user's rule for one module; samples are on axis 0 of its output.

    Args:
        module: The module.
        rule: The user's function.
    """

    any_axis = False

    def __init__(self, module: nn.Module, rule: ModuleRule) -> None:
        self.name = f"rule for {type(module).__name__}"
        self._module = module
        self._rule = rule

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        if kwargs or output.ndim == 0:
            return None
        weights = dict(self._module.named_parameters())
        return Use(inputs=(), weights=dict(weights), options={"args": args})

    @override
    def accepts(self, use: Use, output_shape: tuple[int, ...], layout: Layout) -> bool:
        return layout == ROWS

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        samples, outputs, repeats = cotangents.shape[:3]
        found = [
            self._checked(use, cotangents[:, c].flatten(0, 1), roles)
            for c in range(outputs)
        ]
        return {
            role: Plain(
                torch.stack([one[role] for one in found], 1)
                .unflatten(0, (samples, repeats))
                .sum(1)
            )
            for role in roles
        }

    def _checked(
        self, use: Use, cotangent: Tensor, roles: Collection[str]
    ) -> Mapping[str, Tensor]:
        """Return what the user's rule gives for one output.

        Raises:
            ValueError: If a gradient is missing or has another shape.
        """
        given = self._rule(self._module, use.options["args"], cotangent)
        for role in roles:
            wanted = (len(cotangent), *use.weights[role].shape)
            got = tuple(given[role].shape) if role in given else "nothing"
            if got != wanted:
                raise ValueError(
                    f"the {self.name} must return per-sample gradients of shape "
                    f"{wanted} for {role!r}; it returned {got}. Return a dict with an "
                    "entry for every parameter of the module, samples on axis 0."
                )
        return given
