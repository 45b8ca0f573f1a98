"""Operations after which a row may belong to another sample, as data or lengths say."""

from typing import Any

from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

_ALWAYS = (
    "Index",
    "Gather",
    "Scatter",
    "Masked",
    "Take",
    "Sort",
    "Topk",
    "Put",
    "PackPadded",
    "Repeat_interleave",
    "SparseAddmm",
)
_ALONG_AXIS_0 = ("Slice", "Select", "Split", "UnsafeSplit", "Unbind")


def may_move_rows(node: Node, num_samples: int) -> bool:
    """Return whether a recorded operation may depend on data in where it puts rows.

    Custom functions may; so do picks by index, parts of lengths that the data give,
    taken along axis 0, and matrix products that act on axis 0: a matrix of zeros and
    ones sends samples to experts.

    Args:
        node: The operation in the graph, none that is part of torch's own function
            with a rule.
        num_samples: Samples of the batch.

    Returns:
        True if layouts that held for other samples are to be proven again.
    """
    name = node.name()
    if isinstance(node, BackwardCFunction) or name.startswith(_ALWAYS):
        return True
    if name.startswith(_ALONG_AXIS_0):
        return _cuts_axis_0(node, num_samples)
    if name.startswith("Mm"):
        left, right = (child for child, _ in node.next_functions)
        return left is None or right is not None
    if name.startswith("Bmm"):
        has_constant = any(child is None for child, _ in node.next_functions)
        return has_constant or output_shapes(node)[0][0] == 1
    return False


def _cuts_axis_0(node: Node, num_samples: int) -> bool:
    """Return whether axis 0 is cut, and long enough to hold the samples."""
    if getattr(node, "_saved_dim", 0) != 0:
        return False
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    length = len(output_shapes(node)) if sizes is None else int(sizes[0])
    return length % num_samples == 0


def output_shapes(node: Node) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of what a recorded operation returned.

    Args:
        node: The operation.

    Returns:
        One shape for each of its outputs.
    """
    recorded: list[Any] = getattr(node, "_input_metadata")  # noqa: B009 - not in stubs
    return tuple(tuple(entry.shape) for entry in recorded)
