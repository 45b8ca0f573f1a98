"""The interactive report in a real browser, from a file, without a network."""

import csv
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from report_cases import BOLD, EVIL, NUMBERS, exact, train_run

from eigenscope.report import write_report

if TYPE_CHECKING:  # the core install is tested without it
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PHONE = {"width": 390, "height": 844}
READY = "html.live"

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> "Generator[Browser]":
    """Chromium, with a fresh profile; left out without it, but for where it must be."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing = f"no Chromium: none of {', '.join(NAMES)} is on the path"
        if os.environ.get("EIGENSCOPE_REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(f"{missing}; the report's tests in a browser are left out")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one training and, beside it, one that is cut short."""
    folder = tmp_path_factory.mktemp("report")
    runs = [train_run(folder / "long"), train_run(folder / "short", last=2)]
    write_report(runs, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def open_page(browser: "Browser") -> Generator[Open]:
    """Open a file; at the end nothing may have been said or asked for."""
    heard: list[str] = []
    contexts: list[Any] = []

    def opened(path: Path, **options: Any) -> "Page":
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(120_000)  # machines may be busy
        page = context.new_page()
        url = path.as_uri()
        page.on("console", lambda said: heard.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: heard.append(f"uncaught: {error}"))
        page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url == url or asked.url.startswith(("data:", "blob:"))
                else heard.append(f"request: {asked.url}")
            ),
        )
        page.goto(url)
        if options.get("java_script_enabled", True):
            page.wait_for_selector(READY, state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert heard == []


def panel(page: "Page", title: str) -> "Locator":
    """A panel by its title, scrolled to and drawn."""
    found = page.locator("section.panel").filter(
        has=page.get_by_role("heading", name=title, exact=True)
    )
    found.scroll_into_view_if_needed()
    found.locator(".js-plotly-plot").wait_for()
    return found


def traces(found: "Locator") -> list[dict[str, Any]]:
    """What is drawn now: names and points of all curves, without bands."""
    return found.locator(".plot").evaluate(
        """plot => plot.data.filter(t => !t.meta?.isBand).map(t => ({
             name: t.name, x: Array.from(t.x), y: Array.from(t.y),
             number: t.meta?.number, drawn: plot._fullData.length}))"""
    )


def axes(found: "Locator") -> tuple[str, str]:
    types = found.locator(".plot").evaluate(
        "plot => [plot._fullLayout.xaxis.type, plot._fullLayout.yaxis.type]"
    )
    return tuple(types)


def saved(page: "Page", found: "Locator", button: str) -> list[dict[str, str]]:
    with page.expect_download() as caught:
        found.get_by_role("button", name=button, exact=True).click()
    with Path(caught.value.path()).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(found: "Locator", place: int) -> list[str]:
    return found.locator(f"tbody tr td:nth-child({place})").all_inner_texts()


def test_the_slider_moves_the_spectrum(report, open_page):
    page = open_page(report)
    hessian = panel(page, "Hessian")
    slider = hessian.get_by_role("slider")
    said = hessian.locator("output")
    assert said.inner_text() == "epoch or step 8"
    last = {trace["name"]: trace for trace in traces(hessian)}
    assert max(last["long › full"]["x"]) == pytest.approx(9, abs=0.4)
    assert last["short › full"]["number"] == 2  # the latest that there is
    assert "at 2" in hessian.locator("li").nth(2).inner_text()
    slider.fill("0")
    assert said.inner_text() == "epoch or step 0"
    first = {trace["name"]: trace for trace in traces(hessian)}
    assert first["long › full"]["number"] == 0
    assert max(first["long › full"]["x"]) == pytest.approx(1, abs=0.1)
    assert first["long › full"]["y"] != last["long › full"]["y"]
    slider.press("ArrowRight")
    assert said.inner_text() == "epoch or step 1"
    assert max(traces(hessian)[0]["x"]) == pytest.approx(2, abs=0.2)


def test_the_slider_plays_to_the_end_and_stops(report, open_page):
    page = open_page(report)
    hessian = panel(page, "Hessian")
    play = hessian.get_by_role("button", name="Play")
    play.click()
    assert "Pause" in hessian.locator(".slider button").inner_text()
    page.wait_for_function(
        "() => document.querySelector('output').textContent.endsWith(' 8')"
        " && document.querySelector('.slider button').textContent.includes('Play')"
    )
    assert traces(hessian)[0]["number"] == 8


def test_zoom_stays_while_the_slider_moves(report, open_page):
    page = open_page(report)
    hessian = panel(page, "Hessian")
    box = hessian.locator(".nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(
        box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"], steps=5
    )
    page.mouse.up()
    view = "plot => plot._fullLayout.xaxis.range"
    zoomed = hessian.locator(".plot").evaluate(view)
    assert zoomed[1] - zoomed[0] < 5
    hessian.get_by_role("slider").fill("0")
    assert hessian.locator(".plot").evaluate(view) == zoomed


def test_curves_are_switched_on_and_off(report, open_page):
    hessian = panel(open_page(report), "Hessian")
    names = ["long › full", "long › fc.weight", "short › full", "short › fc.weight"]
    assert [trace["name"] for trace in traces(hessian)] == names
    hessian.get_by_role("checkbox").nth(1).uncheck()
    assert [t["name"] for t in traces(hessian)] == [names[0], *names[2:]]
    hessian.get_by_role("button", name="Show none").click()
    assert traces(hessian) == []
    assert "nothing to show" in hessian.locator(".plot").inner_text()
    hessian.get_by_role("button", name="Show all").click()
    assert [trace["name"] for trace in traces(hessian)] == names


def test_axes_are_switched_and_negative_values_stay_in_view(report, open_page):
    hessian = panel(open_page(report), "Hessian")
    assert axes(hessian) == ("linear", "log")
    hessian.get_by_role("button", name="log λ").click()
    assert axes(hessian) == ("log", "log")
    shown = [trace["name"] for trace in traces(hessian)]
    assert shown[:3] == [
        *("long › full", "long › full (negative λ)", "long › fc.weight")
    ]
    hessian.get_by_role("button", name="log density").click()
    assert axes(hessian) == ("log", "linear")
    hessian.get_by_role("button", name="By rank").click()
    assert axes(hessian) == ("log", "log")
    [most, negative] = [t for t in traces(hessian) if t["name"].startswith("long › fu")]
    spectrum = exact(8).values
    assert most["y"] == pytest.approx(spectrum[spectrum > 0][::-1], rel=1e-6)
    assert most["x"] == list(range(1, 31))
    assert negative["y"] == pytest.approx(-spectrum[spectrum < 0], rel=1e-6)
    hessian.get_by_role("button", name="log rank").click()
    assert axes(hessian) == ("linear", "log")


def test_hovering_says_which_curve_and_what(report, open_page):
    page = open_page(report)
    hessian = panel(page, "Hessian")
    box = hessian.locator(".nsewdrag").bounding_box()
    assert box is not None
    for share in (0.02, 0.05, 0.08, 0.11, 0.14):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 150)
        page.wait_for_timeout(200)
        if hessian.locator(".hoverlayer .hovertext").count():
            break
    said = hessian.locator(".hoverlayer").text_content() or ""
    assert "λ = " in said
    assert "density" in said
    assert "›" in said


def test_no_tool_of_a_figure_sends_it_anywhere(report, open_page):
    hessian = panel(open_page(report), "Hessian")
    tools = hessian.locator(".modebar").evaluate(
        """bar => Array.from(bar.querySelectorAll("[data-title], [aria-label]"),
             b => b.dataset.title ?? b.getAttribute("aria-label"))"""
    )
    assert [name for name in tools if name] == [
        *("Download plot", "Zoom", "Pan", "Zoom in", "Zoom out"),
        "Reset axes",
    ]


def test_axes_hold_all_recordings_or_this_one(report, open_page):
    hessian = panel(open_page(report), "Hessian")
    right = "plot => plot._fullLayout.xaxis.range[1]"
    slider = hessian.get_by_role("slider")
    slider.fill("0")
    assert hessian.locator(".plot").evaluate(right) > 9
    hessian.get_by_role("button", name="Axes of all").click()
    assert 1 < hessian.locator(".plot").evaluate(right) < 1.2
    slider.fill("2")
    assert 3 < hessian.locator(".plot").evaluate(right) < 3.4


def test_a_name_has_one_color_in_all_runs_and_a_run_one_dash(report, open_page):
    hessian = panel(open_page(report), "Hessian")
    looks = hessian.locator(".plot").evaluate(
        "plot => plot.data.map(t => [t.line.color, t.line.dash])"
    )
    colors, dashes = zip(*looks, strict=True)
    assert colors[:2] == colors[2:] == ("#0072b2", "#d55e00")
    assert dashes == ("solid", "solid", "dash", "dash")


def test_recorded_numbers_are_lines_with_their_errors(report, open_page):
    top = panel(open_page(report), "hessian top")
    drawn = top.locator(".plot").evaluate(
        "plot => plot.data.map(t => [t.x, t.y, t.error_y.array])"
    )
    assert drawn[0] == [list(NUMBERS), [1, 2, 3, 5, 9], [0.25] * 5]
    assert top.locator(".plot .errorbar").count() == 8
    assert axes(top) == ("linear", "linear")
    top.get_by_role("button", name="log values").click()
    assert axes(top) == ("linear", "log")


def test_tables_are_sorted_by_a_click_and_saved(report, open_page):
    page = open_page(report)
    table = page.locator("section").filter(
        has=page.get_by_role("heading", name="Recorded numbers", exact=True)
    )
    header = table.get_by_role("button", name="last", exact=True)
    header.click()
    up = column(table, 4)
    assert up == ["0.2222", "0.6667", "3", "9", "–", "–"]
    assert table.locator("th").nth(3).get_attribute("aria-sort") == "ascending"
    header.click()
    assert column(table, 4) == ["9", "3", "0.6667", "0.2222", "–", "–"]
    assert column(table, 1)[:2] == ["long", "short"]
    table.get_by_role("button", name="name", exact=True).click()
    names = column(table, 2)
    assert names == sorted(names)
    assert table.locator("th[aria-sort]").count() == 1
    rows = saved(page, table, "CSV")
    last = [float(row["last"]) for row in rows if row["last"]]
    assert sorted(last) == pytest.approx([2 / 9, 2 / 3, 3, 9], rel=1e-15)


def test_downloads_hold_the_numbers(report, open_page):
    page = open_page(report)
    hessian = panel(page, "Hessian")
    rows = saved(page, hessian, "Eigenvalues, CSV")
    mine = [
        (float(row["eigenvalue"]), float(row["count"]))
        for row in rows
        if (row["run"], row["spectrum"], row["number"]) == ("long", "full", "4")
    ]
    spectrum = exact(4)
    assert [value for value, _ in mine] == pytest.approx(spectrum.values, rel=1e-6)
    assert sum(count for _, count in mine) == 100
    assert {row["number"] for row in rows} == set(map(str, NUMBERS))
    rows = saved(page, hessian, "Density, CSV")
    mine = [
        (float(row["eigenvalue"]), float(row["density_per_unit"]))
        for row in rows
        if (row["run"], row["spectrum"], row["number"]) == ("long", "full", "4")
    ]
    step = mine[1][0] - mine[0][0]
    assert step * sum(height for _, height in mine) == pytest.approx(1, abs=2e-3)
    hessian.get_by_role("button", name="log λ").click()
    rows = saved(page, hessian, "Density, CSV")
    signs = [float(row["eigenvalue"]) > 0 for row in rows if row["spectrum"] == "full"]
    assert set(signs) == {True, False}
    assert "density_per_decade" in rows[0]
    rows = saved(page, panel(page, "loss"), "Numbers, CSV")
    assert [row["value"] for row in rows if row["name"] == "test"] == [""] * 8
    train = [
        float(r["value"]) for r in rows if (r["run"], r["name"]) == ("long", "train")
    ]
    assert train == [2 / (1 + number) for number in NUMBERS]


def colors(page: "Page") -> tuple[str, str, str]:
    found = page.evaluate(
        """() => { const plot = document.querySelector(".js-plotly-plot");
          return [getComputedStyle(document.body).backgroundColor,
            plot._fullLayout.font.color, plot.data[0].line.color]; }"""
    )
    return tuple(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_its_switch(report, open_page, scheme):
    page = open_page(report, color_scheme=scheme)
    panel(page, "Hessian")
    other = "dark" if scheme == "light" else "light"
    looks = {"light": ("rgb(255, 255, 255)", "#1b1f24", "#0072b2")}
    looks["dark"] = ("rgb(20, 23, 26)", "#e4e7ea", "#4aa3df")
    assert colors(page) == looks[scheme]
    page.get_by_role("button", name=other.title(), exact=True).click()
    assert colors(page) == looks[other]
    page.get_by_role("button", name=scheme.title(), exact=True).click()
    assert colors(page) == looks[scheme]


def test_a_phone_scrolls_in_one_direction(report, open_page):
    page = open_page(report, viewport=PHONE, has_touch=True, is_mobile=True)
    for title in ("Hessian", "Weights", "loss", "hessian top"):
        found = panel(page, title)
        box = found.locator(".plot").bounding_box()
        assert box is not None
        assert box["width"] <= PHONE["width"]
    page.locator("details").first.locator("summary").click()
    widths = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert page.evaluate(widths) == [PHONE["width"]] * 2
    page.evaluate("scrollTo(1000, 0)")
    assert page.evaluate("scrollX") == 0


def test_hostile_names_stay_text(tmp_path, open_page):
    path = train_run(tmp_path / "run", names=(EVIL, BOLD))
    other = train_run(tmp_path / "x <i>y &amp;")
    write_report([path, other], tmp_path / "r.html", title=EVIL)
    page = open_page(tmp_path / "r.html")
    assert page.title() == EVIL
    hessian = panel(page, "Hessian")
    names = [text.strip() for text in hessian.locator("li .name").all_inner_texts()]
    assert names[0].startswith(f"run › {EVIL} D = 100")
    assert names[1].startswith(f"run › {BOLD} D = ")
    assert names[2].startswith("x <i>y &amp; › full")
    hessian.get_by_role("button", name="Show none").click()
    hessian.get_by_role("checkbox").nth(1).check()
    hessian.get_by_role("button", name="By rank").click()
    box = hessian.locator(".nsewdrag").bounding_box()
    point = hessian.locator(".plot .point").nth(3).bounding_box()
    assert box is not None
    assert point is not None
    page.mouse.move(point["x"] + 2, point["y"] + 2)
    label = hessian.locator(".hoverlayer .hovertext")
    label.first.wait_for()
    assert f"run › {BOLD}" in (label.first.text_content() or "").replace("\xa0", " ")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0
    rows = saved(page, hessian, "Eigenvalues, CSV")
    assert {row["spectrum"] for row in rows} == {EVIL, BOLD, "full", "fc.weight"}


def test_without_scripts_there_are_images_and_tables(report, open_page):
    page = open_page(report, java_script_enabled=False)
    images = page.locator("section.panel img")
    assert images.count() == 4
    for place in range(4):
        images.nth(place).scroll_into_view_if_needed()
        assert images.nth(place).is_visible()
    assert page.locator("table").first.is_visible()
    assert not page.locator("#theme").is_visible()


def test_a_script_of_somebody_else_does_not_run(report, tmp_path, browser):
    text = report.read_text(encoding="utf-8")
    planted = tmp_path / "planted.html"
    planted.write_text(text.replace("<main>", f"<main>{EVIL}"), encoding="utf-8")
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda said: refused.append(said.text))
    page.goto(planted.as_uri())
    page.wait_for_selector(READY, state="attached")
    assert page.evaluate("window.hacked") is None
    assert "Content Security Policy" in " ".join(refused)
    page.close()
