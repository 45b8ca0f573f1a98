"""The report in a browser: colors, small screens, hostile names, foreign scripts."""

from typing import TYPE_CHECKING

import pytest
from browser_pages import PHONE, READY, browser, open_page, panel, report, saved
from report_cases import BOLD, EVIL, train_run

from eigenscope.report import write_report

if TYPE_CHECKING:  # the core install is tested without it
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FIXTURES = (browser, open_page, report)


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
    other = train_run(tmp_path / "=x <i>y &amp;")
    write_report([path, other], tmp_path / "r.html", title=EVIL)
    page = open_page(tmp_path / "r.html")
    assert page.title() == EVIL
    hessian = panel(page, "Hessian")
    names = [text.strip() for text in hessian.locator("li .name").all_inner_texts()]
    assert names[0].startswith(f"run › {EVIL} D = 100")
    assert names[1].startswith(f"run › {BOLD} D = ")
    assert names[2].startswith("=x <i>y &amp; › full")
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
    assert {row["run"] for row in rows} == {"run", "'=x <i>y &amp;"}
    assert min(float(row["eigenvalue"]) for row in rows) < 0  # a number stays one


def test_few_recordings_are_marked_at_whole_numbers(tmp_path, open_page):
    write_report([train_run(tmp_path / "run", last=2)], tmp_path / "r.html")
    top = panel(open_page(tmp_path / "r.html"), "hessian top")
    assert top.locator(".xtick").all_text_contents() == ["0", "1", "2"]


def test_a_printed_page_has_the_figures_that_were_not_scrolled_to(report, open_page):
    page = open_page(report, viewport={"width": 800, "height": 60})
    drawn = page.locator("section.panel .main-svg")
    panel(page, "Hessian")
    before = drawn.count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        "() => [...document.querySelectorAll('section.panel .plot')]"
        ".every(plot => plot.querySelector('.main-svg'))"
    )
    assert drawn.count() > before


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
