"""Runs for reports: small, of every kind, and with names that want to be markup."""

from pathlib import Path
from typing import Any

import numpy as np
from cli_cases import OWN, factory
from torch import nn

import eigenscope as es
from eigenscope.cli import main
from eigenscope.spectra import Estimate

EVIL = "<script>window.hacked=1</script>"
BOLD = "<b>bold</b> & %{x} </script><img src=x onerror='window.hacked=1'>"
NUMBERS = (0, 1, 2, 4, 8)


def exact(number: int) -> es.Spectrum:
    """40 eigenvalues of both signs, 60 zeros; the largest is 1 + number."""
    values = np.concatenate([-np.geomspace(1e-3, 0.5, 10), np.geomspace(1e-3, 1, 30)])
    values[-1] += number
    return es.Spectrum.from_eigenvalues(values, dimension=100, noise_floor=1e-9)


def positive(number: int) -> es.Spectrum:
    return es.Spectrum.from_eigenvalues(np.geomspace(1e-2, 1, 25) * (1 + number))


def train_run(
    path: Path, *, names: tuple[str, str] = ("full", "fc.weight"), last: int = 8
) -> Path:
    """A recorded training whose largest eigenvalue is 1 + number, its loss 2 / that."""
    numbers = [number for number in NUMBERS if number <= last]
    network, at = nn.Linear(1, 1), {"number": 0}
    measures: dict[str, Any] = {
        "hessian": lambda _: {
            names[0]: exact(at["number"]),
            names[1]: positive(at["number"]),
        },
        "weights": lambda _: {"fc.weight": positive(at["number"])},
        "loss": lambda _: {"train": 2 / (1 + at["number"]), "test": float("nan")},
        "hessian_top": lambda _: Estimate(
            value=1.0 + at["number"], stderr=0.25, num_matvecs=3
        ),
    }
    arguments = {"model": names[0], "data": "digits", "seed": 3, "dtype": "float32"}
    with es.Run.create(path, verb="train", arguments=arguments) as run:
        recorder = es.Recorder(run, measures)
        for number in numbers:
            at["number"] = number
            recorder.record(network, number)
        if last == NUMBERS[-1]:
            run.complete()
    return path


def verb_runs(folder: Path) -> list[Path]:
    """One run of each verb that computes spectra, of the module of `cli_cases`."""
    data = ["--data", factory("pairs"), "--model", factory("net")]
    main([*OWN, "--out", str(folder / "jac")])
    main(["ntk", *data, "--kernel", "trace", "conjugate", "--out", str(folder / "ntk")])
    hessian = ["hessian", *data, "--operator", "hessian", "gauss-newton"]
    main([*hessian, "--layers", "parameter", "--out", str(folder / "curv")])
    return [folder / name for name in ("jac", "ntk", "curv")]
