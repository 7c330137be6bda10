"""The page shows the facts and nothing else, and every chart's numbers in words too."""

import json
import re
from html import unescape
from typing import Any

import pytest

from converter.recipe import parse_recipe
from converter.report.page import numbers, render
from converter.report.page.sections import SECTIONS
from converter.report.page.sections.layers import relative_error
from tests.converter.report.reports import facts_of, searched

pytest.importorskip("vl_convert")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return facts_of(searched(), evaluation=True)


@pytest.fixture(scope="module")
def page(facts: dict[str, Any]) -> str:
    return render(facts)


def charts(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    content: dict[str, Any] = json.loads(found[1])
    return content


def words(page: str) -> str:
    body = page[page.index("<body>") : page.index("<script>")]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_every_section_is_there_and_linked(page: str, facts: dict[str, Any]) -> None:
    sections = [section for build in SECTIONS if (section := build(facts)) is not None]
    assert len(sections) == len(SECTIONS)
    for section in sections:
        assert page.count(f'<section id="{section.name}"') == 1
        assert f'href="#{section.name}"' in page


def test_every_chart_has_its_place_and_a_description(page: str) -> None:
    drawn = charts(page)
    assert {"layers-chart", "weights-chart", "activations-chart", "cost-time", "cost-memory"} < set(drawn)
    for name, spec in drawn.items():
        assert page.count(f'id="{name}"') == 1
        assert spec["description"]
        assert "url" not in json.dumps(spec)  # the data are in it


def test_the_numbers_stand_in_words_too(page: str, facts: dict[str, Any]) -> None:
    text = words(page)
    for layer in facts["layers"]:
        assert f"{layer['name']} {layer['op']}" in text
        assert numbers.decibels(layer["after_db"]) in text
    for row in facts["activations"]:
        assert f"{row['tensor']} {row['type']} {numbers.plain(row['low'])} {numbers.plain(row['high'])}" in text
    for step in facts["passes"]:
        for reason in step["skipped"].values():
            assert reason in text
    for step in facts["steps"]:
        assert step["name"] in text
    first, last = facts["metrics"]["models"]
    assert numbers.points(last["top1"] - first["top1"]) in text
    assert "4.00x smaller" in text
    assert facts["calibration"]["sha256"] in text
    assert "nan" not in text.lower().split()


def test_the_bars_are_ordered_by_error(page: str, facts: dict[str, Any]) -> None:
    rows = charts(page)["layers-chart"]["data"]["values"]
    expected = {layer["name"]: layer["after_db"] for layer in facts["layers"] if layer["after_db"] is not None}
    assert [row["name"] for row in rows] == sorted(expected, key=expected.__getitem__)
    assert all(row["error"] == relative_error(expected[row["name"]]) for row in rows)
    assert relative_error(20.0) == pytest.approx(10.0)


def test_the_recipe_can_be_run_again(page: str) -> None:
    found = re.search(r'<pre id="recipe"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert found is not None
    assert parse_recipe(unescape(found[1]), "page.toml").passes == searched().passes


def test_searches_show_gains_over_leaving_alone(page: str, facts: dict[str, Any]) -> None:
    step = next(step for step in facts["passes"] if step["name"] == "awq")
    chart = charts(page)[f"searches-{facts['passes'].index(step)}"]
    name, grid = next(iter(step["grids"].items()))
    shown = {(row["alpha"], row["factor"]): row["gain"] for row in chart["data"]["values"] if row["layer"] == name}
    assert shown[(0.0, 1.0)] == 0.0  # that is leaving it alone
    alpha, factor = grid["axes"]["alpha"][1], grid["axes"]["factor"][1]
    assert 10 ** (shown[alpha, factor] / 10) == pytest.approx(grid["plain"] / grid["losses"][1][1], rel=1e-3)


def test_sections_without_facts_are_left_out() -> None:
    page = render(facts_of("int4-weight-only"))
    for name in ("activations", "searches"):
        assert f'<section id="{name}"' not in page
    assert "--evaluate DATA" in words(page)


def test_names_cannot_break_the_page(facts: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script>{{ 7 * 7 }}"
    changed = json.loads(json.dumps(facts).replace('"stem"', json.dumps(evil)))
    page = render(changed | {"model": evil})
    assert "<script>alert" not in page
    assert evil in words(page)
    assert {row["name"] for row in charts(page)["layers-chart"]["data"]["values"]} == {evil, "up", "fc"}


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (numbers.percent(0.8567), "85.67 %"),
        (numbers.percent(None), "–"),
        (numbers.points(-0.0123), "−1.23 points"),
        (numbers.decibels(-3.21), "−3.2 dB"),
        (numbers.share(0.0), "0 %"),
        (numbers.share(3e-6), "< 0.001 %"),
        (numbers.share(0.000153), "0.015 %"),
        (numbers.milliseconds(1234.5), "1,234 ms"),
        (numbers.milliseconds(0.756), "0.76 ms"),
        (numbers.seconds(0.004), "0.00 s"),
        (numbers.seconds(125.4), "2 min 5 s"),
        (numbers.times(0.5, "faster", "slower"), "2.00x slower"),
        (numbers.plain(-0.000012345), "−1.234e−05"),
        (numbers.count(1234567), "1,234,567"),
    ],
)
def test_numbers(shown: str, text: str) -> None:
    assert shown == text
