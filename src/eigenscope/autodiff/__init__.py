"""The only caller of autograd: blocks of first and second-order products."""

from eigenscope.autodiff.bags import twice_differentiable_bags
from eigenscope.autodiff.convolution import convolution_weight_gradient
from eigenscope.autodiff.first_order import (
    cotangents,
    gradient_of,
    is_connected,
    jacobian_rows,
    per_sample_outputs,
    pull_back,
    vector_jacobian_product,
)
from eigenscope.autodiff.forward import (
    directional_gradient,
    outputs_at,
)
from eigenscope.autodiff.recording import (
    SavedBytes,
    differentiable_copy,
    differentiable_tables,
    exactly_requiring_grad,
    large_empty,
    recordable,
    recordable_batch,
    recording,
    twice_differentiable,
    writable_empty,
)
from eigenscope.autodiff.second_order import (
    edge_of,
    gradient_graph,
    graph_products,
    second_derivative,
)
from eigenscope.autodiff.shortcuts import ShortcutMode, Shortcuts

__all__ = [
    "SavedBytes",
    "ShortcutMode",
    "Shortcuts",
    "convolution_weight_gradient",
    "cotangents",
    "differentiable_copy",
    "differentiable_tables",
    "directional_gradient",
    "edge_of",
    "exactly_requiring_grad",
    "gradient_graph",
    "gradient_of",
    "graph_products",
    "is_connected",
    "jacobian_rows",
    "large_empty",
    "outputs_at",
    "per_sample_outputs",
    "pull_back",
    "recordable",
    "recordable_batch",
    "recording",
    "second_derivative",
    "twice_differentiable",
    "twice_differentiable_bags",
    "vector_jacobian_product",
    "writable_empty",
]
