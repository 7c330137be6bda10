"""Values in a console and in a notebook: short, aligned, escaped."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter.display.overview import Glance, Overview
from tests.support.models import images, small_cnn


class Weather(Overview):
    """Two tables, with text that HTML would read as tags."""

    def overview(self) -> Glance:
        wind = Glance("Wind", ("town", "m/s"), (("Ulm", "3"),), numbers=(1,))
        rows = (("Ulm", "21"), ("<b>Bonn", "9"))
        return Glance("Weather of 2 towns & more", ("town", "°C"), rows, ("at <noon>",), (1,), below=wind)


def test_text_is_aligned() -> None:
    assert Weather().summary().splitlines() == [
        "Weather of 2 towns & more",
        "town     °C",
        "Ulm      21",
        "<b>Bonn   9",
        "at <noon>",
        "Wind",
        "town  m/s",
        "Ulm     3",
    ]


def test_a_console_gets_one_line() -> None:
    assert repr(Weather()) == "<Weather of 2 towns & more>"


def test_html_is_escaped_and_whole() -> None:
    page = Weather()._repr_html_()
    texts, open_tags = read(page)
    assert {"<b>Bonn", "at <noon>", "Weather of 2 towns & more", "3"} <= set(texts)
    assert open_tags == []
    assert "<b>Bonn" not in page


def test_a_headline_alone() -> None:
    glance = Glance("Nothing")
    assert glance.text() == "Nothing"
    assert "<table>" not in glance.html()


def test_a_value_has_to_say_what_it_looks_like() -> None:
    with pytest.raises(NotImplementedError, match="Overview does not override overview"):
        Overview().summary()


def read(page: str) -> tuple[list[str], list[str]]:
    """The texts of a page, and the tags that were not closed."""
    texts: list[str] = []
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert tags.pop() == tag

        def handle_data(self, data: str) -> None:
            texts.append(data)

    reader = Reader()
    reader.feed(page)
    reader.close()
    return texts, tags


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """One of everything that a person looks at."""
    folder = tmp_path_factory.mktemp("values")
    model = small_cnn()
    result = converter.convert(model, images(32), recipe="int4", evaluation=images(16, seed=2))
    onnx.save(model, folder / "float.onnx")
    result.save(folder / "int4.onnx")
    paths = folder / "float.onnx", folder / "int4.onnx"
    data = converter.load_data((images(16), np.zeros(16, np.int64)), converter.input_specs(model))
    comparison = converter.compare(*paths, data)
    return {
        "result": result,
        "metrics": result.metrics,
        "comparison": comparison,
        "suggestion": converter.suggest(*paths, comparison, data),
        "inspection": converter.inspect(paths[1]),
        "verification": converter.verify(paths[1], "cpu", data, reference=paths[0]),
        "recipe": result.recipe,
        "dataset": data,
        "pass": result.passes[-1],
        "search": converter.convert_within(model, images(64), converter.Budget(max_drop=100)).search,
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("result", "Result of int4 for cpu: 4 layers, "),
        ("metrics", "Evaluation of float, int4 on 16 images"),
        ("comparison", "Comparison of "),
        ("suggestion", "Suggestion: "),
        ("inspection", "Inspection of "),
        ("verification", "on cpu: passed"),
        ("recipe", "Recipe int4: normalise, "),
        ("dataset", "Dataset of 16 images with labels from data"),
        ("pass", "PassReport of gptq: 4 layers changed, 0 skipped"),
        ("search", "Search within a drop of at most 100 points: "),
    ],
)
def test_every_value_is_one_line_in_a_console(values: dict[str, object], name: str, words: str) -> None:
    shown = repr(values[name])
    assert words in shown
    assert len(shown) < 300
    assert "\n" not in shown


@pytest.mark.parametrize(
    "name", ["result", "metrics", "comparison", "suggestion", "inspection", "verification", "search"]
)
def test_every_value_is_a_table_in_a_notebook(values: dict[str, object], name: str) -> None:
    value = values[name]
    assert isinstance(value, Overview)
    texts, open_tags = read(value._repr_html_())
    assert open_tags == []
    glance = value.overview()
    assert glance.headline in texts
    assert all(cell in texts for row in glance.rows for cell in row if cell)
    lines = value.summary().splitlines()
    assert lines[0] == glance.headline
    assert len(lines) <= 40
    assert all(len(line) < 200 for line in lines)


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "<i>.onnx"
    onnx.save(small_cnn(), path)
    assert "&lt;i&gt;.onnx" in converter.inspect(path)._repr_html_()
