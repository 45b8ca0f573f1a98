"""`eigenscope fit`: the tail of eigenvalues in a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from eigenscope._types import JsonValue
from eigenscope.analysis import PowerLaw, fit_power_law
from eigenscope.budget import require_fits
from eigenscope.cli.options import FitOptions
from eigenscope.cli.tables import formatted
from eigenscope.experiments import tail_numbers
from eigenscope.plots import save_figure, spectrum_figure
from eigenscope.spectra import Spectrum

_RULES = ("scan", "peak")
_HELD, _HELD_TEXT = {".npy": 2, ".npz": 3}, 9  # times the file, as it is read
_UNDECIDED = 0.1  # the customary p-value above which the sign of R means nothing


def run_fit(options: FitOptions) -> None:
    """Fit, compare with other laws, draw if asked, and print."""
    values = read_values(options.file, memory=options.memory)
    fit = fit_power_law(
        values, xmin=_xmin(options.xmin), xmax=options.xmax, memory=options.memory
    )
    numbers = tail_numbers(fit, num_replicas=options.replicas, seed=options.seed)
    if options.figure is not None:
        _draw(values, fit, options)
    if options.json:
        print(json.dumps(numbers, indent=2))
        return
    for name, text in _lines(fit, numbers):
        print(f"{name:<27} {text}")
    if options.figure is not None:
        print(f"{'figure':<27} {options.figure}")


def read_values(
    path: Path, *, memory: str | int | None = None
) -> Spectrum | np.ndarray:
    """Read eigenvalues from a file.

    Args:
        path: A saved spectrum (.npz), a NumPy array (.npy) or numbers as text.
        memory: Budget for reading it.

    Returns:
        The spectrum, or an array of numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no numbers, or does not fit the budget.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    require_fits(
        _HELD.get(path.suffix, _HELD_TEXT) * path.stat().st_size,
        memory,
        what=f"the numbers of {path}, as they are read,",
        way_out="or split the file",
    )
    if path.suffix == ".npz":
        return Spectrum.load(path)
    try:
        values = _of_array(path) if path.suffix == ".npy" else _of_text(path)
    except (ValueError, EOFError) as error:
        has_objects = "pickle" in str(error)
        found = "an array of Python objects" if has_objects else str(error)
        raise ValueError(_wrong_file(path, found)) from error
    if values.dtype.kind not in "fiu" or not values.size:
        found = f"{values.size} values of type {values.dtype}"
        raise ValueError(_wrong_file(path, found))
    return values.astype(np.float64).ravel()


def _of_array(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _of_text(path: Path) -> np.ndarray:
    lines = path.read_text(encoding="utf-8").splitlines()
    words = " ".join(line.partition("#")[0] for line in lines).replace(",", " ")
    return np.array([float(word) for word in words.split()])


def _wrong_file(path: Path, found: str) -> str:
    return (
        f"{path} must hold real numbers: a saved spectrum (.npz), a NumPy array (.npy) "
        f"or text with numbers between blanks, commas or line ends; got {found}."
    )


def _lines(fit: PowerLaw, numbers: dict[str, JsonValue]) -> list[tuple[str, str]]:
    left_out = f"{fit.num_below_floor} at or below {formatted(fit.noise_floor)}"
    if fit.xmax is not None:
        left_out += f", {fit.num_above_xmax} above xmax"
    xmax = "" if fit.xmax is None else f" to {formatted(fit.xmax)}"
    lines = [
        ("α", f"{formatted(fit.alpha)} ± {formatted(fit.alpha_stderr)}"),
        ("xmin", f"{formatted(fit.xmin)}{xmax} ({fit.rule})"),
        ("KS distance", formatted(fit.ks_distance)),
        ("values in the tail", f"{fit.num_tail} of {fit.num_values}"),
        ("values left out", left_out),
    ]
    if "p_value" in numbers:
        lines.append(("p-value", _p_value(numbers)))
    return lines + [
        (name.replace("_", " "), _ratio(name, value))
        for name, value in numbers.items()
        if isinstance(value, dict)
    ]


def _p_value(numbers: dict[str, JsonValue]) -> str:
    value, count = numbers["p_value"], numbers["num_replicas"]
    replicas = f"from {count} replicas"
    if value == 0:
        return f"< 1/{count}, {replicas}"
    error = formatted(numbers["p_value_stderr"])
    return f"{formatted(value)} ± {error}, {replicas}"


def _ratio(name: str, value: dict[str, JsonValue]) -> str:
    ratio, p_value = value["normalized_ratio"], value["p_value"]
    text = f"R = {formatted(ratio)}, p = {formatted(p_value)}"
    if not isinstance(ratio, float) or not isinstance(p_value, float):
        return text
    if p_value > _UNDECIDED or ratio == 0:
        return f"{text}: undecided"
    other = name.removeprefix("against_").replace("_", " ")
    return f"{text}: prefers the {'power law' if ratio > 0 else other}"


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
