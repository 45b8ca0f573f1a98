"""Rules for maps that are linear in a matrix: linear layers and products, bilinear."""

from collections.abc import Collection, Mapping
from typing import Any, final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name
from torch import Tensor
from typing_extensions import override

from eigenscope.jacobian.rules.base import Rule, Use
from eigenscope.jacobian.rules.parts import Outer, PerSample, Plain


@final
class Linear(Rule):
    """y = x Wᵀ + b with W (output, input): gᵀx and Σg."""

    name = "linear"
    any_axis = True

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        return _linear_use(*args, **kwargs) if output.ndim > 1 else None

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        result: dict[str, PerSample] = {}
        if "weight" in roles:
            left, right = _rows(cotangents, 2), _rows(use.inputs[0].unsqueeze(1), 2)
            result["weight"] = Outer(left, right, tuple(use.weights["weight"].shape))
        if "bias" in roles:
            result["bias"] = Plain(_sum_over_positions(_rows(cotangents, 2)))
        return result


@final
class Product(Rule):
    """y = x W (+ b) with W (input, output), as `matmul`, `mm` and `addmm` take it."""

    name = "product"
    any_axis = True

    def __init__(self, *, with_bias: bool) -> None:
        self._with_bias = with_bias

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        use = (
            _biased_product_use(*args, **kwargs)
            if self._with_bias
            else _product_use(*args, **kwargs)
        )
        return use if output.ndim > 1 else None

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        result: dict[str, PerSample] = {}
        if "weight" in roles:
            left, right = _rows(use.inputs[0].unsqueeze(1), 2), _rows(cotangents, 2)
            result["weight"] = Outer(left, right, tuple(use.weights["weight"].shape))
        if "bias" in roles:
            values = _sum_over_positions(_rows(cotangents, 2))
            shape = use.weights["bias"].shape
            result["bias"] = Plain(values.reshape(*values.shape[:2], *shape))
        return result


@final
class Bilinear(Rule):
    """y_o = xᵀ W_o x' + b_o: g_o x x'ᵀ and Σg."""

    name = "bilinear"
    any_axis = True

    @override
    def take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> Use | None:
        return _bilinear_use(*args, **kwargs) if output.ndim > 1 else None

    @override
    def gradients(
        self, use: Use, cotangents: Tensor, roles: Collection[str]
    ) -> dict[str, PerSample]:
        result: dict[str, PerSample] = {}
        rows = _rows(cotangents, 2)
        if "weight" in roles:
            first, second = (_rows(x.unsqueeze(1), 2) for x in use.inputs)
            left = (rows.unsqueeze(5) * first.unsqueeze(4)).flatten(4)
            result["weight"] = Outer(left, second, tuple(use.weights["weight"].shape))
        if "bias" in roles:
            result["bias"] = Plain(rows.sum((2, 3)))
        return result


def _rows(tensor: Tensor, axis: int) -> Tensor:
    """Return (sample, output, 1, position, feature) of (sample, output, …, feature)."""
    return tensor.flatten(axis, -2).unsqueeze(2)


def _sum_over_positions(rows: Tensor) -> Tensor:
    """Return (sample, output, feature), a view where there is one position.

    That the weight's cotangents are the bias's gradients then shows in the memory.
    """
    return rows[:, :, 0, 0] if rows.shape[3] == 1 else rows.sum((2, 3))


def _linear_use(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Use:  # noqa: A002 - torch's names
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Use(inputs=(input,), weights=weights)


def _product_use(
    input: Tensor,  # noqa: A002
    other: Tensor | None = None,
    *,
    mat2: Tensor | None = None,  # what `mm` calls it
    **options: Any,
) -> Use | None:
    weight = mat2 if other is None else other
    if options or weight is None or input.ndim < 2 or weight.ndim != 2:
        return None
    return Use(inputs=(input,), weights={"weight": weight})


def _biased_product_use(
    input: Tensor,  # noqa: A002
    mat1: Tensor,
    mat2: Tensor,
    **options: Any,
) -> Use | None:
    per_feature = input.numel() == mat2.shape[-1] == input.shape[-1]
    if options or not per_feature or mat1.ndim != 2:
        return None
    return Use(inputs=(mat1,), weights={"weight": mat2, "bias": input})


def _bilinear_use(
    input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Use:
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Use(inputs=(input1, input2), weights=weights)


_PRODUCT = Product(with_bias=False)
RULES: Mapping[Any, Rule] = {
    F.linear: Linear(),
    torch.matmul: _PRODUCT,
    torch.Tensor.matmul: _PRODUCT,
    torch.mm: _PRODUCT,
    torch.Tensor.mm: _PRODUCT,
    torch.addmm: Product(with_bias=True),
    torch.bilinear: Bilinear(),
}
