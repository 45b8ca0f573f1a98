"""`eigenscope fit`: the tail of eigenvalues in a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eigenscope.analysis import PowerLaw, fit_power_law
from eigenscope.cli.options import FitOptions
from eigenscope.cli.tables import formatted
from eigenscope.plots import save_figure, spectrum_figure
from eigenscope.spectra import Spectrum

_RULES = ("scan", "peak")


def run_fit(options: FitOptions) -> None:
    """Fit, compare with other laws, draw if asked, and print."""
    values = read_values(options.file)
    fit = fit_power_law(values, xmin=_xmin(options.xmin), xmax=options.xmax)
    numbers: dict[str, Any] = dict(fit.summary())
    if options.replicas:
        source = torch.Generator().manual_seed(options.seed)
        goodness = fit.goodness_of_fit(num_replicas=options.replicas, generator=source)
        numbers["p_value"] = goodness.p_value
    for other in ("lognormal", "exponential", "truncated_power_law"):
        ratio = fit.likelihood_ratio("power_law", other)
        numbers[f"against_{other}"] = {
            "normalized_ratio": ratio.normalized_ratio,
            "p_value": ratio.p_value,
        }
    if options.figure is not None:
        _draw(values, fit, options)
    if options.json:
        print(json.dumps(numbers, indent=2))
        return
    for name, value in numbers.items():
        if isinstance(value, dict):
            ratio, p = value["normalized_ratio"], value["p_value"]
            side = "power law" if ratio > 0 else name.removeprefix("against_")
            text = f"R = {ratio:.3g}, p = {p:.3g} (R prefers the {side})"
        else:
            text = formatted(value)
        print(f"{name.replace('_', ' '):<28} {text}")


def read_values(path: Path) -> Spectrum | np.ndarray:
    """Read eigenvalues from a file.

    Args:
        path: A saved spectrum (.npz), a NumPy array (.npy) or numbers as text.

    Returns:
        The spectrum, or an array of numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no numbers.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}.")
    if path.suffix == ".npz":
        return Spectrum.load(path)
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).astype(np.float64).ravel()
        return np.loadtxt(path, dtype=np.float64, delimiter=_delimiter(path)).ravel()
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(
            f"{path} must hold numbers: a saved spectrum (.npz), a NumPy array (.npy) "
            f"or text with one number a line; {error}"
        ) from error


def _delimiter(path: Path) -> str | None:
    return "," if path.suffix == ".csv" else None


def _xmin(given: str) -> Any:
    try:
        return given if given in _RULES else float(given)
    except ValueError:
        raise ValueError(
            f"--xmin must be scan, peak or a number; got {given!r}."
        ) from None


def _draw(values: Spectrum | np.ndarray, fit: PowerLaw, options: FitOptions) -> None:
    if not isinstance(values, Spectrum):
        values = Spectrum.from_eigenvalues(np.sort(values))
    figure = spectrum_figure(values, {fit.rule: fit}, title=options.file.name)
    if options.figure is not None:
        save_figure(figure, options.figure)
        if not options.json:
            print(f"figure: {options.figure}")
