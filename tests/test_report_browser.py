"""The interactive report in a real browser, from a file, without a network."""

import pytest
from browser_pages import axes, browser, column, open_page, panel, report, saved, traces
from report_cases import NUMBERS, exact

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FIXTURES = (browser, open_page, report)


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
