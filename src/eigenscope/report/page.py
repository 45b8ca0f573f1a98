"""One self-contained HTML page of tables and figures."""

import base64
import math
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final, final

import jinja2
from matplotlib.figure import Figure

from eigenscope.plots import save_figure
from eigenscope.store import Run, write_atomically

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SCREEN_SCALE: Final = 2 / 3  # text of 150 dots per inch has then the page's size
_READABLE_SCALE: Final = 0.45  # narrower than this share, an image scrolls instead
_MISSING: Final = "–"
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a page.

    Attributes:
        title: Stands above it.
        header: Names of the columns.
        rows: Cells, as many in each row as there are columns; `format_cell` writes
            them.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(
                    f"every row of the table {self.title!r} must have "
                    f"{len(self.header)} cells, one for each column; row {number} has "
                    f"{len(row)}."
                )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PageFigure:
    """A figure of a page.

    Attributes:
        title: Stands above it, and for it where images are not shown.
        caption: Stands below it.
        image: A PNG image, or the path of one.
    """

    title: str
    caption: str
    image: bytes | Path


def saved_figure(
    run: Run, file: str, figure: Figure, title: str, caption: str
) -> PageFigure:
    """Save a figure among those of a run and return it for the run's page.

    Args:
        run: The run.
        file: Name of the file.
        figure: The figure.
        title: Stands above it on the page.
        caption: Stands below it.

    Returns:
        The figure of the page.
    """
    path = run.figures_path(file)
    save_figure(figure, path)
    return PageFigure(title=title, caption=caption, image=path)


def write_page(
    path: str | Path,
    *,
    title: str,
    summary: str | Sequence[tuple[str, object]],
    tables: Sequence[Table],
    figures: Sequence[PageFigure],
    provenance: Mapping[str, Any],
) -> None:
    """Write one HTML file that needs no other file, no network and no script.

    All text is escaped. The file replaces one of that name in one step.

    Args:
        path: The file; its folder must exist.
        title: Of the page.
        summary: A paragraph, or pairs of a name and a value.
        tables: In order.
        figures: In order.
        provenance: How the results were made; may be nested.

    Raises:
        ValueError: If an image is not PNG.
        OSError: If a file cannot be read or written.
    """
    text = render_template(
        "page.html",
        title=title,
        paragraph=summary if isinstance(summary, str) else "",
        facts=() if isinstance(summary, str) else summary,
        tables=tables,
        figures=[embedded(figure) for figure in figures],
        provenance=list(flattened(provenance)),
    )
    write_atomically(Path(path), text)


def render_template(name: str, **parts: object) -> str:
    """Fill one of the package's templates; all text is escaped.

    Args:
        name: File name of the template.
        parts: What it shows.

    Returns:
        The page.
    """
    folder = resources.files("eigenscope.report")

    def source(file: str) -> str:
        return folder.joinpath(file).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = format_cell
    environment.filters["number"] = _plain_number
    environment.tests["quantity"] = _is_quantity
    return environment.get_template(name).render(**parts, file=source)


def format_cell(value: object) -> str:
    """Write a value for readers: numbers with four significant digits.

    Args:
        value: None and NaN are missing; whole numbers keep all digits; very small and
            large ones become powers of ten; other things are written by `str`.

    Returns:
        The text, not escaped.

    Example:
        >>> [format_cell(value) for value in (2.41318, 61706, 1.5e-7, None, "lenet")]
        ['2.413', '61,706', '1.5 × 10⁻⁷', '–', 'lenet']
    """
    if value is None:
        return _MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}" if abs(int(value)) >= 10_000 else str(int(value))
    if isinstance(value, Real):
        return _format_real(float(value))
    return str(value)


def _format_real(value: float) -> str:
    if math.isnan(value):
        return _MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(float(f"{value:.3e}")) < 1e4:
        return f"{value:.4g}".replace("-", "−")
    mantissa, exponent = f"{value:.3e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def _is_quantity(value: object) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def _plain_number(value: Real | None) -> str:
    """Write a number for machines, with all digits; nothing where it is missing."""
    if value is None or math.isnan(float(value)):
        return ""
    if math.isinf(float(value)):
        return "Infinity" if float(value) > 0 else "-Infinity"
    return str(int(value)) if isinstance(value, Integral) else repr(float(value))


def embedded(figure: PageFigure) -> dict[str, str | int]:
    """Return what a template shows of a figure: its image as a data URL, and sizes.

    Args:
        figure: The figure.

    Returns:
        Values by name.

    Raises:
        ValueError: If the image is not PNG.
    """
    image = figure.image
    content = image.read_bytes() if isinstance(image, Path) else image
    if not content.startswith(_PNG) or len(content) < 24:
        origin = f"{image} is not" if isinstance(image, Path) else "its bytes are not"
        raise ValueError(
            f"the image of figure {figure.title!r} must be PNG; {origin}. Save it with "
            "save_figure(figure, 'name.png')."
        )
    width, height = struct.unpack(">II", content[16:24])
    return {
        "title": figure.title,
        "caption": figure.caption,
        "source": "data:image/png;base64," + base64.b64encode(content).decode(),
        "least_width": int(_READABLE_SCALE * width),
        "width": int(_SCREEN_SCALE * width),
        "height": int(_SCREEN_SCALE * height),
    }


def flattened(tree: Mapping[str, Any], above: str = "") -> Generator[tuple[str, str]]:
    """Write a nested mapping as pairs of a path and a text.

    Args:
        tree: The mapping.
        above: Path of the mapping itself.

    Yields:
        Such as ("arguments › seed", "0").
    """
    for name, value in tree.items():
        path = f"{above} › {name}" if above else str(name)
        if isinstance(value, Mapping):
            yield from flattened(value, path)
        elif isinstance(value, list | tuple):
            yield path, ", ".join(str(item) for item in value) or _MISSING
        else:
            yield path, _MISSING if value is None else str(value)
