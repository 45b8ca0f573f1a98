"""The jobs of functions of numbers that are in memory: spectra, kernels, weights."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from eigenscope.analysis import (
    fit_bulk,
    fit_power_law,
    height_distance,
    principal_angles,
    subspace_overlap,
    summarize,
    wasserstein,
    wasserstein_estimate,
)
from eigenscope.budget import resolve
from eigenscope.kernels import (
    condition_number,
    kernel_alignment,
    kernel_target_alignment,
)
from eigenscope.planning.job import Job
from eigenscope.spectra import Spectrum

Options = dict[str, Any]

_LEAST: Final = 128
_LINEAR: Final = (0, 1)
_OF_PAIRS: Final = (0, 1, 2)
_OF_FACTORS: Final = (1, 2, 3)

VALUES: Final[dict[Callable[..., Any], tuple[tuple[str, ...], tuple[int, ...]]]] = {
    fit_power_law: (("values",), _LINEAR),
    fit_bulk: (("values",), _LINEAR),
    summarize: (("spectrum",), _LINEAR),
    wasserstein: (("a", "b"), _LINEAR),
    wasserstein_estimate: (("a", "b"), _LINEAR),
    height_distance: (("a", "b"), _LINEAR),
    subspace_overlap: (("a", "b"), _LINEAR),
    principal_angles: (("a", "b"), _LINEAR),
    kernel_alignment: (("a", "b"), _OF_PAIRS),
    kernel_target_alignment: (("kernel", "targets"), _OF_PAIRS),
    condition_number: (("kernel",), _OF_FACTORS),
}
"""The arguments that have a size, and how the time grows with it."""


def job_of_values(function: Callable[..., Any], options: Options) -> Job:
    """Return the job of a function of numbers that are in memory.

    It is rehearsed on some of them, evenly taken.

    Args:
        function: One of `VALUES`.
        options: Its arguments by name, defaults included.

    Returns:
        The job.
    """
    names, powers = VALUES[function]
    total = max(_size(options[name]) for name in names)
    tensors = [options[n] for n in names if isinstance(options[n], Tensor)]

    def call_on(size: int) -> Callable[[], object]:
        some = {
            name: _some(value, -(-size * _size(value) // total))
            if name in names
            else value
            for name, value in options.items()
        }
        return lambda: function(**some)

    return Job(
        name=function.__name__.replace("_", " "),
        method=f"{total} {_unit(options[names[0]])}",
        num_samples=total,
        device=tensors[0].device if tensors else torch.device("cpu"),
        call_on=call_on,
        powers=powers,
        chunk=total,
        budget=resolve(options.get("memory")),
        passes=0.0,
        least=_LEAST,
        has_arrays=not tensors,
    )


def _size(value: Any) -> int:
    """Return the numbers, or the rows."""
    if isinstance(value, Spectrum):
        return len(value.values)
    return len(value) if hasattr(value, "__len__") else 1


def _some(value: Any, size: int) -> Any:
    """Return so many entries of a value: of a kernel rows and columns.

    Some rows of independent vectors may depend on each other; random ones do not.
    """
    total = _size(value)
    if size >= total or isinstance(value, Mapping):
        return value
    places = np.linspace(0, total - 1, size).round().astype(int)
    if isinstance(value, Spectrum):
        return _part(value, places)
    if not isinstance(value, Tensor):
        return np.asarray(value)[places]
    chosen = torch.from_numpy(places).to(value.device)
    if value.ndim > 1 and value.shape[0] == value.shape[1]:
        return value.index_select(0, chosen).index_select(1, chosen)
    some = value.index_select(0, chosen)
    return torch.rand_like(some) if some.is_floating_point() else some


def _part(spectrum: Spectrum, places: np.ndarray) -> Spectrum:
    """Return the spectrum of some eigenvalues; an estimate's probes need all."""
    if not spectrum.exact:
        return spectrum
    return Spectrum.from_eigenvalues(spectrum.values[places])


def _unit(value: Any) -> str:
    return "eigenvalues" if isinstance(value, Spectrum | np.ndarray | list) else "rows"
