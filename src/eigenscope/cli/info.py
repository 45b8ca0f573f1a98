"""`eigenscope info`: what is here, or what a run holds."""

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import eigenscope
from eigenscope.budget import available_memory, format_bytes
from eigenscope.cli.options import InfoOptions
from eigenscope.cli.tables import formatted, terminal_table
from eigenscope.experiments import (
    load_curvature_results,
    load_jacobian_results,
    load_kernel_results,
)
from eigenscope.experiments.stored_results import require_results_fit
from eigenscope.report.curvature import CURVATURE_HEADER, curvature_rows
from eigenscope.report.jacobian import HEADER, spectrum_rows
from eigenscope.report.kernels import KERNEL_HEADER, kernel_rows
from eigenscope.store import Run
from eigenscope.zoo import data_names, model_names

_PACKAGES = ("torch", "torchvision", "pytorchcv", "scikit-learn", "numpy", "zarr")


def run_info(options: InfoOptions) -> None:
    """Print the facts, as text or as JSON."""
    facts = _of_machine() if options.run is None else _of_run(options)
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    lines: list[str] = []
    if options.run is not None:
        header, rows = table_of_run(Run.open(options.run), memory=options.memory)
        lines = [terminal_table(header, rows) if rows else "no spectrum yet"]
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, entry in value.items():
                if name != "results" or not isinstance(entry, dict):
                    print(f"  {key}: {_shown(entry)}")
        else:
            print(f"{name}: {_shown(value)}")
    print(*lines, sep="\n", end="\n" if lines else "")


def table_of_run(
    run: Run, *, memory: str | int | None = None
) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Return header and rows of what a run of any verb has found.

    Args:
        run: The run.
        memory: Budget for its results.

    Returns:
        Names of the columns, and a row for each spectrum.

    Raises:
        ValueError: If its results do not fit the budget.
    """
    require_results_fit([run], memory, purpose="info")
    if run.manifest.verb == "ntk":
        return KERNEL_HEADER, kernel_rows(load_kernel_results(run))
    if run.manifest.verb == "hessian":
        return CURVATURE_HEADER, curvature_rows(load_curvature_results(run))
    return HEADER, spectrum_rows(load_jacobian_results(run))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(formatted(item) for item in value)
    return formatted(value)


def _of_machine() -> dict[str, Any]:
    devices = ["cpu"]
    devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return {
        "eigenscope": eigenscope.__version__,
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": devices,
        "threads": torch.get_num_threads(),
        "available memory": format_bytes(available_memory()),
        "models": list(model_names()),
        "data sets": list(data_names()),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _of_run(options: InfoOptions) -> dict[str, Any]:
    if options.run is None:
        return {}
    run = Run.open(options.run)
    manifest = run.manifest
    arrays = {
        name: f"{array.shape} {array.dtype}, {array.num_written} of "
        f"{array.num_tiles} tiles"
        for name in run.array_names
        for array in [run.open_array(name)]
    }
    return {
        "run": str(run.path),
        "verb": manifest.verb,
        "status": manifest.status,
        "created": manifest.created,
        "updated": manifest.updated,
        "arguments": dict(manifest.arguments),
        "settings": dict(manifest.settings),
        "versions": dict(manifest.versions),
        "commit": manifest.commit,
        "seconds": {k: round(v, 2) for k, v in manifest.timing.items()},
        "arrays": arrays,
        "results": dict(run.results),
    }
