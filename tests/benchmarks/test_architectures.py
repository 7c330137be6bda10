"""Small versions of users' networks convert, stay near float, and have no unnecessary float operators."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import architectures
from benchmarks.architectures import ARCHITECTURES, LEAST_DB, Row, rows
from benchmarks.deployment import runtime_operators
from benchmarks.random_resnet import random_images, random_network
from converter import convert
from converter.recipes.builtin import RECIPES
from converter.runtime.session import open_session
from passes.errors import QuantizationError
from passes.numerics.error import sqnr_db

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

SIZE = 32
LARGER = {"mobilenet_v3": 64}  # gives its last feature maps more than four pixels
SMALL = {
    "mobilenet_v3": "mobilenet_v3.py:mobilenet_v3_small(num_classes=10, blocks=4)",
    "convnext": "convnext.py:convnext_atto(num_classes=10, width=16, depth=1)",
    "vit": "vit.py:vit_tiny(num_classes=10, image=32, patch=8, depth=2)",
    "densenet": "densenet.py:densenet121(num_classes=10, depths=(2, 3))",
    "googlenet": "googlenet.py:googlenet(num_classes=10, modules=2)",
    "unet": "unet.py:unet(width=8, depth=2)",
    "detector": "detector.py:detector_nano(classes=4, width=4)",
    "shufflenet": "shufflenet.py:shufflenet_v2(num_classes=10, repeats=(2, 1, 1))",
    "regnet": "regnet.py:regnet_x_400mf(num_classes=10, depths=(1, 1, 1, 1))",
}
MOVING = {"Transpose", "Reshape", "Flatten", "Split", "Squeeze", "Unsqueeze", "Slice", "NhwcMaxPool", "Resize"}
FLOATS = {
    "convnext": {"LayerNormalization", "Gelu", "BiasGelu", "Add", "Mul", "GlobalAveragePool"},
    "vit": {
        *("LayerNormalization", "SkipLayerNormalization", "Gelu", "BiasGelu", "Add", "Softmax", "FusedMatMul", "MatMul")
    },
    "unet": {"Conv", "Concat", "MaxPool", "Max", "ReorderInput", "ReorderOutput"},  # at 32 pixels, four layers in float
    # its distances are expected values of a softmax, by a convolution in float
    "detector": {"Add", "Sub", "Mul", "Div", "Concat", "Sigmoid", "Softmax", "Conv", "ReorderInput", "ReorderOutput"},
}
"""Operators that onnxruntime computes in float. All others of these networks run on integers."""


def size(name: str) -> int:
    return LARGER.get(name, SIZE)


@cache
def network(name: str) -> onnx.ModelProto:
    return random_network(SMALL[name], size(name), shift=1.0)


@cache
def converted(name: str, recipe: str = "int8") -> onnx.ModelProto:
    return convert(network(name), random_images(8, size(name)), recipe=recipe).model


def outputs(name: str, recipe: str = "int8") -> list[np.ndarray]:
    """Return the outputs of the float network and of the converted one, on images that did not calibrate."""
    images = random_images(4, size(name), seed=5)
    return [open_session(file).run(None, {"input": images})[0] for file in (network(name), converted(name, recipe))]


@pytest.mark.parametrize("name", SMALL)
def test_int8_is_near_float_and_has_no_unnecessary_floats(name: str, tmp_path: Path) -> None:
    """It meets the bar of whole networks."""
    assert sqnr_db(*outputs(name)) >= LEAST_DB
    onnx.save(converted(name), tmp_path / "int8.onnx")
    operators = Counter(runtime_operators(tmp_path / "int8.onnx"))
    shapes = {"Shape", "Gather", "Concat", "Expand", "Range"} if name in {"convnext", "vit"} else set()
    rest = {op for op in operators if not op.startswith(("QLinear", "QGemm", "MatMulInteger"))}
    assert rest - MOVING - shapes - {"QuantizeLinear", "DequantizeLinear"} <= FLOATS.get(name, set())
    if name not in FLOATS:
        assert operators["QuantizeLinear"] == 1


@pytest.mark.parametrize(
    "recipe",
    [  # 16-bit activations are for other targets: tests/converter/pipeline/test_wide_activations.py
        name
        for name, recipe in RECIPES.items()
        if name not in {"int8", "int2-learned", "a16w8", "a16w4"} and not recipe.keeps
    ],
)
def test_converts_with_every_recipe(recipe: str) -> None:
    """4 bits cost about 24 dB against 8 bits. A wrong network has 0 dB."""
    assert sqnr_db(*outputs("unet", recipe)) >= 8


def test_boxes_and_scores_keep_their_own_scales() -> None:
    """Both are in one output, from 0 to 32 pixels and from 0 to 1. In one 8-bit grid, scores would have four values."""
    expected, quantized = outputs("detector")
    for part in (slice(0, 4), slice(4, None)):
        assert sqnr_db(expected[:, part], quantized[:, part]) >= 22
    assert len(np.unique(quantized[:, 4:])) > 100


def test_the_table_names_what_does_not_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Row("unet", "int8", 30.0, 4.0, 2.0, "", {}, {})
    slow = Row("vit", "int4", 20.0, 4.0, 0.5, "", {"Softmax": 12}, {"both operands are activations": 24})
    far = Row("regnet", "int8", 12.0, 4.0, 2.0, "", {}, {})
    named = Row("regnet", "int8", 12.0, 4.0, 2.0, "stem 11.0 dB", {}, {})
    assert [row.holds for row in (good, slow, far, named)] == [True, False, False, True]
    monkeypatch.setattr(architectures, "random_network", lambda *_, **__: None)
    monkeypatch.setattr(architectures, "rows", lambda *_: iter([good, slow]))
    assert architectures.main(["unet"]) == 1
    printed = capsys.readouterr().out
    assert "0.50x !" in printed
    assert "12 Softmax; 24 layers: both operands are activations" in printed
    assert "1 of 2 files hold, 0 networks refused" in printed


@pytest.mark.parametrize(
    ("recipe", "sqnr_db", "lowest", "holds"),
    [
        ("int8", 20.0, "", True),
        ("int8", 19.9, "", False),
        ("int8-gptq", 19.9, "", False),
        ("int8-gptq", 19.9, "stem 11.0 dB", True),
        ("int4", 5.0, "", True),
    ],
)
def test_w8a8_has_20_db_or_a_layer_that_is_named(recipe: str, sqnr_db: float, lowest: str, holds: bool) -> None:
    assert Row("unet", recipe, sqnr_db, 4.0, 2.0, lowest, {}, {}).holds is holds


def test_rows_below_the_bar_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named = Row("regnet", "int8-gptq", 12.0, 4.0, 2.0, "stem 11.0 dB", {}, {})
    monkeypatch.setattr(architectures, "random_network", lambda *_, **__: None)
    monkeypatch.setattr(architectures, "rows", lambda *_: iter([named]))
    assert architectures.main(["regnet"]) == 0
    assert capsys.readouterr().out.endswith(
        "1 of 1 files hold, 0 networks refused\nW8A8 below 20 dB: regnet int8-gptq (stem 11.0 dB)\n"
    )


def test_the_named_layer_introduces_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer behind it, which has the accumulated error, is not named."""
    from converter.comparison.compare import Comparison, LayerError

    stem, head = LayerError("stem", "Conv", "s", 14.0, 1.0, 14.0), LayerError("head", "Conv", "h", 12.0, 1.0, 30.0)
    for layers, lowest in (((stem, head), "stem 14.0 dB"), ((), "")):
        comparison = Comparison("float", "int8", 8, layers, (), None, 12.0)
        monkeypatch.setattr(architectures, "compare", lambda *_, value=comparison: value)
        monkeypatch.setattr(architectures, "LEAST_DB", 100.0)
        (row,) = rows("unet", network("unet"), ["int8"], SIZE)
        assert (row.lowest, row.is_low) == (lowest, True)


def test_the_page_has_the_table_and_the_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("unet", "int8", 30.0, 4.0, 2.0, "", {"Softmax": 2}, {"a | b": 3})

    def measured(name: str, *_: object) -> list[Row]:
        if name == "vit":
            raise QuantizationError("too deep")
        return [row]

    monkeypatch.setattr(architectures, "random_network", lambda *_, **__: None)
    monkeypatch.setattr(architectures, "rows", measured)
    assert architectures.main(["unet", "vit", "--size", "64", "--markdown", str(tmp_path / "page.md")]) == 1
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "random weights, 64 pixels." in text
    assert "| network | recipe | SQNR | smaller | faster | stays float |\n|---|---|---|---|---|---|\n" in text
    assert "\n| unet | int8 | 30.0 dB | 4.0x | 2.00x | 2 Softmax; 3 layers: a \\| b |\n" in text
    assert text.endswith("\n1 of 1 files hold, 1 networks refused\n- vit: too deep\n")
    assert "vit: too deep" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        architectures.main(["--markdown", str(tmp_path / "none" / "page.md")])
    assert "page.md: folder" in capsys.readouterr().err


def test_a_row_is_measured() -> None:
    (row,) = rows("unet", network("unet"), ["int8"], SIZE)
    assert (row.network, row.recipe, dict(row.left)) == ("unet", "int8", {})
    assert row.sqnr_db >= LEAST_DB
    assert row.smaller > 2  # nodes are half of such a small network
    assert row.speedup > 0


def test_an_unknown_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        architectures.main(["resnet19"])
    assert f"there is no 'resnet19'; there are: {', '.join(ARCHITECTURES)}" in capsys.readouterr().err
