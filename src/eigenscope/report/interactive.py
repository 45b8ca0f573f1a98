"""One self-contained interactive page of runs of any kind."""

import base64
import hashlib
import math
import os
import re
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from eigenscope.experiments.stored_results import require_results_fit
from eigenscope.plots import overview_figure, render_figure, series_figure
from eigenscope.report.contents import (
    Contents,
    Curve,
    Line,
    quantity_of,
    read_contents,
)
from eigenscope.report.curves import frames_of, values_each
from eigenscope.report.jacobian import provenance
from eigenscope.report.overviews import (
    number_table,
    run_facts,
    spectrum_table,
    time_table,
)
from eigenscope.report.page import PageFigure, embedded, flattened, render_template
from eigenscope.report.runs import open_runs
from eigenscope.store import write_atomically
from eigenscope.zoo.extras import require_extra

_SCRIPTS: Final = ("tables.js", "panels.js", "spectra.js", "series.js")
_MOST_STATIC: Final = 6  # curves of a figure for readers without scripts
_TITLES: Final = {
    "hessian": "Hessian",
    "gauss-newton": "Gauss-Newton matrix",
    "fisher": "Fisher matrix",
    "jacobian": "Input-output Jacobian",
    "weights": "Weights",
}
_MOST_SHOWN: Final = 8  # curves at first; the others wait in the legend
_CAPTIONS: Final = {
    "linear": "Each curve is a density of weight 1, smoothed by a Gaussian whose σ is "
    "1/200 of the range of all curves of its recording.",
    "log": "Density per decade of |λ| above the noise floor, dotted where λ is "
    "negative, smoothed by a Gaussian of the σ that stands beside each name.",
    "rank": "Eigenvalues of each sign by rank, largest modulus first, down to the "
    "noise floor; dotted where λ is negative. Of an estimate, a point stands for as "
    "many eigenvalues as its weight says.",
    "bands": "Shaded: 95 % confidence of estimates.",
}


def write_report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    memory: str | int | None = None,
) -> Contents:
    """Write runs of any kind as one interactive page, which needs no other file.

    Args:
        paths: Folders of runs, complete or not.
        out: The file, ending in .html; its folder is made.
        title: Of the page; None for the names of the runs.
        memory: Budget such as "4GiB" for the results that are read; half of what is
            available if None.

    Returns:
        What the page shows.

    Raises:
        FileNotFoundError: If a folder is no run.
        ImportError: If Plotly is not installed.
        IsADirectoryError: If `out` is a folder.
        ValueError: If there is no run or one twice, `out` is no .html file, a file of
            a run is damaged, or the results do not fit the budget.
        OSError: If a file cannot be read or written.
    """
    out = Path(out)
    if out.is_dir():
        raise IsADirectoryError(
            f"a report is one file, and {out} is a folder; give --out "
            f"{out / 'report.html'}."
        )
    if out.suffix.lower() not in {".html", ".htm"}:
        raise ValueError(f"the file of a report must end in .html; got {out}.")
    plotly = str(require_extra("plotly.offline", "report").get_plotlyjs())
    runs = open_runs([Path(path) for path in paths], purpose="a report")
    require_results_fit(list(runs.values()), memory, purpose="report")
    contents = read_contents(runs)
    title = title or f"Spectra of {', '.join(contents.runs)}"
    text = _page(contents, title, [_normalized(plotly), *map(_script, _SCRIPTS)])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)
    return contents


def _page(contents: Contents, title: str, scripts: Sequence[str]) -> str:
    most = values_each(
        sum(len(c.spectra) for curves in contents.curves.values() for c in curves)
    )
    is_single = len(contents.runs) == 1
    series = [
        _series_panel(family, lines, is_single=is_single)
        for family, lines in contents.lines.items()
    ]
    spectra = [
        _spectra_panel(family, curves, most, is_single=is_single)
        for family, curves in contents.curves.items()
    ]
    panels = [*spectra, *series]
    notes = [*contents.notes, *_thinning(contents, most)]
    tables = [
        *contents.tables,
        *number_table(contents),
        *spectrum_table(contents),
        *time_table(contents),
    ]
    return render_template(
        "report.html",
        title=title,
        notes=notes,
        runs=[
            {
                "label": label,
                "facts": run_facts(run),
                "provenance": list(flattened(provenance(run))),
            }
            for label, run in contents.runs.items()
        ],
        panels=[
            {"title": data["title"], "image": embedded(image)} for data, image in panels
        ],
        tables=tables,
        data={"panels": [data for data, _ in panels], "captions": _CAPTIONS},
        scripts=scripts,
        script_sources=[_source_of(script) for script in scripts],
        footer=f"Written by Eigenscope {version('eigenscope')}. Figures and their "
        "downloads hold seven digits; the runs hold all.",
    )


def _spectra_panel(
    family: str, curves: Sequence[Curve], most: int, *, is_single: bool
) -> tuple[dict[str, Any], PageFigure]:
    title = _TITLES.get(family, family[:1].upper() + family[1:])
    frames = frames_of(curves, most)
    latest = [curve.spectra[max(curve.spectra, key=_number)] for curve in curves]
    labels = [_label(curve, is_single=is_single) for curve in curves]
    shown = dict(list(zip(labels, latest, strict=True))[:_MOST_STATIC])
    figure = overview_figure(shown, title=title, quantity=quantity_of(family))
    caption = "Densities at the last recording."
    if len(labels) > len(shown):
        caption += f" The first {len(shown)} of {len(labels)} spectra."
    data = {
        "kind": "spectra",
        "title": title,
        "shown": _first_shown(curves),
        "quantity": quantity_of(family),
        "is_signed": any(
            float(found.values[0]) < -found.noise_floor
            for curve in curves
            for found in curve.spectra.values()
        ),
        "has_bands": any(found.quadrature is not None for found in latest),
        "curves": [
            {
                **_named(curve, label, curves),
                "dimension": found.dimension,
                "exact": found.exact,
                "frames": each,
            }
            for curve, label, found, each in zip(
                curves, labels, latest, frames, strict=True
            )
        ],
    }
    return data, PageFigure(title=title, caption=caption, image=render_figure(figure))


def _series_panel(
    family: str, lines: Sequence[Line], *, is_single: bool
) -> tuple[dict[str, Any], PageFigure]:
    title = family.replace("_", " ")
    labels = [_label(line, is_single=is_single) for line in lines]
    shown = {
        label: (line.numbers, line.values, line.stderrs)
        for label, line in list(zip(labels, lines, strict=True))[:_MOST_STATIC]
    }
    figure = series_figure(shown, title=title)
    data = {
        "kind": "series",
        "title": title,
        "shown": _first_shown(lines),
        "lines": [
            {
                **_named(line, label, lines),
                "numbers": line.numbers,
                "values": [_finite(value) for value in line.values],
                "stderrs": [_finite(value) for value in line.stderrs],
            }
            for line, label in zip(lines, labels, strict=True)
        ],
    }
    caption = "" if len(shown) == len(lines) else f"The first {len(shown)} lines."
    return data, PageFigure(title=title, caption=caption, image=render_figure(figure))


def _named(
    item: Curve | Line, label: str, items: Sequence[Curve | Line]
) -> dict[str, str | int]:
    """Return names of a curve, and the places of name and run that say its look."""
    name_place, run_place = _places(item, items)
    return {
        "run": item.run,
        "name": item.name,
        "label": label,
        "name_place": name_place,
        "run_place": run_place,
    }


def _places(item: Curve | Line, items: Sequence[Curve | Line]) -> tuple[int, int]:
    names = list(dict.fromkeys(other.name for other in items))
    runs = list(dict.fromkeys(other.run for other in items))
    return names.index(item.name), runs.index(item.run)


def _first_shown(items: Sequence[Curve | Line]) -> list[int]:
    """Return the places of the curves shown at first: the first names of all runs."""
    order = sorted((_places(item, items), place) for place, item in enumerate(items))
    return sorted(place for _, place in order[:_MOST_SHOWN])


def _thinning(contents: Contents, most: int) -> list[str]:
    """Say which eigenvalues a page leaves out."""
    lengths = [
        len(found.values)
        for curves in contents.curves.values()
        for curve in curves
        for found in curve.spectra.values()
    ]
    count = sum(length > most for length in lengths)
    if not count:
        return []
    said = (
        f"Of {count} of {len(lengths)} spectra this file holds {most:,} eigenvalues "
        "each: the outer quarter at either end as it is, those between averaged in "
        "groups. Densities are those of all eigenvalues."
    )
    return [said]


def _label(item: Curve | Line, *, is_single: bool) -> str:
    return item.name if is_single else f"{item.run} › {item.name}"


def _number(number: int | None) -> int:
    return -1 if number is None else number


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _script(file: str) -> str:
    source = resources.files("eigenscope.report").joinpath(file)
    return _normalized(source.read_text(encoding="utf-8"))


def _normalized(script: str) -> str:
    """Return a script as a browser hashes it; nothing in it may end its element."""
    lines = script.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub("</(?=script)", r"<\\/", lines, flags=re.IGNORECASE)


def _source_of(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
