"""Which eigenvalues are wanted, and in which order."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Which = Literal["largest", "smallest", "magnitude", "both"]


def best_first(
    values: Float[Tensor, "eig"], k: int, which: Which
) -> Int[Tensor, "wanted"]:
    """Places of the k wanted among ascending values, in the order of `which`.

    Args:
        values: Ascending.
        k: How many, at most as many as there are.
        which: "largest" descending, "smallest" ascending, "magnitude" by |λ|
            descending; "both" the ⌈k/2⌉ largest, descending, then the ⌊k/2⌋
            smallest, ascending.

    Returns:
        Indices into `values`.
    """
    ascending = torch.arange(len(values))
    if which == "smallest":
        return ascending[:k]
    if which == "magnitude":
        return values.abs().argsort(descending=True, stable=True)[:k]
    if which == "both":
        upper = ascending.flip(0)[: k - k // 2]
        return torch.cat([upper, ascending[: k // 2]])
    return ascending.flip(0)[:k]
