"""The page shows the facts and nothing else. The numbers of every chart are also in its text."""

import copy
import json
import math
import re
from html import unescape
from typing import Any

import pytest

from converter.display import numbers
from converter.recipes.toml import parse_recipe
from converter.report.page.contents import SECTIONS
from converter.report.page.render import render
from converter.report.page.sections.attempts import attempts
from converter.report.page.sections.bits import alone_db
from converter.report.page.sections.layers import relative_error
from tests.support.reports import everything, facts_of, searched, within_bytes

pytest.importorskip("vl_convert")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return everything()


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


def test_what_the_upright_mark_is(page: str, facts: dict[str, Any]) -> None:
    assert "The upright mark is what plain rounding to the same bits would give." in words(page)
    corrected = copy.deepcopy(facts)
    names = [layer["name"] for layer in facts["layers"] if layer["before_db"] is not None]
    changed = dict.fromkeys(names, "trained")
    corrected["passes"].append(facts["passes"][-1] | {"name": "mine", "stage": "refinement", "changed": changed})
    text = words(render(corrected))
    assert "The upright mark is the error before mine." in text
    assert "before mine and as written" in text


def test_every_chart_has_its_place_and_a_description(page: str) -> None:
    drawn = charts(page)
    assert {"layers-chart", "weights-chart", "activations-chart", "cost-time", "cost-memory"} < set(drawn)
    for name, spec in drawn.items():
        assert page.count(f'id="{name}"') == 1
        assert spec["description"]
        assert "url" not in json.dumps(spec)  # the data are inside the page


def test_the_text_has_the_numbers_of_the_charts(page: str, facts: dict[str, Any]) -> None:
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


def test_searches_show_gains_over_the_unchanged_layer(page: str, facts: dict[str, Any]) -> None:
    step = next(step for step in facts["passes"] if step["name"] == "awq")
    chart = charts(page)[f"searches-{facts['passes'].index(step)}"]
    name, grid = next(iter(step["grids"].items()))
    shown = {(row["alpha"], row["factor"]): row["gain"] for row in chart["data"]["values"] if row["layer"] == name}
    assert shown[(0.0, 1.0)] == 0.0  # the unchanged layer
    alpha, factor = grid["axes"]["alpha"][1], grid["axes"]["factor"][1]
    assert 10 ** (shown[alpha, factor] / 10) == pytest.approx(grid["plain"] / grid["losses"][1][1], rel=1e-3)


def test_attempts_are_in_the_text_and_in_the_plot(page: str, facts: dict[str, Any]) -> None:
    search, text, chart = facts["search"], words(page), charts(page)["attempts-chart"]
    assert "Budget: at most 12,200 bytes and at most 1000 ms." in text
    assert f"judged on {search['held_out']} samples that did not calibrate" in text
    drawn = {row["place"]: row for row in chart["data"]["values"]}
    assert len(drawn) == len(search["attempts"]) > 2
    for index, attempt in enumerate(search["attempts"]):
        row = drawn[index]
        kept = index == search["kept"]
        why = "kept" if kept else "holds" if attempt["holds"] else attempt["broken"]
        assert f"{index + 1} {attempt['name']} {why} {numbers.size(attempt['bytes'])}" in text
        assert f"{numbers.decibels(attempt['sqnr_db'])} {numbers.decibels(attempt['predicted_db'])}" in text
        assert (row["bytes"], row["sqnr_db"], row["kept"]) == (attempt["bytes"], attempt["sqnr_db"], kept)
        assert row["verdict"] == ("keeps the budget" if attempt["holds"] else "breaks it")
        better = [
            other
            for other in search["attempts"]
            if (other["bytes"], -other["sqnr_db"]) != (attempt["bytes"], -attempt["sqnr_db"])
            and other["bytes"] <= attempt["bytes"]
            and other["sqnr_db"] >= attempt["sqnr_db"]
        ]
        assert row["front"] == (not better)
        assert row["text"].endswith(", kept") == kept
    (limit,) = [layer for layer in chart["layer"] if layer["mark"]["type"] == "rule" and "data" in layer]
    assert limit["data"]["values"] == [{"bytes": 12_200}]


def test_the_drop_is_plotted_if_it_is_limited(facts: dict[str, Any]) -> None:
    changed = copy.deepcopy(facts)
    changed["search"]["limits"] = {"max_drop": 5.0, "max_bytes": None, "max_latency": None}
    for index, attempt in enumerate(changed["search"]["attempts"]):
        attempt["drop"] = float(index)
    section = attempts(changed)
    assert section is not None
    chart = section.charts["attempts-chart"]
    assert chart["encoding"]["y"]["field"] == "drop"
    low, high = chart["encoding"]["y"]["scale"]["domain"]
    assert low < 0 < 5 < high
    changed["search"]["limits"]["max_drop"] = 100.0  # so far away that the points would be squeezed together
    section = attempts(changed)
    assert section is not None
    assert section.charts["attempts-chart"]["encoding"]["y"]["scale"]["domain"][1] < 10
    assert section.values["limits_drawn"] == 0


def test_attempts_with_many_unknown_values(facts: dict[str, Any]) -> None:
    changed = copy.deepcopy(facts)
    changed["search"] |= {"effects": [], "kept": None, "drop_of": ""}
    for attempt in changed["search"]["attempts"]:
        attempt |= dict.fromkeys(("drop", "counted_drop", "drop_error", "expected_drop", "latency_ms", "speedup"))
        attempt |= {"sqnr_db": None, "holds": False, "broken": "takes 9 bytes"}
    page = render(changed)
    assert "None was kept." in words(page)
    assert '<section id="bits"' not in page
    assert not {name for name in charts(page) if name.startswith(("attempts", "bits"))}


def test_layers_are_ordered_by_the_worth_of_a_bit(page: str, facts: dict[str, Any]) -> None:
    search, text = facts["search"], words(page)
    rows = charts(page)["bits-chart"]["data"]["values"]
    noise = {
        effect["name"]: effect["importance"] * 10 ** (-effect["own_db"]["4"] / 10) / effect["weights"]
        for effect in search["effects"]
    }
    assert list(dict.fromkeys(row["name"] for row in rows)) == sorted(noise, key=noise.__getitem__, reverse=True)
    chosen = {row["name"]: int(row["choice"]) for row in rows if row["chosen"]}
    assert chosen == search["attempts"][search["kept"]]["layer_bits"]
    for effect in search["effects"]:
        bits = chosen[effect["name"]]
        assert f"{effect['name']} {bits} {effect['weights']:,} {numbers.plain(effect['importance'])} 2 bits:" in text
        shown = {row["choice"]: row["db"] for row in rows if row["name"] == effect["name"]}
        for many, db in effect["output_db"].items():  # the importance is their mean in dB
            assert shown[many] == pytest.approx(db, abs=5)
        means = [sum(values[many] for many in effect["output_db"]) / 2 for values in (shown, effect["output_db"])]
        assert means[0] == pytest.approx(means[1], abs=1e-3)


def test_a_layer_without_importance_shows_no_noise() -> None:
    effect = {"name": "a", "weights": 9, "own_db": {"4": 20.0, "8": None}, "output_db": {}, "importance": 0.0}
    assert alone_db(effect) == alone_db(effect | {"importance": None}) == {}
    assert alone_db(effect | {"importance": 0.1}) == {"4": pytest.approx(20 - 10 * math.log10(0.1))}
    changed = copy.deepcopy(within_bytes())
    changed["search"]["effects"][0] |= {"importance": None}
    changed["search"]["effects"][1] |= {"name": "in float"}
    text = words(render(changed))
    assert "in float float" in text
    assert "Float : 1 layer," in text


def test_zeros_are_shown_where_a_layer_is_pruned(facts: dict[str, Any]) -> None:
    assert ">zeros<" not in render(facts)
    changed = copy.deepcopy(facts)
    layer = next(each for each in changed["layers"] if each["weights"])
    layer["pattern"], layer["weights"]["zeros"] = "2:4", 0.54321
    shown = render(changed)
    assert ">zeros<" in shown
    assert "54.32 %" in shown.replace("\xa0", " ")


def test_sections_without_facts_are_left_out() -> None:
    page = render(facts_of("int4-weight-only"))
    for name in ("activations", "searches", "attempts", "bits"):
        assert f'<section id="{name}"' not in page
    assert "no evaluation data were given" in words(page)


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
        (numbers.lost(-0.126), "−0.13 points"),
        (numbers.share(0.0), "0 %"),
        (numbers.share(3e-6), "< 0.001 %"),
        (numbers.share(0.000153), "0.015 %"),
        (numbers.milliseconds(1234.5), "1,234 ms"),
        (numbers.milliseconds(0.756), "0.76 ms"),
        (numbers.seconds(0.004), "0.00 s"),
        (numbers.seconds(125.4), "2 min 5 s"),
        (numbers.ratio(0.5, "faster", "slower"), "2.00x slower"),
        (
            numbers.ratio(0.5, "faster", "slower", (0.4, 0.625)),
            "2.00x slower (1.60 to 2.50, other work ran: not reliable)",
        ),
        (numbers.plain(-0.000012345), "−1.234e−05"),
        (numbers.count(1234567), "1,234,567"),
    ],
)
def test_numbers(shown: str, text: str) -> None:
    assert shown == text


def test_timings_and_what_was_tried(page: str) -> None:
    text = words(page)
    assert "every layer on integers 2.00 ms 2.00x" in text
    assert "as written 1.92 ms 2.08x" in text
    assert "deep 1.040 yes" in text
    assert "stem, up 0.970 no" in text


def test_long_charts_are_folded_and_every_tensor_has_its_own_scale(facts: dict[str, Any]) -> None:
    row, layer = facts["activations"][0], next(each for each in facts["layers"] if each["after_db"] is not None)
    ends = {"low": 0.0, "seen_low": 0.0}
    rows = [
        {**row, **ends, "tensor": f"logit.{i}", "high": 300.0, "seen_high": 240.0, "clipped": 0.0} for i in range(99)
    ]
    rows.append({**row, **ends, "tensor": "sigmoid", "high": 1.0, "seen_high": 0.9, "clipped": 0.01})
    many = [{**layer, "name": f"conv.{i}", "after_db": 10.0 + i} for i in range(99)]
    passes = [{**step, "changed": {}, "skipped": {}, "grids": {}} for step in facts["passes"]]
    page = render({**facts, "activations": rows, "layers": many, "passes": passes, "search": None, "speed": None})
    drawn = charts(page)
    activations = drawn["activations-chart"]["data"]["values"]
    assert len(activations) == 40
    shares = {each["tensor"]: (each["high_share"], each["seen_high_share"]) for each in activations}
    assert shares["sigmoid"] == (1.0, 0.9)
    assert shares["logit.0"] == (1.0, 0.8)
    assert [each["name"] for each in drawn["layers-chart"]["data"]["values"]] == [f"conv.{i}" for i in range(40)]
    text = words(page)
    assert "The 40 tensors that are clipped most; the table has all." in text
    assert "The 40 layers with the largest error; the table has all." in text
    assert "logit.98" in text
    assert "conv.98" in text
