"""Figures and page of the demo: true against random labels."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from eigenscope.experiments import load_jacobian_results
from eigenscope.plots import demo_figure, save_figure
from eigenscope.report.jacobian import (
    HEADER,
    draw_jacobian_figures,
    provenance,
    spectrum_rows,
    write_jacobian_page,
)
from eigenscope.report.page import PageFigure, Table, write_page
from eigenscope.store import Run

OUTPUTS = ("logits", "probabilities")


def write_demo_page(runs: Mapping[str, Run], out: Path) -> tuple[Path, Path]:
    """Draw the runs side by side and write `demo.png` and `index.html`.

    Args:
        runs: Finished runs by kind of labels, "true" and "random".
        out: The folder.

    Returns:
        The paths of page and figure.
    """
    for run in runs.values():
        write_jacobian_page(run)
    results = {
        f"{labels} labels": {r.output: r for r in load_jacobian_results(run).spectra}
        for labels, run in runs.items()
    }
    figure = demo_figure(
        {o: {name: by[o].spectrum for name, by in results.items()} for o in OUTPUTS},
        {o: {name: by[o].fits for name, by in results.items()} for o in OUTPUTS},
        title="Input-output Jacobian of LeNet on digits: true and random labels",
    )
    image, page = out / "demo.png", out / "index.html"
    save_figure(figure, image)
    rows = [
        [labels, *row]
        for labels, run in runs.items()
        for row in spectrum_rows(load_jacobian_results(run))
    ]
    write_page(
        page,
        title="Eigenscope demo",
        summary=[
            ("images", "scikit-learn's 8×8 digits, resized to 32×32 bilinearly"),
            *(
                (f"accuracy, {labels} labels", _accuracies(run))
                for labels, run in runs.items()
            ),
        ],
        tables=[Table(title="Spectra", header=["labels", *HEADER], rows=rows)],
        figures=[
            PageFigure(
                title="True against random labels",
                caption="Spectra of 𝒥𝒥ᵀ over the test images and their tails: the same "
                "network, data and kind of training, with the right labels and with "
                "labels drawn at random, which can only be memorized.",
                image=image,
            ),
            *[
                replace(figure, title=f"{figure.title}, {labels} labels")
                for labels, run in runs.items()
                for figure in draw_jacobian_figures(load_jacobian_results(run))
            ],
        ],
        provenance={labels: provenance(run) for labels, run in runs.items()},
    )
    return page, image


def _accuracies(run: Run) -> str:
    train, test = run.results.get("train_accuracy"), run.results.get("accuracy")
    shown = [
        f"{name} {value:.1%}"
        for name, value in (("training", train), ("test", test))
        if isinstance(value, float)
    ]
    return ", ".join(shown)
