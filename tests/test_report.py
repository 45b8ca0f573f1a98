import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from eigenscope.plots import render_figure, save_figure
from eigenscope.report import PageFigure, Table, format_cell, write_page

EVIL = "<script>alert('&')</script>"


def png() -> bytes:
    return render_figure(Figure(figsize=(2, 1)))


def page(tmp_path: Path, **changes: Any) -> str:
    parts: dict[str, Any] = {
        "title": "A run",
        "summary": [("model", "lenet"), ("samples", 61706)],
        "tables": [
            Table(title="Spectra", header=("name", "α"), rows=[("logits", 2.41318)])
        ],
        "figures": [PageFigure(title="Tail", caption="Its law.", image=png())],
        "provenance": {"arguments": {"seed": 123456, "outputs": ["logits", "p"]}},
    }
    path = tmp_path / "index.html"
    write_page(path, **(parts | changes))
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags with attributes, text, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())

    def cells(self, tag: str) -> list[str | None]:
        return [attrs.get("class") for name, attrs in self.tags if name == tag]


def test_the_page_holds_title_summary_tables_figures_and_provenance(tmp_path: Path):
    reader = Reader(page(tmp_path))
    assert reader.open == []
    for text in ("A run", "model", "lenet", "61,706", "Spectra", "2.413", "Its law."):
        assert text in reader.texts
    place = reader.texts.index("arguments › seed")
    assert reader.texts[place : place + 4] == [
        "arguments › seed",
        "123456",
        "arguments › outputs",
        "logits, p",
    ]


def test_a_summary_may_be_a_paragraph(tmp_path: Path):
    reader = Reader(page(tmp_path, summary="All is well."))
    assert "All is well." in reader.texts
    assert not reader.cells("dl")


def test_images_are_inside_the_page_bit_for_bit(tmp_path: Path):
    image, file = png(), tmp_path / "figure.png"
    save_figure(Figure(figsize=(3, 1)), file)
    figures = [
        PageFigure(title="bytes", caption="", image=image),
        PageFigure(title="path", caption="", image=file),
    ]
    reader = Reader(page(tmp_path, figures=figures))
    found = [attrs for tag, attrs in reader.tags if tag == "img"]
    sources = [
        str(attrs["src"]).removeprefix("data:image/png;base64,") for attrs in found
    ]
    assert [base64.b64decode(text) for text in sources] == [image, file.read_bytes()]
    assert [(x["width"], x["height"]) for x in found] == [
        ("200", "100"),
        ("300", "100"),
    ]
    assert [attrs["alt"] for attrs in found] == ["bytes", "path"]
    assert "figcaption" not in [tag for tag, _ in reader.tags]


def test_every_name_is_escaped_wherever_it_stands(tmp_path: Path):
    text = page(
        tmp_path,
        title=EVIL,
        summary=[(EVIL, EVIL)],
        tables=[Table(title=EVIL, header=[EVIL], rows=[[EVIL]])],
        figures=[PageFigure(title=EVIL + '"', caption=EVIL, image=png())],
        provenance={EVIL: {EVIL: [EVIL]}},
    )
    assert "<script" not in text
    reader = Reader(text)
    assert reader.open == []
    (alt,) = [attrs["alt"] for tag, attrs in reader.tags if tag == "img"]
    assert alt == EVIL + '"'
    assert reader.texts.count(EVIL) >= 8
    assert "<script" not in page(tmp_path, summary=EVIL)


def test_the_page_needs_no_network_and_no_script(tmp_path: Path):
    text = page(tmp_path)
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import|<script|<link|javascript", text
    )
    reader = Reader(text)
    for _, attrs in reader.tags:
        assert "href" not in attrs
        assert str(attrs.get("src", "data:")).startswith("data:")
    assert "default-src 'none'" in text  # browsers then refuse what slipped through


def test_the_page_suits_phones_and_dark_rooms(tmp_path: Path):
    text = page(tmp_path)
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "@media (prefers-color-scheme: dark)" in text
    for wide in ("table", "img"):
        assert re.search(rf'<div class="scroll"[^>]*>\s*<{wide}', text)


def test_columns_of_numbers_are_aligned_and_those_of_names_are_not(tmp_path: Path):
    table = Table(title="t", header=["run", "α"], rows=[["a", 2.0], ["b", None]])
    reader = Reader(page(tmp_path, tables=[table], provenance={}))
    assert reader.cells("th") == [None, "number"]
    assert reader.cells("td") == [None, "number", None, "number"]


def test_a_table_without_rows_and_a_page_without_parts_are_written(tmp_path: Path):
    empty = Table(title="t", header=["run"], rows=[])
    reader = Reader(page(tmp_path, tables=[empty], figures=[], summary=[]))
    assert reader.open == []
    assert "details" not in [x for x, _ in Reader(page(tmp_path, provenance={})).tags]


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path):
    before = page(tmp_path)
    with pytest.raises(FileNotFoundError):
        page(
            tmp_path,
            title="other",
            figures=[PageFigure(title="x", caption="", image=tmp_path / "no.png")],
        )
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.1, "0.1"),
        (2.41318, "2.413"),
        (-2.5, "−2.5"),
        (9999.4, "9999"),
        (9999.96, "1 × 10⁴"),
        (123456.0, "1.235 × 10⁵"),
        (0.00099996, "0.001"),
        (1.5e-7, "1.5 × 10⁻⁷"),
        (-3e20, "−3 × 10²⁰"),
        (np.float32(0.5), "0.5"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (1024, "1024"),
        (10_000, "10,000"),
        (np.int64(61706), "61,706"),
        (True, "yes"),
        (None, "–"),
        ("lenet", "lenet"),
    ],
)
def test_numbers_have_four_digits_and_powers_of_ten_where_they_help(value, text):
    assert format_cell(value) == text


@pytest.mark.message
def test_an_image_that_is_not_png_is_refused(tmp_path: Path):
    file = tmp_path / "figure.svg"
    save_figure(Figure(figsize=(1, 1)), file)
    with pytest.raises(ValueError, match=r"'Tail' must be PNG; .*figure.svg is not"):
        page(tmp_path, figures=[PageFigure(title="Tail", caption="", image=file)])
    with pytest.raises(ValueError, match="its bytes are not"):
        page(tmp_path, figures=[PageFigure(title="Tail", caption="", image=b"x")])


@pytest.mark.message
def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"'Spectra' must have 2 cells.* row 1 has 3"):
        Table(title="Spectra", header=["a", "b"], rows=[[1, 2], [1, 2, 3]])
