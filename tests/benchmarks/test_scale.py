"""Costs and schedules that the page on scale is computed from."""

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks.scale import (
    CONSTANTS,
    NETWORKS,
    Constants,
    Layer,
    conversion,
    measure_constants,
    search,
    simulate,
    tables,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "millions", "billions"),
    [("ResNet-18", 11.7, 1.82), ("ResNet-50", 25.6, 4.1), ("ConvNeXt-L", 197.8, 34.4), ("ViT-H/14", 632, 162)],
)
def test_networks_have_the_size_of_the_papers(name: str, millions: float, billions: float) -> None:
    layers = NETWORKS[name]
    assert sum(layer.weights for layer in layers) / 1e6 == pytest.approx(millions, rel=0.01)
    assert sum(layer.products for layer in layers) / 1e9 == pytest.approx(billions, rel=0.07)


def test_a_conversion_is_the_sum_of_its_parts() -> None:
    ones = Constants(product=1.0, moment=0.0, solve=0.0, factor=0.0)
    layer = Layer(1000, 100, 50, count=2)
    assert conversion([layer], 10, ones).seconds == pytest.approx(3 * 10 * 2 * 1000 * 100 * 50 / 1e9)
    solving = dataclasses.replace(ones, product=0.0, solve=1.0, factor=2.0)
    assert conversion([layer], 10, solving).seconds == pytest.approx(2 * 1000**2 * (2 * 1000 + 100) / 1e9)
    moments = dataclasses.replace(ones, product=0.0, moment=1.0)
    assert conversion([layer], 10, moments).seconds == pytest.approx(2 * 500 * 1000 * (1000 + 2 * 100) / 1e9)
    wide = dataclasses.replace(layer, outputs=1000)
    assert conversion([wide], 10, moments).seconds == pytest.approx(2 * 500 * 3 * 1000**2 / 1e9)


def test_moments_stop_growing_with_the_samples() -> None:
    layers = NETWORKS["ResNet-50"]
    few, many = (conversion(layers, samples) for samples in (512, 4096))
    assert many.moments < 2 * few.moments
    assert many.network == pytest.approx(8 * few.network)


def test_tasks_fill_the_workers() -> None:
    assert simulate([1.0] * 8, 4, overhead=0).seconds == 2
    assert simulate([3.0, 1.0, 1.0, 1.0], 2, overhead=0).seconds == 3
    assert simulate([1.0] * 8, 4, overhead=0).busy == 1
    assert simulate([0.001] * 1000, 100, overhead=0.01).seconds == pytest.approx(10, rel=0.01)  # the scheduler is full
    assert simulate([1.0] * 1000, 1000, overhead=0, moved=0.1).seconds == pytest.approx(101)  # the storage is


def test_what_dies_starts_again() -> None:
    calm = simulate([10.0] * 1000, 10, overhead=0)
    deadly = simulate([10.0] * 1000, 10, overhead=0, lifetime=100)
    assert calm.retried == 0
    assert 70 < deadly.retried < 140  # each start dies with a chance of a tenth
    assert calm.seconds < deadly.seconds < 1.2 * calm.seconds
    assert deadly == simulate([10.0] * 1000, 10, overhead=0, lifetime=100)


def test_a_search_is_no_faster_than_its_chain() -> None:
    tasks, serial = search(NETWORKS["ResNet-50"], 256)
    one = conversion(NETWORKS["ResNet-50"], 256).seconds
    assert serial == pytest.approx(3 * one)
    assert max(tasks) == pytest.approx(one)
    assert simulate(tasks, 10_000).seconds >= one


@pytest.mark.parametrize(("workers", "least", "most"), [(2, 1.5, 1.7), (4, 2.0, 2.5), (64, 2.2, 3.7)])
def test_searches_are_as_fast_as_the_page_says(workers: int, least: float, most: float) -> None:
    for layers in NETWORKS.values():
        tasks, serial = search(layers, 512)
        faster = (simulate(tasks, 1).seconds + serial) / (simulate(tasks, workers).seconds + serial)
        assert least - 0.05 < faster < most


def test_the_page_has_the_constants_and_the_tables() -> None:
    page = (ROOT / "docs" / "design" / "scale.md").read_text(encoding="utf-8")
    for value in vars(CONSTANTS).values():
        assert f"| {value:.4f} |" in page or f"| {value:g} |" in page
    costs, plans = tables()
    for table in (costs, plans):
        for cells in zip(*(list(column.cells) for column in table.columns), strict=True):
            words = [str(cell) for cell in cells]
            assert words[0].removeprefix("search, ").split(" of ")[0].split(",")[0] in page
    shown = [str(cell) for column in costs.columns[1:] for cell in column.cells]
    assert not [each for each in shown if each not in page]
    assert re.search(r"10\.1 h \| 100 %", page)
    rows = [
        [str(cell) for cell in cells] for cells in zip(*(list(column.cells) for column in costs.columns), strict=True)
    ]
    assert not [row for row in rows if f"| {' | '.join(row)} |" not in page]
    searches: dict[str, list[list[str]]] = {}
    for name, *row in zip(*(list(map(str, column.cells)) for column in plans.columns), strict=True):
        busy = row[3].replace("%", " %")
        if name.startswith("search, "):
            searches.setdefault(name.removeprefix("search, "), []).append([*row[:3], busy])
        else:
            storage = name.rpartition("storage ")[2].removesuffix(" a task").replace("0 s", "free")
            assert f"| {row[0]} | {storage} | {row[2]} | {busy} | {row[4]} |" in page
    for name, runs in searches.items():
        whole = [name, runs[0][1], *(run[2] for run in runs), runs[-1][3]]
        assert f"| {' | '.join(whole)} |" in page


def test_constants_can_be_measured() -> None:
    found = measure_constants(width=64, rows=256, repeats=1)
    assert min(found.product, found.moment) >= 0
