"""The facts of a report match numbers that are computed independently, and they match the schema."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import converter.report
from converter import Recipe, convert, find_recipe
from converter.report.facts import VERSION, conversion_facts, report_facts
from converter.report.files import write_facts
from converter.runtime.session import open_session
from passes.activations.activation_ranges import ActivationRanges
from passes.numerics.distribution import BINS
from tests.support.models import images, small_cnn
from tests.support.reports import everything, facts_of, paths, within_bytes

SCHEMA: dict[str, Any] = json.loads(
    (Path(converter.report.__file__).parent / "report.schema.json").read_text(encoding="utf-8")
)
FREE = {
    "changed",
    "skipped",
    "grids",
    "axes",
    "versions",
    "layer_bits",
    "own_db",
    "output_db",
    "outputs",
}  # their keys are names


def valid(facts: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(json.dumps(facts, allow_nan=False))))


def check(facts: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(json.dumps(facts, allow_nan=False)), SCHEMA, jsonschema.Draft202012Validator)


def test_the_schema_is_a_valid_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == VERSION


@pytest.mark.parametrize(
    ("recipe", "target"),
    [
        ("int8", "cpu"),
        ("int8", "qnn"),
        ("int4", "cpu"),
        ("int4", "tensorrt"),
        ("int4", "openvino"),
        ("int4-weight-only", "cpu"),
        ("int4-matmulnbits", "cpu"),
    ],
)
def test_reports_match_the_schema(recipe: str, target: str) -> None:
    check(facts_of(recipe, target))


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return everything()


def test_a_report_with_every_section_matches_the_schema(facts: dict[str, Any]) -> None:
    check(facts)
    assert facts["metrics"] is not None
    assert {step["name"] for step in facts["passes"] if step["grids"]} == {"smoothquant", "awq"}
    assert [layer["name"] for layer in facts["layers"] if layer["reason"]] == ["deep"]
    assert facts["search"]["effects"]


def test_no_field_may_be_missing(facts: dict[str, Any]) -> None:
    required = [path for path in paths(facts) if not FREE.intersection(path[:-1])]
    required = [path for path in required if path[:2] != ("recipe", "passes") or path[-1] == "pass"]
    # entries of a list have the same fields: one of each kind is enough
    each = {tuple("*" if isinstance(key, int) else key for key in path): path for path in required}
    assert len(each) > 100
    for path in each.values():
        changed = copy.deepcopy(facts)
        holder: Any = changed
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        assert not valid(changed), f"without {path} it is still valid"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), VERSION + 1),
        (("more",), 1),
        (("seconds",), None),
        (("layers", 0, "bits"), 4.5),
        (("layers", 0, "weights", "before"), [1, 2]),
        (("layers", 0, "weights"), None),
        (("layers", 0, "reason"), "both quantized and left alone"),
        (("activations", 0, "clipped"), 1.5),
        (("calibration", "sha256"), "short"),
        (("metrics", "models"), []),
        (("search", "attempts"), []),
        (("search", "kept"), -1),
        (("search", "limits", "max_bytes"), 0),
        (("search", "attempts", 0, "layer_bits", "stem"), 1),
        (("search", "effects", 0, "own_db", "16"), 30.0),
        (("search", "effects", 0, "output_db"), None),
    ],
)
def test_wrong_values_are_refused(facts: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    changed = copy.deepcopy(facts)
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert not valid(changed)


def test_infinite_and_undefined_numbers_are_null() -> None:
    model = small_cnn()
    for tensor in model.graph.initializer:  # a layer without weights has no error: infinite SQNR
        if tensor.name == "fc.weight":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((5, 8), np.float32), tensor.name))
    facts = report_facts(convert(model, images(32), recipe="int8"), model="m", output="o", before=2, after=1)
    check(facts)
    assert facts["layers"][-1]["after_db"] is None


# ------------------------------------------------------------------- the numbers


def test_histograms_of_weights_match_both_files() -> None:
    model = small_cnn()
    result = convert(model, images(32), recipe="int8")  # nothing rescales or folds weights here
    float_weights, files = tensors(model), tensors(result.model)
    layer = conversion_facts(result)["layers"][0]
    histogram = layer["weights"]
    weight = float_weights["stem.weight"]
    codes, scale = (
        next(files[name] for name in files if name.startswith(f"stem.weight_{end}")) for end in ("int8", "scale")
    )
    written = codes * scale.reshape(-1, 1, 1, 1)
    edges = np.linspace(histogram["low"], histogram["high"], BINS + 1)
    assert histogram["high"] == pytest.approx(max(np.abs(weight).max(), np.abs(written).max()))
    assert histogram["before"] == np.histogram(weight, edges)[0].tolist()
    assert histogram["after"] == np.histogram(written, edges)[0].tolist()
    assert histogram["zeros"] == np.mean(codes == 0)
    assert histogram["clipped"] == np.mean(np.abs(weight / scale.reshape(-1, 1, 1, 1)) > 127.5)
    assert layer["bytes"] == codes.size + 4 * scale.size + scale.size  # codes, scales, zero points


def test_clipped_shares_match_the_activations() -> None:
    steps = find_recipe("int8").passes
    tight = Recipe(
        "tight",
        "",
        tuple(ActivationRanges("percentile", 95.0) if isinstance(s, ActivationRanges) else s for s in steps),
    )
    pixels = images(32)
    result = convert(small_cnn(), pixels, recipe=tight)
    rows = {row["tensor"]: row for row in conversion_facts(result)["activations"]}
    tapped = onnx.ModelProto()
    tapped.CopyFrom(result.reference)
    names = ("relu", "sum")
    tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    tensor = (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    values = open_session(tapped).run(list(names), {"input": tensor})
    for name, seen in zip(names, values, strict=True):
        row = rows[name]
        half = row["scale"] / 2
        outside = np.mean((seen < row["low"] - half) | (seen > row["high"] + half))
        assert outside > 0.02  # otherwise the test shows nothing
        width = (seen.max() - seen.min()) / 1024  # of a bin: the resolution of the histogram
        near = np.mean(np.abs(seen - row["high"] - half) < width) + np.mean(np.abs(seen - row["low"] + half) < width)
        assert row["clipped"] == pytest.approx(outside, abs=near + 1e-12)
        assert (row["seen_low"], row["seen_high"]) == pytest.approx((seen.min(), seen.max()), rel=1e-6)  # other batches


def test_a_clamp_absorbed_by_the_quantizer_clips_nothing() -> None:
    rows = {row["tensor"]: row for row in facts_of("int8")["activations"]}
    assert rows["relu"]["seen_low"] == rows["relu"]["low"] == 0.0


def test_every_pass_is_a_step(facts: dict[str, Any]) -> None:
    names = [step["name"] for step in facts["steps"]]
    passes = [step["name"] for step in facts["passes"]]
    assert names == ["open model", "open data", "check model", *passes, "emit", "try", "evaluate"]
    assert all(step["seconds"] >= 0 and step["peak_bytes"] > 0 for step in facts["steps"])


def test_searches_hold_a_loss_for_every_point(facts: dict[str, Any]) -> None:
    for step in facts["passes"]:
        for grid in step["grids"].values():
            assert np.shape(grid["losses"]) == tuple(map(len, grid["axes"].values()))


def test_a_search_reports_its_limits_and_the_kept_attempt() -> None:
    facts = within_bytes()
    check(facts)
    search = facts["search"]
    assert search["limits"] == {"max_drop": None, "max_bytes": 12_200, "max_latency": 1000.0}
    attempts = search["attempts"]
    assert [attempt["holds"] for attempt in attempts[:2]] == [False, False]
    kept = attempts[search["kept"]]
    assert kept["holds"]
    assert kept["bytes"] == facts["bytes"]["after"]
    assert kept["sqnr_db"] == max(attempt["sqnr_db"] for attempt in attempts if attempt["holds"])
    assert kept["layer_bits"] == {layer["name"]: layer["bits"] for layer in facts["layers"]}


def test_bits_that_are_keys_are_the_same_in_the_facts_and_in_the_file(tmp_path: Path) -> None:
    facts = within_bytes()
    for effect in facts["search"]["effects"]:
        assert list(effect["own_db"]) == ["2", "3", "4", "8"]
        assert list(effect["output_db"]) == ["3", "4"]
    write_facts(tmp_path / "r.json", facts)
    assert json.loads((tmp_path / "r.json").read_text()) == facts


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
