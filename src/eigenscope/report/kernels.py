"""Figures and page of a run of kernels, from what the run has saved."""

from collections.abc import Sequence
from pathlib import Path

from eigenscope.experiments import KernelResult, KernelResults, load_kernel_results
from eigenscope.plots import (
    FEATURE_EIGENVALUE,
    TANGENT_EIGENVALUE,
    kernel_figure,
    share_figure,
    spectrum_figure,
)
from eigenscope.report.jacobian import provenance
from eigenscope.report.page import PageFigure, Table, saved_figure, write_page
from eigenscope.store import Run

KERNEL_HEADER = (
    "kernel",
    "D",
    "λ_max",
    "λ_max / λ_min",
    "trace",
    "effective rank",
    "target alignment",
    "α",
    "± stderr",
    "xmin",
    "KS",
    "tail",
)


def write_kernel_page(run: Run) -> Path:
    """Draw every result of a run into its `figures` and write `index.html`.

    Args:
        run: A run of kernels.

    Returns:
        The page's path.
    """
    results = load_kernel_results(run)
    figures = [f for result in results.kernels for f in _draw(results, result)]
    if results.shares:
        figure = share_figure(results.shares, title="Tangent kernel by parameter")
        caption = "Share of the trace of the tangent kernel, Σ (∂z/∂θ)²."
        figures.append(saved_figure(run, "shares.png", figure, "Shares", caption))
    page = run.path / "index.html"
    write_page(
        page,
        title=f"Kernels of {run.arguments.get('model')}",
        summary=_summary(results),
        tables=[
            Table(title="Kernels", header=KERNEL_HEADER, rows=kernel_rows(results))
        ],
        figures=figures,
        provenance=provenance(run),
    )
    return page


def kernel_rows(results: KernelResults) -> list[Sequence[object]]:
    """Return one row of numbers for each kernel, as `KERNEL_HEADER` names them."""
    rows: list[Sequence[object]] = []
    for result in results.kernels:
        found, scan = result.spectrum, result.fits.get("scan")
        numbers = results.run.results.get(result.kind)
        recorded = numbers if isinstance(numbers, dict) else {}
        rows.append(
            (
                result.kind,
                found.dimension,
                float(found.values[-1]),
                recorded.get("condition_number"),
                found.trace(),
                found.effective_rank(),
                recorded.get("target_alignment"),
                scan.alpha if scan else None,
                scan.alpha_stderr if scan else None,
                scan.xmin if scan else None,
                scan.ks_distance if scan else None,
                scan.num_tail if scan else None,
            )
        )
    return rows


def _summary(results: KernelResults) -> list[tuple[str, object]]:
    run = results.run
    arguments, found = run.arguments, run.results
    summary: list[tuple[str, object]] = [
        ("model", arguments.get("model")),
        ("weights", arguments.get("weights") or "initial, from the seed"),
        ("data", f"{arguments.get('data')}, {arguments.get('split')} split"),
        ("samples", found.get("num_samples")),
        ("outputs", f"{found.get('num_outputs')}, {arguments.get('output')}"),
    ]
    aligned = found.get("tangent_conjugate_alignment")
    if isinstance(aligned, float):
        summary.append(("alignment of tangent and conjugate kernel", aligned))
    return summary


def _draw(results: KernelResults, result: KernelResult) -> list[PageFigure]:
    run, kind = results.run, result.kind
    is_tangent = kind != "conjugate"
    name = f"{kind} tangent kernel" if is_tangent else "conjugate kernel"
    figure = spectrum_figure(
        result.spectrum,
        result.fits,
        title=f"Spectrum of the {name}",
        quantity=TANGENT_EIGENVALUE if is_tangent else FEATURE_EIGENVALUE,
    )
    caption = (
        f"Eigenvalues of the {name}: density on a linear and on a logarithmic axis, "
        "and the tail with its power-law fits."
    )
    caption += "".join(f" No {rule} fit: {why}" for rule, why in result.notes.items())
    drawn = [saved_figure(run, f"esd_{kind}.png", figure, f"Spectrum, {kind}", caption)]
    kernel, targets = results.shown(result)
    figure = kernel_figure(
        kernel, title=f"The {name}", targets=targets, class_names=_names(results)
    )
    caption = f"Cosines of the {name} between {len(kernel)} samples"
    caption += "." if targets is None else ", ordered by class."
    if kind == "full":
        caption += " Outputs are summed (the trace)."
    drawn.append(
        saved_figure(run, f"kernel_{kind}.png", figure, f"Kernel, {kind}", caption)
    )
    return drawn


def _names(results: KernelResults) -> list[str] | None:
    """Return the names of the classes if every target has one."""
    names, targets = results.run.results.get("class_names"), results.targets
    if not isinstance(names, list) or targets is None:
        return None
    has_all = int(targets.min()) >= 0 and int(targets.max()) < len(names)
    return [str(name) for name in names] if has_all else None
