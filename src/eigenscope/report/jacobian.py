"""Figures and page of a run of Jacobian spectra, from what the run has saved."""

from collections.abc import Sequence
from pathlib import Path

from eigenscope.experiments import (
    JacobianResults,
    SpectrumResult,
    load_jacobian_results,
)
from eigenscope.plots import (
    diagonal_figure,
    eigenvector_figure,
    spectrum_figure,
)
from eigenscope.report.page import PageFigure, Table, saved_figure, write_page
from eigenscope.spectra import Spectrum
from eigenscope.store import Run

HEADER = (
    "output",
    "layout",
    "D",
    "λ_max",
    "trace",
    "stable rank of 𝒥",
    "effective rank",
    "α",
    "± stderr",
    "xmin",
    "KS",
    "tail",
    "p-value",
    "α at peak",
)


def write_jacobian_page(run: Run) -> Path:
    """Draw every result of a run into its `figures` and write `index.html`.

    Args:
        run: A run of Jacobian spectra.

    Returns:
        The page's path.
    """
    results = load_jacobian_results(run)
    page = run.path / "index.html"
    arguments = run.arguments
    write_page(
        page,
        title=f"Input-output Jacobian of {arguments.get('model')}",
        summary=_summary(results),
        tables=[Table(title="Spectra", header=HEADER, rows=spectrum_rows(results))],
        figures=draw_jacobian_figures(results),
        provenance=provenance(run),
    )
    return page


def draw_jacobian_figures(results: JacobianResults) -> list[PageFigure]:
    """Draw every result of a run into its `figures`.

    Args:
        results: What the run has found.

    Returns:
        The figures with titles and captions.
    """
    return [figure for result in results.spectra for figure in _draw(results, result)]


def spectrum_rows(results: JacobianResults) -> list[Sequence[object]]:
    """Return one row of numbers for each spectrum of a run, as `HEADER` names them."""
    rows: list[Sequence[object]] = []
    for result in results.spectra:
        found, scan = result.spectrum, result.fits.get("scan")
        peak = result.fits.get("peak")
        rows.append(
            (
                result.output,
                result.layout,
                found.dimension,
                float(found.values[-1]),
                found.trace(),
                found.intrinsic_dimension(),
                found.effective_rank(),
                scan.alpha if scan else None,
                scan.alpha_stderr if scan else None,
                scan.xmin if scan else None,
                scan.ks_distance if scan else None,
                scan.num_tail if scan else None,
                recorded_p_value(results.run, result.name),
                peak.alpha if peak else None,
            )
        )
    return rows


def recorded_p_value(run: Run, name: str) -> float | str | None:
    """Return the p-value of a result's tail, a bound where no replica was farther.

    Args:
        run: The run.
        name: Of the result.

    Returns:
        The share, "< 1/N" of N replicas, or None if there were no replicas.
    """
    recorded = run.results.get(name)
    scan = recorded.get("scan") if isinstance(recorded, dict) else None
    if not isinstance(scan, dict) or not isinstance(scan.get("p_value"), float | int):
        return None
    value = float(str(scan["p_value"]))
    return value or f"< 1/{scan['num_replicas']}"


def provenance(run: Run) -> dict[str, object]:
    """Return what a page says about how a run was made.

    Args:
        run: The run.

    Returns:
        Arguments, settings, versions, commit and seconds.
    """
    return {
        "arguments": dict(run.arguments),
        "settings": dict(run.settings),
        "versions": dict(run.manifest.versions),
        "commit": run.manifest.commit,
        "seconds": {k: round(v, 2) for k, v in run.manifest.timing.items()},
    }


def _smoothing(spectrum: Spectrum) -> str:
    """Say how the logarithmic density is smoothed; nothing where there is none."""
    try:
        width = spectrum.density(scale="log").bandwidth
    except ValueError:  # nothing above the noise floor
        return ""
    return f" (smoothed by a Gaussian of σ = {width:.2g} decades)"


def _summary(results: JacobianResults) -> list[tuple[str, str]]:
    run = results.run
    found = run.results
    shape = "×".join(str(size) for size in _integers(found.get("sample_shape")))
    summary = [
        ("model", f"{run.arguments.get('model')}"),
        ("weights", f"{run.arguments.get('weights') or 'initial, from the seed'}"),
        ("data", f"{run.arguments.get('data')}, {run.arguments.get('split')} split"),
        ("samples", f"{found.get('num_samples')} of shape {shape}"),
        ("outputs", f"{found.get('num_outputs')} per sample"),
    ]
    accuracy = found.get("accuracy")
    if isinstance(accuracy, float):
        summary.append(("accuracy on these samples", f"{accuracy:.2%}"))
    return summary


def _draw(results: JacobianResults, result: SpectrumResult) -> list[PageFigure]:
    run, name, drawn = results.run, result.name, list[PageFigure]()
    product = "𝒥𝒥ᵀ" if result.side == "rows" else "𝒥ᵀ𝒥"
    figure = spectrum_figure(
        result.spectrum, result.fits, title=f"{product} of {result.output}"
    )
    caption = (
        f"Eigenvalues of {product}, layout “{result.layout}”: density on a linear and "
        f"on a logarithmic axis{_smoothing(result.spectrum)}, and the tail with its "
        "power-law fits."
    )
    caption += "".join(f" No {rule} fit: {why}" for rule, why in result.notes.items())
    drawn.append(
        saved_figure(run, f"esd_{name}.png", figure, f"Spectrum, {name}", caption)
    )
    if result.diagonal is not None:
        figure = diagonal_figure(
            result.diagonal, result.diagonal_fits, title=f"diag 𝒥𝒥ᵀ, {result.output}"
        )
        caption = "Squared Frobenius norm of every sample's own Jacobian."
        drawn.append(
            saved_figure(
                run,
                f"diagonal_{result.output}.png",
                figure,
                f"Diagonal, {result.output}",
                caption,
            )
        )
    return drawn + _draw_vectors(results, result)


def _draw_vectors(results: JacobianResults, result: SpectrumResult) -> list[PageFigure]:
    """Return pictures of eigenvectors: of 𝒥ᵀ𝒥 as inputs, of 𝒥𝒥ᵀ by sample."""
    run, pairs = results.run, result.eigenpairs
    if pairs is None:
        return []
    if result.vector_side == "columns":
        product = "𝒥ᵀ𝒥"
        caption = "Directions in input space that move the outputs most, over all "
        caption += "samples"
        caption += ", output by output." if result.layout == "samples" else "."
    else:
        product = "𝒥𝒥ᵀ"
        caption = "Entries of the top eigenvectors by sample"
        caption += "." if results.targets is None else ", ordered by class."
    figure = eigenvector_figure(
        pairs,
        side=result.vector_side,
        sample_shape=_integers(run.results.get("sample_shape")),
        targets=results.targets,
        class_names=_class_names(results),
        title=f"Top eigenvectors of {product}, {result.output}",
    )
    file = f"eigenvectors_{result.name}.png"
    return [
        saved_figure(run, file, figure, f"Top eigenvectors, {result.name}", caption)
    ]


def _class_names(results: JacobianResults) -> list[str] | None:
    """Return the names of the classes if every target has one."""
    names = results.run.results.get("class_names")
    targets = results.targets
    if not isinstance(names, list) or targets is None:
        return None
    has_all = int(targets.min()) >= 0 and int(targets.max()) < len(names)
    return [str(name) for name in names] if has_all else None


def _integers(value: object) -> list[int]:
    return [int(item) for item in value] if isinstance(value, list) else []
