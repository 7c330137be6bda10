"""Evaluation and comparison of models with figures that are computed by hand, and every refusal."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from converter.comparison.compare import compare
from converter.data.dataset import Batch, Dataset, load_data
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from converter.evaluation.evaluate import Measurement, evaluate
from converter.model_io.structure import model_bytes
from converter.runtime.latency import Latencies, latencies
from converter.runtime.runner import Runner
from passes.errors import DataError, ModelError
from passes.numerics.error import sqnr_db

helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = np.dtype(np.float32)
SPEC = (InputSpec("x", (None, 4), FLOAT),)
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(21, 4)).astype(np.float32)
WEIGHT = np.eye(4, dtype=np.float32)
SWAPPED = WEIGHT[[1, 0, 2, 3]]


def build(nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: list[Any], output: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    graph.output[0].type.tensor_type.elem_type = 1
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def linear(weight: NDArray[Any], batch: Any = "n", name: Any = "x") -> onnx.ModelProto:
    """A model that computes scores = x @ weight."""
    model = build([helper.make_node("MatMul", [name, "w"], ["scores"])], {"w": weight}, [batch, len(weight)], "scores")
    model.graph.input[0].name = name
    return model


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(model: onnx.ModelProto, name: str = "model.onnx") -> Path:
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


def data(labels: Any = None, rows: NDArray[Any] = ROWS, spec: tuple[InputSpec, ...] = SPEC) -> Dataset:
    return load_data(rows if labels is None else (rows, np.asarray(labels)), spec, preprocess=Preprocess())


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_accuracy_agreement_and_sqnr_match_numpy(save: Save) -> None:
    first, second = save(linear(WEIGHT), "a.onnx"), save(linear(SWAPPED), "b.onnx")
    labels = ROWS.argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    swapped = ROWS @ SWAPPED
    one, two = evaluate([first, second], data(labels), latency=False).models
    assert (one.model, one.images, one.bytes) == (str(first), 21, first.stat().st_size)
    assert one.top1 == 18 / 21
    assert (one.agreement, one.sqnr_db) == (1.0, None)
    assert two.top1 == np.mean(swapped.argmax(1) == labels)
    assert two.agreement == np.mean(swapped.argmax(1) == ROWS.argmax(1))
    assert two.sqnr_db == pytest.approx(sqnr_db(ROWS, swapped), abs=1e-9)
    assert two.agreement not in (None, 0, 1), "the swap has to make a difference"


def test_standard_error_of_accuracy_is_binomial() -> None:
    fields = {"bytes": 1, "agreement": None, "sqnr_db": None, "latency_ms": None, "speedup": None}
    assert Measurement("m", images=5000, top1=0.81, **fields).top1_error == pytest.approx(0.00555, abs=1e-5)  # type: ignore[arg-type]
    assert Measurement("m", images=5000, top1=None, **fields).top1_error is None  # type: ignore[arg-type]


def test_json_has_the_keys_of_the_contract_and_no_infinity(save: Save) -> None:
    path = save(linear(WEIGHT))
    evaluation = evaluate([path, path], data())
    assert evaluation.models[1].sqnr_db == math.inf
    facts = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert list(facts) == ["data", "latency", "metric", "models"]
    quartiles = facts["latency"].pop("speedup_quartiles")
    assert facts["latency"] == {"batch": 1, "threads": 1}
    assert quartiles[0] == [1, 1]
    assert 0 < quartiles[1][0] <= quartiles[1][1]
    assert facts["data"]["images"] == 21
    keys = ["model", "bytes", "images", "top1", "agreement", "sqnr_db", "latency_ms", "speedup", "outputs", "metric"]
    assert [list(model) for model in facts["models"]] == [keys, keys]
    assert [model["top1"] for model in facts["models"]] == [None, None], "no labels"
    assert facts["models"][1]["sqnr_db"] is None
    assert facts["models"][0]["speedup"] == 1
    assert facts["models"][1]["latency_ms"] > 0


def test_without_latency_there_is_none(save: Save) -> None:
    (only,) = evaluate([save(linear(WEIGHT))], data(), latency=False).models
    assert (only.latency_ms, only.speedup) == (None, None)


def test_fixed_batch_sizes_and_input_names_may_differ(save: Save) -> None:
    paths = [
        save(linear(WEIGHT, batch, name), f"{batch}{name}.onnx") for batch, name in [("n", "x"), (1, "x"), (4, "i")]
    ]
    labels = ROWS.argmax(1)
    for spec in (SPEC, (InputSpec("x", (8, 4), FLOAT),)):
        for model in evaluate(paths, data(labels, spec=spec)).models:
            assert (model.top1, model.agreement, model.images) == (1.0, 1.0, 21)


def test_float16_model_is_measured_against_its_float_original(save: Save) -> None:
    half = linear(WEIGHT.astype(np.float16))
    half.graph.input[0].type.tensor_type.elem_type = half.graph.output[0].type.tensor_type.elem_type = 10
    paths = [save(linear(WEIGHT), "a.onnx"), save(half, "b.onnx")]
    sqnr = evaluate(paths, data(), latency=False).models[1].sqnr_db
    assert sqnr == pytest.approx(sqnr_db(ROWS, ROWS.astype(np.float16)), abs=1e-6)


def test_a_model_that_is_no_classifier_has_sqnr_only(save: Save) -> None:
    spec = (InputSpec("x", (None, 2, 3, 3), FLOAT),)
    rows = RNG.normal(size=(5, 2, 3, 3)).astype(np.float32)
    paths = [
        save(
            build([helper.make_node("Mul", ["x", "w"], ["y"])], {"w": np.float32(w)}, ["n", 2, 3, 3], "y"), f"{w}.onnx"
        )
        for w in (1.0, 1.5)
    ]
    _, second = evaluate(paths, data(np.zeros(5, int), rows, spec), latency=False).models
    assert (second.top1, second.agreement) == (None, None)
    assert second.sqnr_db == pytest.approx(20 * math.log10(2), abs=1e-6)


def test_progress_counts_images_up_to_all(save: Save) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate([save(linear(WEIGHT))], data(), latency=False, progress=lambda *step: seen.append(step))
    assert seen == [("evaluating", 16, 21), ("evaluating", 21, 21)]


def test_label_out_of_range_is_named(save: Save) -> None:
    labels = np.zeros(21, int)
    labels[17] = 4
    with pytest.raises(
        DataError, match=r"label 4 of sample 17 is out of range: .*model\.onnx has 4 classes \(0\.\.3\)"
    ):
        evaluate([save(linear(WEIGHT))], data(labels), latency=False)


def test_models_of_other_outputs_are_refused(save: Save) -> None:
    paths = [save(linear(WEIGHT), "a.onnx"), save(linear(WEIGHT[:, :3]), "b.onnx")]
    with pytest.raises(ModelError, match=r"b\.onnx: first output is \[16, 3\], .*a\.onnx gives \[16, 4\]"):
        evaluate(paths, data(), latency=False)


def test_models_of_other_inputs_are_refused(save: Save) -> None:
    path = save(linear(np.eye(5, dtype=np.float32)))
    with pytest.raises(ModelError, match=r"takes 'x' float32 \[\?, 5\], the data are float32 \[1, 4\]; compare models"):
        evaluate([path], data(), latency=False)


def test_missing_named_input_is_refused(save: Save) -> None:
    model = build([helper.make_node("Add", ["x", "z"], ["y"])], {}, ["n", 4], "y")
    model.graph.input.append(helper.make_tensor_value_info("z", 1, ["n", 4]))
    with pytest.raises(ModelError, match=r"takes 'z' float32 \[\?, 4\], the data feed x"):
        evaluate([save(model)], data(), latency=False)


def test_output_that_is_not_finite_is_refused(save: Save) -> None:
    rows = ROWS.copy()
    rows[18] = 0
    model = build([helper.make_node("Reciprocal", ["x"], ["y"])], {}, ["n", 4], "y")
    with pytest.raises(ModelError, match="output 'y' holds NaN or Inf for sample 18; check its weights"):
        evaluate([save(model)], data(rows=rows), latency=False)


def test_model_that_fails_when_it_runs_is_named(save: Save) -> None:
    model = build([helper.make_node("Reshape", ["x", "s"], ["y"])], {"s": np.array([3, 5])}, ["n", 4], "y")
    with pytest.raises(ModelError, match=r"model\.onnx: fails when it runs: "):
        evaluate([save(model)], data(), latency=False)


def test_missing_and_damaged_models_are_refused(tmp_path: Path, save: Save) -> None:
    with pytest.raises(ModelError, match="no models to evaluate"):
        evaluate([], data())
    for function in (lambda path: evaluate([path], data()), lambda path: Runner(path, str(path))):
        with pytest.raises(ModelError, match=r"gone\.onnx: no such (model )?file"):
            function(tmp_path / "gone.onnx")
    path = save(linear(WEIGHT))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"model\.onnx is truncated or damaged"):
        evaluate([path], data())
    with pytest.raises(ModelError, match=r"model\.onnx: onnxruntime cannot load the model"):
        Runner(path, str(path))


def test_size_counts_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weight = np.zeros((64, 64), np.float32)
    onnx.save(linear(weight), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert model_bytes(path) == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size > weight.nbytes
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"external data of w are missing: no file 'weights\.bin'"):
        model_bytes(path)


# --- latency ---------------------------------------------------------------------------------------------------------


def test_latencies_are_medians_per_image(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    def known(calls: Any, **_: Any) -> NDArray[np.float64]:
        for call in calls:
            call()
        return np.array([[0.001, 0.008], [0.002, 0.004], [0.009, 0.012]])

    monkeypatch.setattr("converter.runtime.latency.interleaved_times", known)
    paths = [save(linear(WEIGHT), "a.onnx"), save(linear(WEIGHT, batch=4), "b.onnx")]
    timed = latencies(paths, Batch({"x": ROWS[:1]}, None))
    assert list(timed.ms) == [2, 2]
    assert list(timed.quartiles[0]) == [1, 1]
    assert list(timed.quartiles[1]) == pytest.approx([1.25, 2.5])  # of 1 / 2, 2 / 1 and 9 / 3


def test_speedup_is_the_first_latency_over_this_one(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Latencies((6.0, 2.0), ((1.0, 1.0), (2.9, 3.2)))
    monkeypatch.setattr("converter.evaluation.evaluate.latencies", lambda *_, **__: timed)
    evaluation = evaluate([save(linear(WEIGHT))] * 2, data())
    assert [(model.latency_ms, model.speedup) for model in evaluation.models] == [(6, 1), (2, 3)]
    assert evaluation.to_json()["latency"]["speedup_quartiles"] == ((1.0, 1.0), (2.9, 3.2))


# --- compare ---------------------------------------------------------------------------------------------------------


def float_net() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["fc1_out"], name="fc1"),
        helper.make_node("Relu", ["fc1_out"], ["relu_out"], name="relu"),
        helper.make_node("MatMul", ["relu_out", "w2"], ["scores"], name="fc2"),
    ]
    return build(nodes, {"w1": WEIGHT * 2, "w2": WEIGHT}, ["n", 4], "scores")


def quantized_net(steps: dict[str, float], *, ending: str = "_dequantized") -> onnx.ModelProto:
    """The float net with QuantizeLinear and DequantizeLinear of the given steps, and without the tensor fc1_out."""

    def rounding(tensor: str) -> list[onnx.NodeProto]:
        scale, zero = f"{tensor}_scale", f"{tensor}_zero"
        return [
            helper.make_node(
                "QuantizeLinear", [tensor, scale, zero], [f"{tensor}_quantized"], name=f"{tensor}_quantize"
            ),
            helper.make_node(
                "DequantizeLinear", [f"{tensor}_quantized", scale, zero], [f"{tensor}{ending}"],
                name=f"{tensor}_dequantize",
            ),
        ]  # fmt: skip

    read = {name: f"{name}{ending}" if name in steps else name for name in ("x", "relu_out")}
    nodes = [*(rounding("x") if "x" in steps else [])]
    nodes.append(helper.make_node("MatMul", [read["x"], "w1"], ["fused"], name="fc1"))
    nodes.append(helper.make_node("Relu", ["fused"], ["relu_out"], name="relu"))
    nodes += rounding("relu_out") if "relu_out" in steps else []
    nodes.append(helper.make_node("MatMul", [read["relu_out"], "w2"], ["scores"], name="fc2"))
    constants: dict[str, Any] = {"w1": WEIGHT * 2, "w2": WEIGHT}
    for name, step in steps.items():
        constants |= {f"{name}_scale": np.float32(step), f"{name}_zero": np.int8(0)}
    return build(nodes, constants, ["n", 4], "scores")


def rounded(values: NDArray[Any], step: float) -> NDArray[np.float32]:
    return (np.round(values / np.float32(step)).clip(-128, 127) * np.float32(step)).astype(np.float32)


@pytest.mark.parametrize("ending", ["_dequantized", "_dequantized_1", "_DequantizeLinear_Output"])
def test_the_sqnr_of_every_shared_tensor_matches_numpy(ending: str, save: Save) -> None:
    """The names of the tensors in between do not matter."""
    steps = {"x": 0.1, "relu_out": 0.25}
    comparison = compare(float_net(), save(quantized_net(steps, ending=ending)), data())
    x = rounded(ROWS, 0.1)
    hidden = np.maximum(ROWS * 2, 0)
    last = rounded(np.maximum(x * 2, 0), 0.25)
    expected = [
        ("x", "Input", "x", sqnr_db(ROWS, x)),
        ("relu", "Relu", "relu_out", sqnr_db(hidden, last)),
        ("fc2", "MatMul", "scores", sqnr_db(hidden, last)),
    ]
    assert [(row.layer, row.op, row.tensor) for row in comparison.layers] == [row[:3] for row in expected]
    assert [row.sqnr_db for row in comparison.layers] == pytest.approx([row[3] for row in expected], abs=1e-4)
    assert comparison.unmatched == ("fc1_out",), "it is inside a fused operator"
    assert comparison.sqnr_db == pytest.approx(expected[-1][3], abs=1e-4)
    assert comparison.agreement == np.mean(last.argmax(1) == hidden.argmax(1))
    assert comparison.images == 21


def test_a_tensor_is_not_matched_by_the_ending_of_its_name(save: Save) -> None:
    """x is not rounded at all, but another tensor is called x_dequantized in both models."""
    models = [float_net(), quantized_net({"relu_out": 0.25})]
    for model in models:
        model.graph.node.append(helper.make_node("Neg", ["x"], ["x_dequantized"], name="neg"))
    comparison = compare(models[0], save(models[1]), data())
    values = {row.tensor: row.sqnr_db for row in comparison.layers}
    assert set(values) == {"x_dequantized", "relu_out", "scores"}
    assert values["x_dequantized"] == math.inf
    assert math.isfinite(values["relu_out"])


def test_end_to_end_figures_match_evaluate(save: Save) -> None:
    reference, model = save(float_net(), "a.onnx"), save(quantized_net({"x": 0.3, "relu_out": 0.5}), "b.onnx")
    comparison = compare(reference, model, data())
    measured = evaluate([reference, model], data(), latency=False).models[1]
    assert comparison.agreement == measured.agreement
    assert comparison.sqnr_db == pytest.approx(measured.sqnr_db, abs=1e-9)
    assert (comparison.reference, comparison.model) == (str(reference), str(model))


def test_model_against_itself_has_no_noise_anywhere(save: Save) -> None:
    comparison = compare(float_net(), save(float_net()), data())
    assert [row.layer for row in comparison.layers] == ["fc1", "relu", "fc2"]
    assert {row.sqnr_db for row in comparison.layers} == {comparison.sqnr_db} == {math.inf}
    facts = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert facts["layers"][0] == {
        "layer": "fc1",
        "op": "MatMul",
        "tensor": "fc1_out",
        "sqnr_db": None,
        "cosine": 1.0,
        "introduced_db": None,
        "layers": ["fc1"],
    }
    assert (facts["agreement"], facts["sqnr_db"], facts["unmatched"]) == (1.0, None, [])


def test_compare_leaves_the_reference_as_it_is(save: Save) -> None:
    reference = float_net()
    before = reference.SerializeToString()
    compare(reference, save(float_net()), data())
    assert reference.SerializeToString() == before


def test_compare_with_fixed_batches_of_different_sizes(save: Save) -> None:
    model = quantized_net({"x": 0.1})
    free = compare(float_net(), save(model), data())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    fixed = compare(float_net(), save(model), data())
    assert [row.sqnr_db for row in fixed.layers] == pytest.approx([row.sqnr_db for row in free.layers], abs=1e-4)
    assert fixed.agreement == free.agreement


def test_same_name_with_another_shape_is_unmatched(save: Save) -> None:
    other = float_net()
    other.graph.node[0].output[0] = other.graph.node[1].input[0] = "renamed"
    other.graph.node.append(helper.make_node("Transpose", ["renamed"], ["fc1_out"]))
    comparison = compare(float_net(), save(other), data())
    assert [row.layer for row in comparison.layers] == ["relu", "fc2"]
    assert comparison.unmatched == ("fc1_out",)


def test_compare_refuses_other_outputs_and_missing_files(tmp_path: Path, save: Save) -> None:
    with pytest.raises(ModelError, match=r"first output is \[4, 3\], reference gives \[4, 4\]"):
        compare(float_net(), save(linear(WEIGHT[:, :3])), data())
    with pytest.raises(ModelError, match=r"gone\.onnx: no such file"):
        compare(tmp_path / "gone.onnx", save(float_net()), data())
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x0anot a model")
    with pytest.raises(ModelError, match=r"bad\.onnx is truncated or damaged"):
        compare(float_net(), tmp_path / "bad.onnx", data())
