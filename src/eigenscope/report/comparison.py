"""Several runs side by side: one figure, one table, one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from eigenscope.experiments import SpectrumResult, load_jacobian_results
from eigenscope.experiments.stored_results import require_results_fit
from eigenscope.plots import comparison_figure, save_figure
from eigenscope.report.csv_files import write_csv
from eigenscope.report.jacobian import recorded_p_value
from eigenscope.report.matching import make_output_folder
from eigenscope.report.page import PageFigure, Table, write_page
from eigenscope.report.runs import open_runs
from eigenscope.store import Run

HEADER = (
    "run",
    "model",
    "data",
    "n",
    "D",
    "λ_max",
    "trace",
    "stable rank of 𝒥",
    "α",
    "± stderr",
    "xmin",
    "KS",
    "tail",
    "p-value",
    "α at peak",
    "accuracy",
)
KEYS = (
    "run",
    "model",
    "data",
    "num_samples",
    "dimension",
    "lambda_max",
    "trace",
    "jacobian_stable_rank",
    "alpha",
    "alpha_stderr",
    "xmin",
    "ks_distance",
    "num_tail",
    "p_value",
    "alpha_at_peak",
    "accuracy",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One spectrum of each of several runs.

    Attributes:
        runs: The runs.
        results: The spectrum of each, of one output and layout.
        labels: A distinct name for each.
    """

    runs: tuple[Run, ...]
    results: tuple[SpectrumResult, ...]
    labels: tuple[str, ...]

    def rows(self) -> list[Sequence[object]]:
        """Return one row of numbers for each run, as `HEADER` names them."""
        rows: list[Sequence[object]] = []
        for run, result, label in zip(
            self.runs, self.results, self.labels, strict=True
        ):
            found, scan = result.spectrum, result.fits.get("scan")
            peak = result.fits.get("peak")
            rows.append(
                (
                    label,
                    run.arguments.get("model"),
                    run.arguments.get("data"),
                    run.results.get("num_samples"),
                    found.dimension,
                    float(found.values[-1]),
                    found.trace(),
                    found.intrinsic_dimension(),
                    scan.alpha if scan else None,
                    scan.alpha_stderr if scan else None,
                    scan.xmin if scan else None,
                    scan.ks_distance if scan else None,
                    scan.num_tail if scan else None,
                    recorded_p_value(run, result.name),
                    peak.alpha if peak else None,
                    run.results.get("accuracy"),
                )
            )
        return rows


def read_comparison(
    paths: Sequence[Path],
    *,
    output: str,
    layout: str,
    memory: str | int | None = None,
) -> Comparison:
    """Read one spectrum of each run.

    Args:
        paths: The runs' folders.
        output: The output to compare.
        layout: The layout to compare.
        memory: Budget for the results that are read.

    Returns:
        The spectra side by side.

    Raises:
        FileNotFoundError: If a folder is no run.
        ValueError: If there is no run or one twice, the results do not fit the budget,
            or a run does not hold that spectrum; says what it holds.
    """
    found = open_runs(paths, purpose="a comparison")
    runs = tuple(found.values())
    require_results_fit(runs, memory, purpose="compare")
    results: list[SpectrumResult] = []
    for run in runs:
        spectra = load_jacobian_results(run).spectra
        chosen = [s for s in spectra if (s.output, s.layout) == (output, layout)]
        if not chosen:
            _require_jacobian_run(run)
            held = ", ".join(s.name for s in spectra) or "none yet"
            raise ValueError(
                f"{run.path} must hold the spectrum {output}_{layout} to be compared; "
                f"it holds {held}. Choose with --output and --layout."
            )
        results += chosen
    return Comparison(runs=runs, results=tuple(results), labels=tuple(found))


def _require_jacobian_run(run: Run) -> None:
    verb = run.manifest.verb
    if verb != "jacobian":
        raise ValueError(
            "a comparison takes runs of `eigenscope jacobian`, whose spectra mean the "
            f"same; {run.path} is one of `eigenscope {verb}`. Show runs of any kind "
            "side by side with `eigenscope report RUN...`."
        )


def write_comparison(comparison: Comparison, out: Path, *, title: str) -> Path:
    """Write `comparison.png`, `comparison.csv` and `index.html` into a folder.

    Args:
        comparison: The spectra.
        out: The folder; made if needed.
        title: What is compared.

    Returns:
        The page's path.

    Raises:
        FileExistsError: If the folder is a run, whose own page would be lost.
    """
    make_output_folder(out)
    pairs = list(zip(comparison.labels, comparison.results, strict=True))
    figure = comparison_figure(
        {label: result.spectrum for label, result in pairs},
        {label: result.fits for label, result in pairs},
        title=title,
    )
    image = out / "comparison.png"
    save_figure(figure, image)
    rows = comparison.rows()
    write_csv(out / "comparison.csv", KEYS, rows)
    page = out / "index.html"
    write_page(
        page,
        title=title,
        summary=[("runs", ", ".join(comparison.labels))],
        tables=[Table(title="Spectra", header=HEADER, rows=rows)],
        figures=[
            PageFigure(
                title="Overlay",
                caption="Spectral densities and tails with their power-law fits.",
                image=image,
            )
        ],
        provenance={str(run.path): dict(run.arguments) for run in comparison.runs},
    )
    return page
