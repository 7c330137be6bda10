"""Tables: no number is cut, columns fit the terminal, and captions and rows say what they should."""

import dataclasses
import io
import math
import re
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from converter import convert
from converter.cli.suggestions import suggested_options
from converter.comparison.compare import Comparison, ImageError, LayerError
from converter.comparison.suggestion import Suggestion
from converter.display import numbers
from converter.evaluation.evaluate import Evaluation, Measurement
from converter.inspection.inspect import InspectedLayer, Inspection
from converter.pipeline.result import LayerReport
from converter.recipes.builtin import RECIPES
from converter.report import table
from converter.report.comparison import comparison_tables, suggestion_text
from converter.report.progress import progress_bars
from converter.report.targets import facts_table, targets_table
from converter.targets.catalog import TARGETS, find_target
from converter.targets.target import Target
from passes.numerics.distribution import BINS, Distribution
from tests.support.models import images, small_cnn

LONG = "features.12.blocks.3.inverted_residual.conv.depthwise.0.convolution"


def shown(*renderables: object, width: int | None = None) -> str:
    file = io.StringIO()
    if width is None:
        table.show(renderables, file)  # type: ignore[arg-type]
    else:
        console = Console(file=file, width=width, force_terminal=True, color_system=None)
        for renderable in renderables:
            console.print(renderable)
    return file.getvalue()


def layer(name: str, bits: int = 4, activation_bits: int = 8, db: float | None = 25.0, reason: str = "") -> LayerReport:
    granularity = "channel" if bits < 32 else ""
    return LayerReport(name, "Conv", (8, 3, 3, 3), bits, bits, granularity, activation_bits, 20.0, db, "", reason)


def measured(name: str, **values: float | None) -> Measurement:
    figures: dict[str, Any] = {
        "top1": 0.8103, "agreement": 0.987, "sqnr_db": 31.25, "latency_ms": 1234.5, "speedup": 2.875,
    }  # fmt: skip
    return Measurement(model=name, bytes=46_812_345, images=10_000, **(figures | values))


def inspection() -> Inspection:
    rows = (
        InspectedLayer(LONG, "Conv", 4, "int4 cast", 1_234_567, "channel", 8, "uint8", True, ""),
        InspectedLayer("fc", "Gemm", 32, "float32", 8_765_432, "", 32, "float32", False, "weight is float32"),
    )
    facts = {
        "bytes": 9_999_999,
        "opsets": {"ai.onnx": 21},
        "producer": "",
        "recipe": "int4",
        "inputs": {},
        "outputs": {},
    }
    return Inspection(facts, rows, {"int4": 1_234_567, "float32": 8_765_432})


@pytest.mark.parametrize("width", [None, 100, 80])
def test_numbers_are_never_cut(width: int | None) -> None:
    text = shown(*table.inspection_tables(inspection()), width=width)
    assert "1,234,567" in text
    assert "8,765,432" in text
    evaluation = Evaluation({"images": 10_000}, (measured("float.onnx", sqnr_db=None), measured(f"{LONG}.onnx")))
    text = shown(table.evaluation_table(evaluation), width=width)
    for number in ("46.8 MB", "81.03 %", "98.70 %", "31.2 dB", "1,234 ms", "2.88x"):
        assert number in text
    assert "…" not in text


@pytest.mark.parametrize("width", [100, 80])
def test_tables_fit_the_terminal(width: int) -> None:
    text = shown(*table.inspection_tables(inspection()), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert LONG[:8] in text


def test_a_pipe_gets_one_plain_line_a_row() -> None:
    lines = shown(*table.inspection_tables(inspection())).splitlines()
    row = next(line for line in lines if LONG in line)
    assert "1,234,567" in row
    assert "\x1b" not in "".join(lines)
    assert lines[0].strip()
    assert all(line == line.rstrip() for line in lines)


def test_unlabelled_data_have_no_top1() -> None:
    text = shown(table.evaluation_table(Evaluation({"images": 8}, (measured("m.onnx", top1=None),))))
    assert "81.03" not in text


def test_equal_outputs_are_called_equal() -> None:
    same = measured("b.onnx", sqnr_db=math.inf)
    assert "equal" in shown(table.evaluation_table(Evaluation({"images": 8}, (measured("a.onnx"), same))))


def test_a_comparison_lists_layers_images_and_what_has_no_counterpart() -> None:
    rows = (
        LayerError("relu", "Relu", "relu_out", 31.26, 0.99951, 33.3, ("conv",)),
        LayerError("slice", "Slice", "s", 31.2, 0.9995, math.inf),
    )
    worst = (ImageError("cats/7.png", 9.87, 3, 5, 3), ImageError("12", 12.0, 1, 1, 1))
    comparison = Comparison("a", "b", 16, rows, ("x", "y"), 0.5, 20.04, ("z",), worst)
    lines = shown(*comparison_tables(comparison, None)).splitlines()

    def row(word: str) -> list[str]:
        return next(line for line in lines if word in line).split()

    assert row("conv") == ["conv", "Relu", "31.3", "dB", "33.3", "dB", "0.9995"]
    assert not any("slice" in line for line in lines)
    assert row("not listed") == ["are", "not", "listed:", "1"]
    assert row("cats") == ["cats/7.png", "9.9", "dB", "3", "5", "3"]
    assert row("agreement")[1:] == ["50.00", "%"]
    assert row("adds most")[2:] == ["33.3", "dB", "at", "conv"]
    assert row("without a counterpart")[-1] == "2"
    assert row("scaled, rotated or in another order")[-1] == "1"


def test_a_suggestion_is_a_command_or_a_reason() -> None:
    suggestion = Suggestion(("conv1",), {"fc": 8}, 2.345, (), 64)
    assert suggested_options(suggestion) == ("--exclude", "conv1", "--bits", "fc=8")
    text = shown(*suggestion_text(suggestion, "convert-onnx convert a.onnx", "or add --act OUT.onnx"))
    for words in (
        "With conv1, fc in float, the SQNR of the worst output rises by 2.3 dB (64 samples)",
        "convert-onnx convert a.onnx",
        "--act OUT.onnx",
    ):
        assert words in text
    none = shown(*suggestion_text(Suggestion(why="m.onnx has no quantized layer"), "convert", ""))
    assert none.split() == ["No", "suggestion:", "m.onnx", "has", "no", "quantized", "layer."]


def test_weights_are_grouped_by_bits() -> None:
    layers = [layer("a", db=30.0), layer("b", db=10.0), layer("c", db=20.0), layer("d", 32, 32, None, "asked for")]
    lines = shown(table.weights_table(layers, "outputs")).splitlines()
    quantized = next(line for line in lines if line.lstrip().startswith("4 bits"))
    assert quantized.split() == ["4", "bits", "4", "bits", "8", "bits", "channel", "3", "20.0", "dB", "10.0", "dB", "b"]
    assert any(line.lstrip().startswith("float32") and " 1 " in line for line in lines)


def pruned(name: str, share: float, pattern: str) -> LayerReport:
    counts = (0,) * BINS
    return dataclasses.replace(
        layer(name), weights=Distribution(-1.0, 1.0, counts, counts, share, 0.0), pattern=pattern
    )


def test_zeros_are_shown_where_a_layer_is_pruned() -> None:
    layers = [pruned("a", 0.5, "unstructured"), pruned("b", 0.1, ""), layer("d", 32, 32, None, "asked for")]
    lines = shown(table.weights_table(layers, "outputs")).splitlines()
    quantized = next(line for line in lines if line.lstrip().startswith("4 bits"))
    assert quantized.split()[:7] == ["4", "bits", "4", "bits", "30.00", "%", "8"]  # of equally large layers
    assert "zeros" in lines[0]
    assert "zeros" not in shown(table.weights_table(layers[1:], "outputs"))
    found = inspection()
    rows = (dataclasses.replace(found.layers[0], zeros=0.5123), found.layers[1])
    text = shown(*table.inspection_tables(dataclasses.replace(found, layers=rows)))
    assert "51.23 %" in text
    assert "zeros" in text
    assert "zeros" not in shown(*table.inspection_tables(found))


def test_zeros_of_a_comparison() -> None:
    rows = (
        LayerError("relu", "Relu", "relu_out", 31.26, 0.99951, 33.3, ("conv", "second")),
        LayerError("fc", "Gemm", "y", 31.2, 0.9995, 30.0, ("fc",)),
    )
    comparison = Comparison("a", "b", 16, rows, (), None, 20.0, zeros={"second": 0.5, "conv": 0.1})
    lines = shown(*comparison_tables(comparison, None)).splitlines()
    assert "zeros" in lines[0]
    assert "50.00 %" in next(line for line in lines if "second" in line)
    assert "%" not in next(line for line in lines if "fc" in line)
    plain = dataclasses.replace(comparison, zeros={})
    assert "zeros" not in shown(*comparison_tables(plain, None))


def test_multiples_of_block_scales_are_bits_on_disk() -> None:
    plain = layer("a")
    count = math.prod(plain.shape)
    blocked = [dataclasses.replace(plain, granularity="block 8", multiples=count // each) for each in (4, 8)]
    lines = shown(table.weights_table(blocked, "outputs")).splitlines()
    (row,) = (line for line in lines if line.lstrip().startswith("4 bits"))
    assert row.split()[:4] == ["4", "bits", "4.75", "bits"]  # the mean of 5 and 4.5 bits, over equally many weights


def test_layers_left_in_float_are_named_with_the_reason() -> None:
    left = table.float_layers_table([layer("a"), layer("d", 32, 32, None, "weights are not constant")])
    assert left is not None
    text = shown(left)
    assert "d" in text
    assert "weights are not constant" in text
    assert table.float_layers_table([layer("a")]) is None


class Terminal(io.StringIO):
    """A file that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [50, 60, 79])
def test_a_narrow_terminal_gets_lists(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    table.show(table.inspection_tables(inspection()), file)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    for cell in ("weights 4 bits", "bytes 1,234,567", "storage int4 cast", "fused yes", "not fused because"):
        assert cell in words
    assert all(len(line.strip()) != 1 for line in lines), "no column of single letters"


@pytest.mark.parametrize("width", [80, 90, 120])
def test_no_word_of_a_table_is_cut_in_two(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    table.show([targets_table(TARGETS)], file)
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert max(map(len, text.splitlines())) <= width
    for target in TARGETS.values():
        for word in (*target.runtime.split(), *target.description.split()):
            assert word in text


def test_the_table_of_targets_says_where_the_sources_are() -> None:
    assert "convert-onnx targets NAME prints all facts about a target with their sources" in shown(
        targets_table(TARGETS)
    )


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_every_fact_of_a_target_is_shown_with_its_source(target: Target) -> None:
    text = shown(facts_table(target), width=600)
    for fact, source in target.sources.items():
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [fact])
        assert source in line
    assert ("none: only its rules are checked" in text) == (target.provider is None)
    assert " any " not in text


def test_processors_and_providers_that_one_target_covers() -> None:
    cpu, mobile = (shown(facts_table(find_target(name)), width=400) for name in ("cpu", "mobile"))
    assert "x86 without VNNI adds two of them in 16 bits, which 8-bit weights can saturate" in cpu
    assert "Arm has kernels for dot product (udot)" in cpu
    assert "XNNPACK reads int8 with int8 weights, or uint8 with uint8 weights per tensor" in mobile


def test_piped_output_is_no_wider_than_its_words_need() -> None:
    text = shown(table.recipes_table(RECIPES), targets_table(TARGETS))
    assert max(map(len, text.splitlines())) <= 120
    for recipe in RECIPES.values():
        assert all(word in text for word in (*recipe.description.split(), *(step.name for step in recipe.passes)))
    address = "https://example.org/" + 120 * "a"
    long = table.plain_table("", ["fact", "source"])
    long.add_row("some words of a fact", address)
    assert address in shown(long)


def test_a_command_is_printed_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command can be copied, because only the terminal wraps it."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    command = "convert-onnx convert float.onnx -o OUT.onnx" + "".join(f" --bits layer{i}=8" for i in range(9))
    file = Terminal()
    table.show(suggestion_text(Suggestion((), {"layer1": 8}, 1.0, (), 64), command, ""), file)
    assert command in re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


def test_a_narrow_table_stays_a_table_on_a_narrow_terminal() -> None:
    rows = Table("a", "b")
    rows.add_row("1", "2")
    assert table.fitted(rows, Console(width=60)) is rows
    assert table.fitted("text", Console(width=60)) == "text"


@pytest.mark.parametrize("value", [math.nan, -math.inf, None])
def test_an_unknown_number_is_a_dash(value: float | None) -> None:
    text = shown(table.evaluation_table(Evaluation({"images": 8}, (measured("a"), measured("b", sqnr_db=value)))))
    row = next(line for line in text.splitlines() if line.lstrip().startswith("b "))
    assert row.split()[-5:] == ["–", "1,234", "ms", "2.88x", "faster"]
    lines = shown(table.weights_table([layer("a", db=value)], "outputs"))
    assert "nan" not in lines
    assert "inf" not in lines
    floats = shown(table.weights_table([layer("d", 32, 32, None, "asked for")], "outputs")).splitlines()
    row = next(line for line in floats if "float32" in line)
    assert row.split() == ["float32", "32", "bits", "float32", "–", "1", "–", "–", "–"]


@pytest.mark.parametrize(("recipe", "words"), [("int8", "layer's weights"), ("int4", "layer's outputs")])
def test_the_caption_says_what_the_errors_are_of(recipe: str, words: str) -> None:
    result = convert(small_cnn(), images(32), recipe=recipe)
    assert words in shown(*table.conversion_tables(result, 2, 1))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (46_812_345, "46.8 MB")],
)
def test_sizes(count: int, text: str) -> None:
    assert numbers.size(count) == text


def test_no_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress("calibrating", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_bit_width_has_one_row_unless_the_table_is_verbose() -> None:
    plain = layer("a")
    layers = [
        plain,
        dataclasses.replace(plain, name="b", granularity="block 12", multiples=18),
        dataclasses.replace(plain, name="c", granularity="block 3", multiples=72),
        dataclasses.replace(plain, name="d", stored_bits=8),
    ]
    brief = shown(table.weights_table(layers, "outputs"))
    (row,) = (line for line in brief.splitlines() if line.lstrip().startswith("4 bits"))
    assert "channel, block 3 to 12" in row
    assert " in int8" not in row
    full = shown(table.weights_table(layers, "outputs", verbose=True))
    rows = [line for line in full.splitlines() if line.lstrip().startswith("4 bits")]
    assert len(rows) == 4
    assert rows.index(next(line for line in rows if "block 3" in line)) < rows.index(
        next(line for line in rows if "block 12" in line)
    )
    assert any("in int8" in line for line in rows)


def test_quiet_comparisons_show_the_worst_layers() -> None:
    rows = tuple(LayerError(f"conv{i}", "Conv", f"t{i}", 30.0, 0.99, 20.0 + i % 20, (f"conv{i}",)) for i in range(40))
    comparison = Comparison("a", "b", 16, rows, ("x", "y"), 0.5, 20.04, (), ())
    text = shown(*comparison_tables(comparison, None, most=10))
    assert "conv0" in text
    assert "conv19" not in text
    assert "those that add less" in text
