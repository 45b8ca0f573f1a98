"""What follows from the spectra of another measure."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

from torch import nn

from eigenscope._types import require_choice
from eigenscope.analysis import fit_power_law, wasserstein_estimate
from eigenscope.analysis.distance import Scale
from eigenscope.analysis.tail_start import XminRule, require_consistent
from eigenscope.spectra import Estimate, Spectrum
from eigenscope.training.measures.risks import FULL

Spectra = Spectrum | Mapping[str, Spectrum]


def no_calls(model: nn.Module) -> dict[str, "partial[Any]"]:
    """Return nothing: the spectra are another measure's, the rest takes moments.

    Args:
        model: The network, as it is.

    Returns:
        An empty mapping.
    """
    del model
    return {}


@final
class LayerDistances:
    """W₁ between each layer's spectrum and the full one.

    A measure for `es.Recorder`; named "layer_w1" it records "layer_w1/<layer>".

    Args:
        spectra: The measure that gives "full" and the layers, usually the same
            `es.CurvatureSpectra` that is recorded; it is not computed twice.
        scale: As for `es.wasserstein`.

    Raises:
        ValueError: If `scale` is unknown.

    Example:
        >>> import torch
        >>> from eigenscope.training import CurvatureSpectra
        >>> data = (torch.eye(2), torch.zeros(2, 1))
        >>> hessian = CurvatureSpectra(data, nn.MSELoss())
        >>> distances = LayerDistances(hessian)(nn.Linear(2, 1))
        >>> list(distances)
        ['weight', 'bias']
    """

    def __init__(
        self,
        spectra: Callable[[nn.Module], Mapping[str, Spectrum]],
        *,
        scale: Scale = "none",
    ) -> None:
        require_choice("scale", scale, Scale)
        self._spectra = spectra
        self._scale: Scale = scale

    def __call__(self, model: nn.Module) -> dict[str, Estimate]:
        """Return the layers' names to distances, with their errors.

        Args:
            model: The network, as it is.

        Returns:
            The distances; see `es.wasserstein_estimate`.

        Raises:
            ValueError: If there is no spectrum "full", or nothing beside it.
        """
        found = self._spectra(model)
        layers = [name for name in found if name != FULL]
        if FULL not in found or not layers:
            raise ValueError(
                'layer distances need a spectrum "full" and those of layers; the '
                f"measure gave {', '.join(map(repr, found)) or 'none'}. Take "
                "es.CurvatureSpectra with full=True and layers."
            )
        return {
            name: wasserstein_estimate(found[FULL], found[name], scale=self._scale)
            for name in layers
        }

    calls = staticmethod(no_calls)


@final
class TailExponent:
    """The exponent α of the power law that a spectrum's tail follows.

    A measure for `es.Recorder`, with the standard error. Where a spectrum has no tail
    to fit (fewer than two distinct values above its noise floor, or negative ones) α
    is not a number, and the training goes on.

    Args:
        spectra: The measure that gives one spectrum or several by name, usually one
            that is recorded, too; it is not computed twice.
        xmin: As for `es.fit_power_law`.
        xmax: As for `es.fit_power_law`.

    Raises:
        ValueError: If `xmin` or `xmax` is wrong.

    Example:
        >>> import torch
        >>> from eigenscope.training import WeightSpectra
        >>> layer = nn.Linear(3, 3, bias=False)
        >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0, 4.0])))
        >>> alpha = TailExponent(WeightSpectra(), xmin=1.0)(layer)
        >>> print(alpha["weight"])
        1.72135 ± 0.42
    """

    def __init__(
        self,
        spectra: Callable[[nn.Module], Spectra],
        *,
        xmin: XminRule | float = "scan",
        xmax: float | None = None,
    ) -> None:
        require_consistent(xmin, xmax, "unbounded", 1)
        self._spectra, self._xmax = spectra, xmax
        self._xmin: XminRule | float = xmin

    def __call__(self, model: nn.Module) -> Estimate | dict[str, Estimate]:
        """Return α of the spectrum, or of each.

        Args:
            model: The network, as it is.

        Returns:
            The exponents with their standard errors.
        """
        found = self._spectra(model)
        if isinstance(found, Spectrum):
            return self._exponent(found)
        return {name: self._exponent(part) for name, part in found.items()}

    calls = staticmethod(no_calls)

    def _exponent(self, found: Spectrum) -> Estimate:
        try:
            law = fit_power_law(found, xmin=self._xmin, xmax=self._xmax)
        except ValueError:
            missing = float("nan")
            return Estimate(value=missing, stderr=missing, num_matvecs=0)
        return Estimate(value=law.alpha, stderr=law.alpha_stderr, num_matvecs=0)
