"""Spectra of a network's weight matrices."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from eigenscope._types import JsonValue, require_choice
from eigenscope.budget import require_fits
from eigenscope.estimators.matrices import require_finite
from eigenscope.problem import select_parameters, whole_network
from eigenscope.spectra import Spectrum, rounding_floor

Kernels = Literal["slices", "matrix"]


def weight_spectra(
    model: nn.Module,
    *,
    params: str | Sequence[str] | None = "*",
    kernels: Kernels = "slices",
    memory: str | int | None = None,
) -> dict[str, Spectrum]:
    """Eigenvalues σ² of W Wᵀ for every weight matrix W of a network.

    Exact to the rounding of float64, from the singular values σ of W. A weight of more
    than two axes, (output, input, *kernel), is cut by `kernels`. Vectors (biases and
    scales) have no spectrum and are left out. Of a parametrized tensor (weight norm,
    spectral norm) the weight that the layer uses is taken, under the tensor's name.

    Args:
        model: The network.
        params: Parameters by name, glob or a sequence of these; all by default.
        kernels: "slices" takes an output × input matrix for every place of a
            convolution's kernel and pools the eigenvalues of all; "matrix" takes one
            matrix, output × (input · kernel), the map that acts on a patch.
        memory: Budget such as "4GiB"; None for half of what is available.

    Returns:
        Name to spectrum, in `named_parameters()` order. `dimension` is the smaller side
        of W, times the places of the kernel for slices.

    Raises:
        ValueError: If `kernels` is unknown, a pattern matches nothing, a weight is not
            finite, or a matrix does not fit the budget.

    Cost:
        About 4 · rows · columns · min(rows, columns) operations and 24 bytes for every
        entry of the largest weight.

    References:
        Martin and Mahoney (2021), J. Mach. Learn. Res. 22, section 2.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0, 0], [0, 2.0, 0]]))
        >>> weight_spectra(layer)["weight"].values
        array([4., 9.])
    """
    require_choice("kernels", kernels, Kernels)
    model = whole_network(model)
    found = {
        name: weight
        for name, weight in _weights(model, params).items()
        if weight.ndim > 1 and weight.numel()
    }
    for name, weight in found.items():
        require_fits(
            24 * weight.numel(),
            memory,
            what=f"the spectrum of {name!r}",
            way_out="or choose other weights with params=",
        )
    return {name: _spectrum(name, weight, kernels) for name, weight in found.items()}


def weight_shapes(
    model: nn.Module, *, params: str | Sequence[str] | None, kernels: Kernels
) -> dict[str, tuple[int, int, int]]:
    """Return how many matrices `weight_spectra` takes of each weight, and their sides.

    Args:
        model: The network.
        params: As for `weight_spectra`.
        kernels: As for `weight_spectra`.

    Returns:
        Name to number, rows and columns.
    """
    require_choice("kernels", kernels, Kernels)
    found: dict[str, tuple[int, int, int]] = {}
    for name, weight in _weights(model, params).items():
        if weight.ndim > 1 and weight.numel():
            count, rows, columns = _matrices(weight, kernels).shape
            found[name] = count, rows, columns
    return found


def _matrices(weight: Tensor, kernels: Kernels) -> Float[Tensor, "matrix row column"]:
    """Return a weight as matrices."""
    matrices = weight.flatten(1).unsqueeze(0)
    if weight.ndim > 2 and kernels == "slices":
        matrices = matrices.unflatten(2, (weight.shape[1], -1)).squeeze(0)
        matrices = matrices.permute(2, 0, 1)
    return matrices


def _weights(model: nn.Module, params: str | Sequence[str] | None) -> dict[str, Tensor]:
    """The tensors that the layers use, by name."""
    found: dict[str, Tensor] = {}
    for name, parameter in select_parameters(model, params).items():
        path, mark, rest = name.partition("parametrizations.")
        if not mark:
            found[name] = parameter.detach()
            continue
        owner = model.get_submodule(path.removesuffix("."))
        if parametrize.is_parametrized(owner, own := rest.partition(".")[0]):
            with torch.no_grad():
                found[path + own] = getattr(owner, own).detach()
    return found


def _spectrum(name: str, weight: Tensor, kernels: Kernels) -> Spectrum:
    matrices = _matrices(weight.to("cpu", torch.float64), kernels)
    require_finite(matrices.flatten(0, 1))
    values = torch.linalg.svdvals(matrices).flatten().square().numpy()
    floor = rounding_floor(
        float(np.sqrt(values.max())),
        dimension=max(matrices.shape[1:]),
        epsilon=torch.finfo(torch.float64).eps,
    )
    made: dict[str, JsonValue] = {
        "method": "exact",
        "factorization": "svd",
        "weight": name,
        "shape": [int(size) for size in weight.shape],
        "kernels": kernels,
        "num_matrices": len(matrices),
    }
    return Spectrum.from_eigenvalues(values, noise_floor=floor**2, provenance=made)
