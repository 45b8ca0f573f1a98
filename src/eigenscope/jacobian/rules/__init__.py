"""Per-sample gradients, one file per family of functions, and the users' own rules."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from eigenscope.jacobian.rules import (
    convolution,
    elementwise,
    embedding,
    linear,
    normalization,
)
from eigenscope.jacobian.rules.base import Rule, Use
from eigenscope.jacobian.rules.module import ModuleRule, WholeModule
from eigenscope.jacobian.rules.parts import Outer, PerSample, Plain, Scattered
from eigenscope.jacobian.rules.patches import Convolved

__all__ = [
    "FUNCTION_RULES",
    "MODULE_RULES",
    "Convolved",
    "ModuleRule",
    "Outer",
    "PerSample",
    "Plain",
    "Rule",
    "Scattered",
    "Use",
    "WholeModule",
    "register_rule",
]

FUNCTION_RULES: Mapping[Any, Rule] = {
    **linear.RULES,
    **convolution.RULES,
    **normalization.RULES,
    **embedding.RULES,
    **elementwise.RULES,
}
MODULE_RULES: dict[type[nn.Module], ModuleRule] = {}


def register_rule(module_type: type[nn.Module], rule: ModuleRule | None) -> None:
    """Let a function of yours give the per-sample gradients of a type of module.

    Layers made of torch's own functions need no rule, and what no rule reaches is
    computed by autograd, so this is for speed alone. On the first few samples the
    rule's gradients are compared with autograd's; one that differs is not used and
    the coverage report says so.

    Args:
        module_type: The exact type; subclasses need their own rule.
        rule: `rule(module, inputs, cotangent)` with the positional arguments of the
            module's forward and the cotangent at its output, samples on axis 0;
            returns the gradient of every parameter, name → (sample, *parameter). None
            removes a rule.

    Raises:
        TypeError: If `module_type` is not a type of module.

    Example:
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = nn.Parameter(torch.ones(3))
        ...     def forward(self, x):
        ...         return x * self.factor
        >>> import torch
        >>> register_rule(Scale, lambda module, inputs, g: {"factor": inputs[0] * g})
        >>> register_rule(Scale, None)
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(
            f"module_type must be a subclass of torch.nn.Module; got {module_type!r}. "
            "Pass the class, not an instance."
        )
    if rule is None:
        MODULE_RULES.pop(module_type, None)
    else:
        MODULE_RULES[module_type] = rule
