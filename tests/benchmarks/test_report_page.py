"""The page in Chromium: no errors, no network access, usable by keyboard and on a phone."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.report_page import chromium, open_page, opened_page, why_no_browser
from converter.report.files import write_facts
from tests.support.reports import everything, fifty_layers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "-"), pytest.mark.slow]

TITLES = (
    "() => [...document.querySelectorAll('#weights-chart svg [aria-label]')].map(e => e.getAttribute('aria-label'))"
)
PIXELS = 1


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on 52 layers with long names and a search on 78 layers in which some files are nearly the same size."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    facts = fifty_layers(everything())
    last = facts["search"]["attempts"][-1]
    facts["search"]["attempts"] += [{**last, "bytes": last["bytes"] + more} for more in (1, 20, 40)]
    write_facts(path, facts)
    return path


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module", params=["light", "dark"])
def opened(browser: "Browser", report: Path, request: pytest.FixtureRequest) -> "Iterator[tuple[Page, list[str]]]":
    with opened_page(browser, report, scheme=request.param) as opened:
        yield opened


def draw_all(page: "Page") -> None:
    """Scroll through the page. Charts are drawn when they come near."""
    for chart in page.query_selector_all(".chart"):
        chart.scroll_into_view_if_needed()
        page.wait_for_function("id => document.querySelector(`#${id} svg.marks`)", arg=chart.get_attribute("id"))


def test_every_chart_is_drawn_without_an_error(opened: "tuple[Page, list[str]]") -> None:
    page, problems = opened
    draw_all(page)
    assert len(page.query_selector_all(".chart svg.marks")) == 10
    assert problems == []


def test_charts_that_nobody_scrolled_to_are_drawn_too(browser: "Browser", report: Path) -> None:
    with opened_page(browser, report) as (page, problems):
        page.wait_for_function("document.querySelectorAll('.chart svg.marks').length === 10", timeout=20_000)
        assert page.evaluate("window.scrollY") == 0
        assert problems == []


def test_print_shows_the_whole_recipe_in_dark_ink(browser: "Browser", report: Path) -> None:
    with opened_page(browser, report, scheme="dark") as (page, problems):
        page.wait_for_function("document.querySelectorAll('.chart svg.marks').length === 10", timeout=20_000)
        page.emulate_media(media="print")
        cut = "(() => { const box = document.getElementById('recipe'); return box.scrollHeight - box.clientHeight; })()"
        assert page.evaluate(cut) <= PIXELS
        used = "[...document.querySelectorAll('.chart svg *')].map(getComputedStyle).flatMap(s => [s.fill, s.stroke])"
        dark_theme = {"rgb(230, 233, 237)", "rgb(51, 58, 67)", "rgb(20, 23, 27)"}
        assert not dark_theme & set(page.evaluate(used))
        inks = "[...new Set([...document.querySelectorAll('.chart svg text')].map(e => getComputedStyle(e).fill))]"
        assert page.evaluate(inks) == ["rgb(28, 32, 36)"]
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 32, 36)"
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert len(page.query_selector_all(".chart svg.marks")) == 10, "no chart is cleared and drawn again"
        assert problems == []


def test_charts_have_labels(opened: "tuple[Page, list[str]]") -> None:
    page, _ = opened
    draw_all(page)
    for chart in page.query_selector_all(".chart"):
        assert chart.get_attribute("role") == "graphics-document"
        assert chart.get_attribute("aria-label")
    tree = page.locator("body").aria_snapshot()
    assert 'combobox "Weights of layer"' in tree
    assert 'combobox "Search of layer"' in tree
    assert 'heading "Weights"' in tree


def test_the_layer_is_picked_by_keyboard(opened: "tuple[Page, list[str]]") -> None:
    page, problems = opened
    select = page.locator("#weights-layer")
    select.scroll_into_view_if_needed()
    page.wait_for_selector("#weights-chart svg.marks")
    before = page.evaluate(f"JSON.stringify(({TITLES})())")
    first = select.input_value()
    page.get_by_label("Weights of layer").focus()
    page.keyboard.press("End")
    assert select.input_value() != first
    page.wait_for_function(f"before => JSON.stringify(({TITLES})()) !== before", arg=before)
    shown = page.locator("[data-layer-of=weights-layer]:visible")
    assert shown.count() == 1
    assert select.input_value() in shown.inner_text()
    assert problems == []


def test_the_keyboard_reaches_everything(opened: "tuple[Page, list[str]]") -> None:
    page, _ = opened
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"A", "SELECT", "SUMMARY"} <= reached


def test_the_colours_follow_the_reader_s_theme(browser: "Browser", report: Path) -> None:
    with opened_page(browser, report, scheme="light") as (page, problems):
        draw_all(page)
        ink = "getComputedStyle(document.querySelector('#layers-chart .role-axis-label text')).fill"
        light = page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"light => {ink} !== light", arg=light)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert problems == []


@pytest.mark.parametrize("width", [320, 380])
def test_a_phone_needs_no_sideways_scrolling(browser: "Browser", report: Path, width: int) -> None:
    with opened_page(browser, report, width=width, height=800) as (page, problems):
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for chart in page.query_selector_all(".chart"):
            box = chart.bounding_box()
            drawn = page.query_selector(f"#{chart.get_attribute('id')} svg.marks")
            assert box is not None
            assert drawn is not None
            inner = drawn.bounding_box()
            assert inner is not None
            assert inner["width"] <= box["width"] + PIXELS
        assert problems == []


def test_long_names_leave_room_for_numbers_on_a_phone(browser: "Browser", report: Path) -> None:
    with opened_page(browser, report, width=380, height=800) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        cells: list[dict[str, float]] = page.evaluate(
            "() => [...document.querySelectorAll('.scroll tbody th')].map(e => e.getBoundingClientRect().toJSON())"
        )
        assert len(cells) > 100
        assert max(cell["width"] for cell in cells) < 380 / 2
        assert max(cell["height"] for cell in cells) < 100  # a few lines, not one line for each letter


def test_names_of_many_layers_do_not_overlap(browser: "Browser", report: Path) -> None:
    with opened_page(browser, report) as (page, _):
        draw_all(page)
        boxes: list[dict[str, Any]] = page.evaluate(
            "() => [...document.querySelectorAll('#layers-chart .role-axis-label text[text-anchor=end]')]"
            ".map(e => e.getBoundingClientRect()).filter(b => b.right < 300).map(b => ({top: b.top, bottom: b.bottom}))"
        )
        assert len(boxes) == 39  # quantized layers
        boxes.sort(key=lambda box: box["top"])
        assert all(upper["bottom"] <= lower["top"] + PIXELS for upper, lower in pairwise(boxes))


@pytest.mark.parametrize("width", [320, 380, 700, 1200])
def test_names_of_attempts_do_not_overlap(browser: "Browser", report: Path, width: int) -> None:
    with opened_page(browser, report, width=width) as (page, _):
        draw_all(page)
        boxes: list[dict[str, float]] = page.evaluate(
            "() => [...document.querySelectorAll('#attempts-chart .mark-text.role-mark text:not([stroke])')]"
            ".map(e => e.getBoundingClientRect().toJSON())"
        )
        drawn = page.query_selector("#attempts-chart svg.marks")
        assert drawn is not None
        frame = drawn.bounding_box()
        assert frame is not None
        assert len(boxes) >= 6
        for box in boxes:
            assert frame["x"] - PIXELS <= box["left"] < box["right"] <= frame["x"] + frame["width"] + PIXELS
        for one, other in combinations(boxes, 2):
            apart = (
                one["right"] <= other["left"] + PIXELS or other["right"] <= one["left"] + PIXELS,
                one["bottom"] <= other["top"] + PIXELS or other["bottom"] <= one["top"] + PIXELS,
            )
            assert any(apart)


def test_the_report_of_a_large_network_is_a_small_file_without_problems(browser: "Browser", report: Path) -> None:
    opened = open_page(browser, report)
    assert opened.size < 5e6
    assert opened.problems == ()
