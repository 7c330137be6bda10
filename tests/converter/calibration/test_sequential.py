"""Sequential calibration: the moments that each layer is solved on, and the report."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter.calibration.sequential import solve_layers
from converter.calibration.statistics import calibrate
from converter.qdq.floats import float_model
from converter.qdq.writer import emit
from passes.base import LayerPass, Problem
from passes.errors import DataError, QuantizationError
from passes.numerics.asymmetric_target import projection
from passes.numerics.error import sqnr_db
from passes.report import PassReport
from passes.statistics import Needs
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import (
    chain,
    conv,
    dataset,
    images,
    network,
    prepared,
    quantize,
    quiet,
    random,
    resnet,
    run,
)
from tests.support.recorded_pass import NETWORKS, Recorded, X, solved


def with_outputs(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return proto


def tensors(
    proto: onnx.ModelProto, names: list[str], data: dict[str, Any], batch: int | None
) -> dict[str, NDArray[Any]]:
    """Tensors of a file for all the data, batch by batch if the batch size is fixed."""
    count = len(next(iter(data.values())))
    size = batch or count
    parts = []
    for start in range(0, count, size):
        feeds = {
            name: np.resize(values[start : start + size], (size, *values.shape[1:])) for name, values in data.items()
        }
        parts.append([values[: count - start] for values in run(with_outputs(proto, names), feeds)])
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)} | data


def assert_close(results: NDArray[Any], expected: NDArray[Any], scale: float) -> None:
    assert results.shape == expected.shape
    assert np.abs(results - expected).max() <= 1e-5 * scale


@pytest.mark.parametrize("ranges", [True, False], ids=["integer", "weight_only"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_sees_what_its_quantized_predecessors_produce(name: str, ranges: bool) -> None:
    """Moments of every layer equal those of the finished file's tensors, compared with the float network's."""
    proto, data = NETWORKS[name]
    layer_pass = Recorded(bits=3)
    model = quantize(proto, layer_pass, data, ranges=ranges)
    original = prepared(proto)
    layers = original.layers()
    assert list(layer_pass.problems) != []
    assert set(layer_pass.problems) == set(layers)
    batch = 8 if "fixed" in name else None
    graph_inputs, graph_outputs = set(data), {value.name for value in proto.graph.output}
    inputs = {layer.input for layer in layers.values()}
    deployed = {
        name: f"{name}_dequantized" for name in inputs if name in model.activation_qparams and name not in graph_outputs
    }
    quantized = tensors(
        emit(model),
        sorted(deployed.get(name, name) for name in inputs if name in deployed or name not in data),
        data,
        batch,
    )
    float_tensors = tensors(float_model(original.graph), sorted(inputs - graph_inputs), data, batch)
    layers_with_error = 0
    for layer in layers.values():
        moments = layer_pass.moments(layer.name)
        seen = layer.rows(quantized[deployed.get(layer.input, layer.input)]).astype(np.float64)  # [g, n, k]
        wanted = layer.rows(float_tensors[layer.input]).astype(np.float64)
        scale = 2 / seen.shape[1]
        size = float(np.abs(scale * seen.transpose(0, 2, 1) @ seen).max())
        assert moments.rows == seen.shape[1]
        assert moments.cross is not None
        assert_close(moments.hessian, scale * seen.transpose(0, 2, 1) @ seen, size)
        assert_close(moments.cross, scale * (wanted - seen).transpose(0, 2, 1) @ seen, size)
        assert_close(moments.mean, wanted.mean(1), float(np.abs(wanted).max()))
        assert_close(moments.mean_quantized, seen.mean(1), float(np.abs(seen).max()))
        layers_with_error += bool(np.abs(moments.cross).max() > 1e-4 * size)
    assert layers_with_error >= len(layers) - len(data), "the quantized stream is the float stream"


def test_the_residual_is_measured_for_the_convolution_before_an_add() -> None:
    """Only the convolution before the Add has a residual, and only in sequential calibration."""
    proto, data = NETWORKS["resnet"]
    layer_pass = Recorded(bits=3)
    model = quantize(proto, layer_pass, data, ranges=True)
    layer = model.layers()["block.conv2"]
    float_tensors = tensors(float_model(prepared(proto).graph), ["pooled"], data, None)["pooled"]
    quantized = tensors(emit(model), ["pooled_dequantized", "block1_relu_dequantized"], data, None)
    difference = layer.output_rows(float_tensors - quantized["pooled_dequantized"]).astype(np.float64)  # [g, n, o]
    seen = layer.rows(quantized["block1_relu_dequantized"]).astype(np.float64)
    results = layer_pass.moments("block.conv2")
    assert results.residual is not None
    assert results.mean_residual is not None
    expected = 2 / seen.shape[1] * difference.transpose(0, 2, 1) @ seen
    assert np.abs(expected).max() > 0
    assert_close(results.residual, expected, float(np.abs(expected).max()) * 10)
    assert_close(results.mean_residual, difference.mean(1), float(np.abs(float_tensors).max()))
    assert [name for name in layer_pass.problems if layer_pass.moments(name).residual is not None] == ["block.conv2"]
    independent = Recorded(bits=3, sequential=False)
    quantize(proto, independent, data, ranges=True)
    assert all(independent.moments(name).residual is None for name in independent.problems)


def test_a_broadcast_addend_gives_no_residual() -> None:
    constants: dict[str, NDArray[Any]] = {}
    nodes = [
        conv(constants, "stem", "x", "stem", (4, 3, 3, 3)),
        helper.make_node("GlobalAveragePool", ["stem"], ["average"], "average"),
        conv(constants, "last", "stem", "last", (4, 4, 3, 3)),
        helper.make_node("Add", ["last", "average"], ["y"], "add"),
    ]
    proto = network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 4, 12, 12]})
    layer_pass = Recorded(bits=3)
    quantize(proto, layer_pass, {"x": X}, ranges=True)
    assert all(layer_pass.moments(name).residual is None for name in ("stem", "last"))


@pytest.mark.parametrize("ranges", [True, False], ids=["integer", "weight_only"])
@pytest.mark.parametrize("name", NETWORKS)
def test_independent_calibration_equals_calibrate(name: str, ranges: bool) -> None:
    proto, data = NETWORKS[name]
    layer_pass = Recorded(bits=3, sequential=False)
    quantize(proto, layer_pass, data, ranges=ranges)
    model = prepared(proto)
    expected = calibrate(model, Needs(moments=frozenset(model.layers())), dataset(model, data), quiet).moments
    assert set(layer_pass.problems) == set(expected)
    for layer, moments in expected.items():
        results = layer_pass.moments(layer)
        assert results.cross is None
        assert results.rows == moments.rows
        assert_close(results.hessian, moments.hessian, float(np.abs(moments.hessian).max()))
        np.testing.assert_allclose(results.mean, results.mean_quantized)


def test_centred_hessians_are_exact_when_the_mean_is_large() -> None:
    """Centred Hessians equal those in float64. Sums about zero in float32 would have errors as large as the values."""
    x = images(20, 3, 8, 8) + np.float32(1000)
    problems: dict[str, Problem] = {}
    model = quantize(single_conv(), Recorded(bits=8, problems=problems), {"x": x})
    problem = problems["conv"]
    assert problem.moments is not None
    rows = model.layers()["conv"].rows(x).astype(np.float64)  # [1, n, k]
    rows -= rows.mean(axis=1, keepdims=True)
    expected = 2 / rows.shape[1] * rows.transpose(0, 2, 1) @ rows
    results = problem.moments.centered().hessian
    assert np.abs(results - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.linalg.eigvalsh(results.astype(np.float64)).min() > 0


def single_conv() -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    return network([node], {"w": random(4, 3, 3, 3)}, {"x": ["N", 3, 8, 8]}, {"y": ["N", 4, 6, 6]})


@pytest.mark.parametrize(("sequential", "kept"), [(True, True), (False, False)])
def test_halves_are_separate_only_in_sequential_calibration(sequential: bool, kept: bool) -> None:
    layer_pass = Recorded(bits=3, sequential=sequential)
    solved("resnet", layer_pass, ranges=True)
    assert {layer_pass.moments(name).halves is not None for name in layer_pass.problems} == {kept}


def test_weights_and_biases_are_those_of_the_float_network() -> None:
    layer_pass = Recorded(bits=3)
    solved("resnet", layer_pass, ranges=True)
    original = prepared(resnet())
    for name, problem in layer_pass.problems.items():
        np.testing.assert_array_equal(problem.weight, original.weight(problem.layer))
        expected = original.bias(original.layers()[name])
        assert problem.bias is not None
        assert expected is not None
        np.testing.assert_array_equal(problem.bias, expected)


def test_the_smallest_scale_leaves_room_for_the_bias() -> None:
    layer_pass = Recorded(bits=3)
    model = solved("resnet", layer_pass, ranges=True)
    for problem in layer_pass.problems.values():
        assert problem.min_scale is not None
        assert problem.bias is not None
        codes = np.abs(problem.bias) / (float(model.activation_qparams[problem.layer.input].scale) * problem.min_scale)
        assert codes.max() < 2**30
    weight_only = Recorded(bits=3)
    solved("resnet", weight_only, ranges=False)
    assert {problem.min_scale for problem in weight_only.problems.values()} == {None}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_reported_once(name: str) -> None:
    proto, data = NETWORKS[name]
    model = prepared(proto)
    first, *rest = model.layers()
    model.float_reasons[first] = "a test says so"
    seen: list[tuple[str, int, int]] = []
    report: PassReport = solve_layers(model, Gptq(bits=3), dataset(model, data), lambda *step: seen.append(step))
    assert set(report.changed) == set(rest) == set(model.quantized)
    assert report.skipped == {first: "a test says so"}
    assert seen == [("gptq", index + 1, len(rest)) for index in range(len(rest))]
    for change in report.changed.values():
        assert change.what.startswith("3 bits per channel")
        assert change.before_db is not None
        assert change.after_db is not None


def test_a_layer_left_in_float_passes_the_errors_on() -> None:
    """Both streams compute it. In the quantized stream it runs in float on quantized inputs."""
    model = prepared(resnet())
    model.float_reasons["block.conv1"] = "a test says so"
    layer_pass = Recorded(bits=3)
    solve_layers(model, layer_pass, dataset(model, {"x": X}), quiet)
    assert "block.conv1" not in layer_pass.problems
    cross = layer_pass.moments("block.conv2").cross
    assert cross is not None
    assert np.abs(cross).max() > 1e-3 * np.abs(layer_pass.moments("block.conv2").hessian).max()


def test_the_seed_draws_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.calibration.layer_inputs.positions_per_image", lambda *_: 5)
    results = []
    for seed in (1, 1, 2):
        model, layer_pass = prepared(resnet()), Recorded(bits=3)
        solve_layers(model, layer_pass, dataset(model, {"x": X}), quiet, seed=seed)
        results.append(layer_pass.moments("stem").hessian)
    assert np.array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2], rtol=1e-3)


def test_a_pass_without_moments_needs_no_data() -> None:
    model = prepared(resnet())
    report = solve_layers(model, Rtn(bits=4), None, quiet)
    assert set(report.changed) == set(model.layers())


def test_gptq_without_data_says_so() -> None:
    with pytest.raises(QuantizationError, match="stem: GPTQ needs calibration data; use `calibration=`"):
        solve_layers(prepared(resnet()), Gptq(bits=4), None, quiet)


@pytest.mark.parametrize(("bits", "block_size", "op"), [(4, 8, "Conv"), (4, 8, "ConvTranspose")])
def test_blocks_only_for_operators_that_can_store_them(bits: int, block_size: int, op: str) -> None:
    shape = (6, 4, 2, 2) if op == "Conv" else (4, 6, 2, 2)
    proto = network(
        [helper.make_node(op, ["x", "w"], ["y"], "layer")],
        {"w": random(*shape)},
        {"x": ["N", 4, 8, 8]},
        {"y": ["N", 6, "h", "w"]},
    )
    model = prepared(proto)
    report = solve_layers(model, Gptq(bits=bits, block_size=block_size), dataset(model, images(16, 4, 8, 8)), quiet)
    expected = {
        "Conv": (8, "4 bits blocks of 8"),
        "ConvTranspose": (None, "4 bits per channel, ConvTranspose is stored per channel"),
    }
    assert (model.quantized["layer"].grid.block_size, report.changed["layer"].what) == expected[op]


@pytest.mark.parametrize("sequential", [True, False])
def test_an_activation_that_is_not_a_number_is_named(sequential: bool) -> None:
    constants: dict[str, NDArray[Any]] = {"hundred": np.array(100, np.float32)}
    nodes = [
        conv(constants, "first", "x", "a", (4, 3, 3, 3)),
        helper.make_node("Mul", ["a", "hundred"], ["scaled"], "scale"),
        helper.make_node("Exp", ["scaled"], ["grown"], "grow"),
        conv(constants, "second", "grown", "y", (4, 4, 3, 3)),
    ]
    proto = network(nodes, constants, {"x": ["N", 3, 8, 8]}, {"y": ["N", 4, 8, 8]})
    with pytest.raises(DataError, match="tensor 'grown' holds Inf on the calibration data"):
        quantize(proto, Recorded(sequential=sequential), images(20, 3, 8, 8))


def test_sequential_beats_independent_on_the_network_s_output() -> None:
    """3 bits and ten layers. Both beat rounding to nearest."""
    proto, data = chain(10), images(64, 4, 12, 12)
    unseen = images(16, 4, 12, 12, seed=7)
    expected = run(proto, unseen)[0]

    def decibels(layer_pass: LayerPass) -> float:
        return sqnr_db(expected, run(emit(quantize(proto, layer_pass, {"t0": data})), unseen)[0])

    nearest, independent, sequential = (
        decibels(Rtn(bits=3)),
        decibels(Gptq(sequential=False, bits=3)),
        decibels(Gptq(bits=3)),
    )
    assert independent > nearest + 1
    assert sequential > independent + 0.5


class Projected(Recorded):
    """Reads no cross moments."""

    @property
    def reads_cross(self) -> bool:
        return False


def test_a_pass_that_reads_no_cross_moments_gets_errors_of_the_outputs() -> None:
    """They are what the asymmetric target makes of the cross moments."""
    crossed, projected = Recorded(bits=3), Projected(bits=3)
    for layer_pass in (crossed, projected):
        solved("resnet", layer_pass, ranges=True)
    without = [name for name in projected.problems if projected.moments(name).cross is None]
    assert {"block.conv1", "block.conv2"} <= set(without)
    for name in without:
        weight, found = projected.problems[name].weight, projected.moments(name)
        assert 2 * weight.shape[1] < weight.shape[2]
        expected = projection(weight, crossed.moments(name))
        assert_close(projection(weight, found), expected, float(np.abs(expected).max()) * 10)
