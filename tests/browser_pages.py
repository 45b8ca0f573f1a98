"""A real browser, a report to open in it from a file, and what to look for there."""

import csv
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from report_cases import train_run

from eigenscope.report import write_report

if TYPE_CHECKING:  # the core install is tested without it
    from playwright.sync_api import Browser, Locator, Page

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
