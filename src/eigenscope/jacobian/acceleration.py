"""A faster network with the same Jacobian: folded BatchNorm and channels-last memory.

In eval mode BatchNorm is an affine map per channel and folds into the convolution
or linear layer before it. What comes out is proven against the original in float64
before it is used; what cannot be traced stays as it is.
"""

import copy
import re
from typing import cast, final

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from eigenscope.autodiff import (
    differentiable_copy,
    recording,
    vector_jacobian_product,
)
from eigenscope.jacobian.independence import leaf_of, with_leaf
from eigenscope.problem import ModelInputs, call_model

_FOLDABLE: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_SELECTS_BY_SIZE = re.compile(r"(?<!soft)(max|min)|topk|sort|median|kthvalue|mode")
_RELATIVE_TOLERANCE = 1e-9

_Probe = tuple[Tensor, Tensor]


@final
class Acceleration:
    """A private copy of a network, folded and laid out for speed.

    Attributes:
        module: The copy; shares nothing that is written to.
        num_folded: BatchNorms that went into the layer before them.
        channels_last: Whether convolutions run in channels-last memory.
    """

    def __init__(
        self, module: fx.GraphModule, *, num_folded: int, channels_last: bool
    ) -> None:
        self.module = module
        self.num_folded = num_folded
        self.channels_last = channels_last


def accelerate(
    model: nn.Module, inputs: ModelInputs, *, entry: str | None
) -> Acceleration | None:
    """Return a proven faster copy of the model, or None where there is none.

    Args:
        model: The network, left as it is.
        inputs: A few samples to prove the copy on.
        entry: Entry of a mapping input that is differentiated.

    Returns:
        The accelerated copy, or None if the model cannot be copied or traced, has
        nothing to gain, or the copy's output or derivative differs.

    Cost:
        Two copies of the model in float64 for the proof, of which one stays in the
        model's own precision; a few passes of the samples in float64.
    """
    kinds = {
        (tensor.device, tensor.dtype)
        for tensor in [*model.parameters(), *model.buffers()]
        if tensor.is_floating_point()
    }
    if len(kinds) != 1 or _has_hooks(model):
        return None
    device, dtype = kinds.pop()
    with recording():
        try:
            original = copy.deepcopy(model).requires_grad_(requires_grad=False)
            original = original.to("cpu", torch.float64)
            found = _proven(original, inputs, entry)
            if found is None:
                return None
            module = found.module.to(device, dtype)
            if found.channels_last:
                module = module.to(memory_format=torch.channels_last)
            if not _runs_alike(model, module, inputs, entry):
                return None
        except Exception:  # the user's forward runs with proxies and in another dtype
            return None
    return Acceleration(
        module, num_folded=found.num_folded, channels_last=found.channels_last
    )


def _runs_alike(
    model: nn.Module, module: nn.Module, inputs: ModelInputs, entry: str | None
) -> bool:
    """Return whether the copy runs in the model's own dtype and gives its output.

    Tracing writes the dtype of the proof, where a forward asks for it, into the copy.
    """
    leaf = differentiable_copy(leaf_of(inputs, entry))
    found = call_model(module, with_leaf(inputs, entry, leaf))
    vector_jacobian_product(found, leaf, torch.ones_like(found), keep_graph=False)
    expected = call_model(model, with_leaf(inputs, entry, leaf)).detach()
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max())
    return bool((found.detach() - expected).abs().max() <= tolerance)


def _proven(
    original: nn.Module, inputs: ModelInputs, entry: str | None
) -> Acceleration | None:
    """Return a float64 copy that gives what the float64 original gives, but faster."""
    traced = _traced(original)
    found = _faster(traced, original, inputs, entry)
    if found is None:
        _release(traced)
    return found


def _traced(module: nn.Module) -> fx.GraphModule:
    """Return a traced copy. Tracing may leave marks in the module, so it gets its own.

    A copy of what was traced has no ties to the tracer.
    """
    first = fx.symbolic_trace(copy.deepcopy(module))
    traced = copy.deepcopy(first)
    _release(first)
    return traced


def _release(traced: fx.GraphModule) -> None:
    """Let go of the weights of a traced module, whose graph keeps it alive in a cycle.

    Copies of large networks would stay until Python collects its garbage.
    """
    traced.to("meta")


def _faster(
    traced: fx.GraphModule,
    original: nn.Module,
    inputs: ModelInputs,
    entry: str | None,
) -> Acceleration | None:
    """Fold what can be; return the module if that is right and gains something."""
    num_folded = _fold_batch_norms(traced)
    wants_channels_last = _gains_from_channels_last(traced, inputs)
    if not num_folded and not wants_channels_last:
        return None
    expected = _probe(original, inputs, entry, channels_last=False)
    if not _agree(_probe(traced, inputs, entry, channels_last=False), expected):
        return None
    channels_last = wants_channels_last and _runs_channels_last(
        traced, inputs, entry, expected
    )
    if not num_folded and not channels_last:
        return None
    return Acceleration(traced, num_folded=num_folded, channels_last=channels_last)


def _runs_channels_last(
    traced: fx.GraphModule, inputs: ModelInputs, entry: str | None, expected: _Probe
) -> bool:
    """Return whether the network also gives the same in channels-last memory."""
    laid_out = copy.deepcopy(traced).to(memory_format=torch.channels_last)
    try:
        found = _probe(laid_out, inputs, entry, channels_last=True)
    except RuntimeError:  # a .view that needs the usual layout
        return False
    return _agree(found, expected)


def _has_hooks(model: nn.Module) -> bool:
    """Return whether calling a module does more than its forward."""
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
    )
    return any(getattr(m, kind, None) for m in model.modules() for kind in kinds)


def _fold_batch_norms(traced: fx.GraphModule) -> int:
    modules: dict[str, nn.Module] = dict(traced.named_modules())
    calls = [
        str(node.target) for node in traced.graph.nodes if node.op == "call_module"
    ]
    folded = 0
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not _is_frozen_norm(modules[str(node.target)]):
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        name = str(before.target)
        alone = len(before.users) == 1 and calls.count(name) == 1
        if not alone or type(modules[name]) not in _FOLDABLE:
            continue
        norm = cast("nn.BatchNorm2d", modules[str(node.target)])
        modules[name] = _fused(modules[name], norm)
        traced.set_submodule(name, modules[name])
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
        folded += 1
    traced.recompile()
    return folded


def _is_frozen_norm(module: nn.Module) -> bool:
    return (
        type(module) in _BATCH_NORMS
        and not module.training
        and getattr(module, "running_mean", None) is not None
    )


def _fused(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    layer.eval()  # nothing to a layer without state, but the fusion insists
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_eval(layer, cast("nn.BatchNorm1d", norm))
    else:
        fused = fuse_conv_bn_eval(cast("nn.Conv2d", layer), norm)
    return fused.requires_grad_(requires_grad=False)


def _gains_from_channels_last(traced: fx.GraphModule, inputs: ModelInputs) -> bool:
    """Return whether there are 2-D convolutions whose result no tie can change.

    Max-pooling and the like pick the first of tied entries in memory order, and
    constant image borders tie often; there the layout would change the Jacobian.
    """
    images = isinstance(inputs, Tensor) and inputs.ndim == 4
    if not images or cast("Tensor", inputs).dtype == torch.float64:
        return False
    modules = dict(traced.named_modules())
    names: list[str] = []
    for node in traced.graph.nodes:
        if node.op == "call_module":
            names.append(type(modules[str(node.target)]).__name__.lower())
        elif node.op in {"call_function", "call_method"}:
            names.append(getattr(node.target, "__name__", str(node.target)))
    has_convolution = any("conv2d" in name for name in names)
    return has_convolution and not any(_SELECTS_BY_SIZE.search(name) for name in names)


def _agree(found: _Probe, expected: _Probe) -> bool:
    return all(
        float((one - other).abs().max())
        <= _RELATIVE_TOLERANCE * float(other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )


def _probe(
    module: nn.Module, inputs: ModelInputs, entry: str | None, *, channels_last: bool
) -> _Probe:
    """Return the output of a float64 module and a random vector-Jacobian product."""
    leaf = leaf_of(inputs, entry).to("cpu", torch.float64)
    if channels_last:
        leaf = leaf.contiguous(memory_format=torch.channels_last)
    leaf = differentiable_copy(leaf)
    raw = call_model(module, with_leaf(_on_cpu(inputs), entry, leaf))
    generator = torch.Generator().manual_seed(0)
    seed = torch.randn(raw.shape, generator=generator, dtype=torch.float64)
    return raw.detach(), vector_jacobian_product(raw, leaf, seed, keep_graph=False)


def _on_cpu(inputs: ModelInputs) -> ModelInputs:
    if isinstance(inputs, Tensor):
        return inputs.cpu()
    return {
        key: value.cpu() if isinstance(value, Tensor) else value
        for key, value in inputs.items()
    }
