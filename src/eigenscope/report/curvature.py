"""Figures and page of a run of curvature spectra, from what the run has saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from eigenscope.estimators import Verdict
from eigenscope.experiments import CurvatureResult, load_curvature_results
from eigenscope.experiments.curvature_spectra import WHOLE
from eigenscope.plots import curvature_figure, layers_figure
from eigenscope.report.classes import class_figures, class_tables
from eigenscope.report.jacobian import provenance
from eigenscope.report.page import PageFigure, Table, saved_figure, write_page
from eigenscope.store import Run

VERDICTS = "verdicts"
CURVATURE_HEADER = (
    "matrix",
    "block",
    "D",
    "λ_max",
    "λ_min",
    "trace",
    "± stderr",
    "effective rank",
    "outliers",
    "W1 to whole",
    "W1, ranges as one",
    "method",
)
_NAMES = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton", "fisher": "Fisher"}


def write_curvature_page(run: Run) -> Path:
    """Draw every result of a run into its `figures` and write `index.html`.

    Args:
        run: A run of curvature spectra.

    Returns:
        The page's path.
    """
    results = load_curvature_results(run)
    page = run.path / "index.html"
    arguments = run.arguments
    write_page(
        page,
        title=f"Curvature of {arguments.get('model')}",
        summary=[
            ("model", arguments.get("model")),
            ("weights", arguments.get("weights") or "initial, from the seed"),
            ("data", f"{arguments.get('data')}, {arguments.get('split')} split"),
            ("samples", run.results.get("num_samples")),
            ("parameters", run.results.get("num_parameters")),
            ("loss", arguments.get("loss")),
        ],
        tables=[
            Table(
                title="Spectra", header=CURVATURE_HEADER, rows=curvature_rows(results)
            ),
            *class_tables(run),
            *_verdict_tables(run),
        ],
        figures=[
            *class_figures(run),
            *(figure for result in results for figure in _draw(run, result)),
        ],
        provenance=provenance(run),
    )
    return page


def curvature_rows(results: Sequence[CurvatureResult]) -> list[Sequence[object]]:
    """Return one row of numbers for each spectrum, as `CURVATURE_HEADER` names them.

    Args:
        results: Of a run.

    Returns:
        The rows.
    """
    rows: list[Sequence[object]] = []
    for result in results:
        for block in result.spectra:
            said = result.numbers.get(block, {})
            method = said.get("method")
            rows.append(
                (
                    result.operator,
                    block,
                    *(said.get(key) for key in ("dimension", "lambda_max")),
                    *(said.get(key) for key in ("lambda_min", "trace")),
                    said.get("trace_stderr") or None,
                    *(said.get(key) for key in ("effective_rank", "num_outliers")),
                    *(said.get(key) for key in ("w1_none", "w1_range")),
                    method if said.get("converged", True) else f"{method}, too coarse",
                )
            )
    return rows


def verdicts_of(run: Run) -> dict[str, Verdict]:
    """Return what `es.verify` found of the run's matrices, if it was asked.

    Args:
        run: A run of curvature spectra.

    Returns:
        Matrix to verdict.
    """
    saved = cast("dict[str, dict[str, Any]]", run.results.get(VERDICTS) or {})
    return {name: Verdict.from_json(own) for name, own in saved.items()}


def _verdict_tables(run: Run) -> list[Table]:
    rows = [
        (
            *(name, check.name, check.detail, check.error, check.tolerance),
            "passed" if check.has_passed else "FAILED",
        )
        for name, verdict in verdicts_of(run).items()
        for check in verdict.checks
    ]
    header = ("matrix", "check", "what is compared", "error", "allowed", "verdict")
    return [Table(title="Checks", header=header, rows=rows)] if rows else []


def _draw(run: Run, result: CurvatureResult) -> list[PageFigure]:
    name = _NAMES[result.operator]
    drawn: list[PageFigure] = []
    if len(result.spectra) > 1 and WHOLE in result.spectra:
        figure = layers_figure(
            result.spectra, whole=WHOLE, title=f"{name}: diagonal blocks and the whole"
        )
        caption = (
            "Density of every block's spectrum over that of the whole matrix; all "
            "smoothed by the same Gaussian, 1/200 of the range of eigenvalues."
        )
        file = f"layers_{result.operator}.png"
        drawn.append(saved_figure(run, file, figure, f"{name} by layer", caption))
    for place, (block, found) in enumerate(result.spectra.items()):
        figure = curvature_figure(found, title=f"{name}, {block}")
        made = "exact" if found.exact else "estimated from products with probes"
        caption = (
            f"Spectrum of the {name} matrix, {block}; {made}. Density smoothed by a "
            "Gaussian of 1/200 of the range."
        )
        if not found.exact:
            caption += f" Its W1 error is at most {found.error:.2g} (95 %)."
        file = f"spectrum_{result.operator}_{place:03d}.png"
        drawn.append(saved_figure(run, file, figure, f"{name}, {block}", caption))
    return drawn
