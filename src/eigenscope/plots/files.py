"""Figures as bytes and as files."""

import io
from pathlib import Path
from typing import Any, Final, Literal, cast

import matplotlib as mpl
from matplotlib.figure import Figure

from eigenscope._types import require_choice
from eigenscope.store import write_atomically

ImageFormat = Literal["png", "pdf", "svg"]

_DOTS_PER_INCH: Final = 150
# Without dates and random names the same figure gives the same bytes; TrueType fonts
# are what publishers ask for.
_SETTINGS: Final[dict[Any, Any]] = {"svg.hashsalt": "eigenscope", "pdf.fonttype": 42}
_UNDATED: Final[dict[ImageFormat, dict[str, Any]]] = {
    "png": {},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}


def render_figure(figure: Figure, *, image_format: ImageFormat = "png") -> bytes:
    r"""Draw a figure into the bytes of a file, at 150 dots per inch if it has dots.

    Args:
        figure: The figure.
        image_format: "png", "pdf" or "svg".

    Returns:
        The file's content; the same figure gives the same bytes.

    Raises:
        ValueError: If the format is unknown.

    Example:
        >>> render_figure(Figure())[:4]
        b'\x89PNG'
    """
    require_choice("image_format", image_format, ImageFormat)
    content = io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(
            content,
            format=image_format,
            dpi=_DOTS_PER_INCH,
            metadata=_UNDATED[image_format],
        )
    return content.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, all or nothing.

    Args:
        figure: The figure.
        path: Its suffix says the format: .png, .pdf or .svg.

    Raises:
        ValueError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    suffix = cast("ImageFormat", path.suffix.lower().removeprefix("."))
    if suffix not in _UNDATED:
        raise ValueError(
            f"a figure's file must end in .png, .pdf or .svg; got {path.name!r}."
        )
    write_atomically(path, render_figure(figure, image_format=suffix))
