"""Calibration against numpy: statistics of the tensors that onnxruntime computes for all data at once."""

import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from converter.calibration.statistics import calibrate, check_finite, positions_per_image
from converter.qdq.floats import float_model
from passes.errors import DataError
from passes.ir.model import Model
from passes.statistics import Needs, Stats
from tests.support.networks import branches, conv, dataset, images, network, prepared, quiet, random, resnet, run

X = images(21, 3, 12, 12)  # 8 + 8 + 5 images
LAYERS = frozenset({"stem", "block.conv1", "block.conv2", "silu.conv", "depthwise", "last", "fc"})


def tensors(model: Model, names: list[str], data: Any) -> dict[str, NDArray[np.float32]]:
    """Tensors of the float graph for all of the data, from one run."""
    proto = float_model(model.graph)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, run(proto, data), strict=True))


def stats(model: Model, needs: Needs, data: Any = X) -> Stats:
    return calibrate(model, needs, dataset(model, data), quiet)


def test_histograms_hold_every_value() -> None:
    model, names = prepared(resnet()), ["stem_relu", "silu_in", "flat"]
    actual = stats(model, Needs(histograms=frozenset([*names, "x"])))
    expected = tensors(model, names, X) | {"x": X}
    assert set(actual.histograms) == set(expected)
    for name, values in expected.items():
        histogram = actual.histograms[name]
        assert histogram.count == values.size
        assert (histogram.min, histogram.max) == (values.min(), values.max())
        counts = np.histogram(values.astype(np.float64), histogram.edges)[0]
        # batches of 8 and of 21 may differ in the last bit, which moves a value to the next bin
        assert np.abs(counts - histogram.counts).sum() <= 4
        assert histogram.mean_abs == pytest.approx(np.abs(values).mean(), rel=1e-5)


def test_a_large_tensor_is_sampled_but_its_extremes_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.calibration.sampled_histogram._SAMPLES", 64)
    data = X.copy()
    data[20, 2, 11, 11], data[3, 0, 5, 6] = 77, -55
    histogram = stats(prepared(resnet()), Needs(histograms=frozenset({"x"})), data).histograms["x"]
    assert histogram.count < data.size / 4
    assert (histogram.min, histogram.max) == (-55, 77)
    assert histogram.mean_abs == pytest.approx(np.abs(data).mean(), rel=0.2)


def test_the_more_samples_the_fewer_values_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.calibration.sampled_histogram._VALUES", 200)
    monkeypatch.setattr("converter.calibration.sampled_histogram._FEWEST", 4)
    needs = Needs(histograms=frozenset({"x"}))
    few, many = (stats(prepared(resnet()), needs, np.tile(X, (n, 1, 1, 1))).histograms["x"] for n in (1, 3))
    assert many.count < 2 * few.count, "three times the samples do not give three times the values"
    assert (few.min, few.max) == (many.min, many.max) == (X.min(), X.max())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_samples_of_a_tensor_do_not_depend_on_the_batch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.calibration.sampled_histogram._SAMPLES", 64)
    needs = Needs(histograms=frozenset({"x"}))  # an input, so that its values are the same bit for bit
    expected = stats(prepared(resnet()), needs, X).histograms["x"]
    monkeypatch.setattr("converter.calibration.statistics.batch_size", lambda *_: size)
    actual = stats(prepared(resnet()), needs, X).histograms["x"]
    assert (actual.count, actual.zeros, actual.min, actual.max) == (
        expected.count, expected.zeros, expected.min, expected.max,
    )  # fmt: skip
    np.testing.assert_array_equal(actual.counts, expected.counts)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_moments_do_not_depend_on_the_batch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.calibration.statistics.positions_per_image", lambda *_: 5)  # of 144: drawn
    expected = stats(prepared(resnet()), Needs(moments=LAYERS)).moments
    monkeypatch.setattr("converter.calibration.statistics.batch_size", lambda *_: size)
    actual = stats(prepared(resnet()), Needs(moments=LAYERS)).moments
    for name, moments in actual.items():
        assert moments.rows == expected[name].rows
        scale = np.abs(expected[name].hessian).max()  # of other positions it would differ by more than 1 %
        np.testing.assert_allclose(moments.hessian, expected[name].hessian, rtol=0, atol=1e-5 * scale)


def test_a_batch_is_as_large_as_the_memory_budget_allows() -> None:
    seen: list[int] = []
    done: list[int] = []
    model, data = prepared(resnet()), dataset(prepared(resnet()), X)
    needs = Needs(histograms=frozenset({"x", *(layer.input for layer in model.layers().values())}))
    for budget in (1 << 30, 1 << 18, 1):
        done.clear()
        calibrate(model, needs, data, lambda _, count, __: done.append(count), memory_budget=budget)
        seen.append(done[0])
    assert seen[0] == 8
    assert 1 < seen[1] < 8
    assert seen[2] == 1


def test_channel_statistics() -> None:
    model = prepared(resnet())
    actual = stats(model, Needs(channels=LAYERS))
    inputs = {name: layer.input for name, layer in model.layers().items()}
    expected = tensors(model, sorted({*inputs.values()} - {"x"}), X) | {"x": X}
    assert set(actual.channels) == LAYERS
    for name, channels in actual.channels.items():
        values = expected[inputs[name]]
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        assert channels.count == values.size // values.shape[1]
        np.testing.assert_allclose(channels.absmax, np.abs(values).max(axes), rtol=1e-6)
        np.testing.assert_allclose(channels.mean_abs, np.abs(values).mean(axes), rtol=1e-5)
        np.testing.assert_allclose(channels.mean, values.mean(axes), rtol=1e-4, atol=1e-6)


def test_channels_of_a_matmul_are_on_the_last_axis() -> None:
    proto = network(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "layer")],
        {"w": random(5, 4)},
        {"x": ["N", 3, 5]},
        {"y": ["N", 3, 4]},
    )
    data = images(10, 3, 5)
    actual = stats(prepared(proto), Needs(channels=frozenset({"layer"})), data).channels["layer"]
    np.testing.assert_allclose(actual.absmax, np.abs(data).max((0, 1)), rtol=1e-6)


def test_moments() -> None:
    model = prepared(resnet())
    actual = stats(model, Needs(moments=LAYERS))
    layers = model.layers()
    expected = tensors(model, sorted({layer.input for layer in layers.values()} - {"x"}), X) | {"x": X}
    assert set(actual.moments) == LAYERS
    for name, moments in actual.moments.items():
        rows = layers[name].rows(expected[layers[name].input]).astype(np.float64)  # [g, n, k]
        hessian = 2 / rows.shape[1] * rows.transpose(0, 2, 1) @ rows
        assert moments.rows == rows.shape[1]
        assert moments.cross is None
        np.testing.assert_allclose(moments.hessian, hessian, rtol=0, atol=1e-5 * np.abs(hessian).max())
        np.testing.assert_allclose(moments.mean, rows.mean(1), rtol=0, atol=1e-5 * np.abs(rows).max())
        np.testing.assert_array_equal(moments.mean_quantized, moments.mean)


def test_the_seed_draws_the_positions() -> None:
    model, data = prepared(resnet()), images(300, 3, 12, 12)
    wanted = Needs(moments=frozenset({"stem"}))
    first, repeated, other = (
        calibrate(model, wanted, dataset(model, {"x": data}), quiet, seed=seed).moments["stem"].hessian
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, other)


def test_moments_of_many_images_are_sampled() -> None:
    model, data = prepared(resnet()), images(300, 3, 12, 12)
    actual = stats(model, Needs(moments=frozenset({"stem"})), data).moments["stem"]
    assert actual.rows == 300 * positions_per_image(27, 300) < 300 * 144
    rows = model.layers()["stem"].rows(data).astype(np.float64)
    hessian = 2 / rows.shape[1] * rows.transpose(0, 2, 1) @ rows
    # n rows give a mean square to within sqrt(2 / n), the mean of 27 of them is closer
    bound = np.sqrt(2 / actual.rows)
    assert actual.diagonal.mean() == pytest.approx(np.einsum("gkk->gk", hessian).mean(), rel=bound)
    assert np.abs(actual.hessian - hessian).max() > 0


@pytest.mark.parametrize("k", [1, 27, 576, 4608])
@pytest.mark.parametrize("count", [1, 7, 512, 100_000])
def test_positions_give_rows_enough_for_a_hessian(k: int, count: int) -> None:
    positions = positions_per_image(k, count)
    assert positions >= 1
    assert positions * count >= 8 * k
    assert (positions - 1) * count < 1 << 17, "more rows than anyone needs"


def test_all_kinds_of_statistics_take_one_pass_over_the_data() -> None:
    model = prepared(branches())
    data = {"a": images(10, 3, 8, 8), "b": images(10, 4)}
    seen: list[tuple[str, int, int]] = []
    needs = Needs(frozenset({"relu", "b"}), frozenset({"left", "right", "side"}), frozenset({"stem", "fc"}))
    actual = calibrate(model, needs, dataset(model, data), lambda *step: seen.append(step))
    assert seen == [("calibrating", 8, 10), ("calibrating", 10, 10)]
    assert (set(actual.histograms), set(actual.channels), set(actual.moments)) == (
        {"relu", "b"},
        {"left", "right", "side"},
        {"stem", "fc"},
    )
    np.testing.assert_array_equal(actual.channels["left"].absmax, actual.channels["right"].absmax)
    np.testing.assert_allclose(actual.channels["side"].absmax, np.abs(data["b"]).max(0))


def needed(what: str, name: str) -> Needs:
    """One statistic of one tensor or layer."""
    wanted: dict[str, Any] = {what: frozenset({(name, 1) if what == "tensors" else name})}
    return Needs(**wanted)


@pytest.mark.parametrize(("name", "axis"), [("sum", 1), ("flat", 1), ("x", 3)])
def test_channel_statistics_of_any_tensor_along_any_axis(name: str, axis: int) -> None:
    model = prepared(resnet())
    actual = stats(model, Needs(tensors=frozenset({(name, axis)}))).tensors[name]
    values = X if name == "x" else tensors(model, [name], X)[name]
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    np.testing.assert_array_equal(actual.absmax, np.abs(rows).max(axis=0))
    np.testing.assert_allclose(actual.mean_square, np.square(rows, dtype=np.float64).mean(axis=0), rtol=1e-4)
    assert actual.count == len(rows)


@pytest.mark.parametrize("what", ["histograms", "channels", "moments", "tensors"])
def test_rows_that_fill_up_a_fixed_batch_do_not_count(what: str) -> None:
    wanted = {"histograms": "stem_relu", "channels": "block.conv1", "moments": "block.conv1"}.get(what, "stem_relu")
    needs = needed(what, wanted)
    data = images(6, 3, 12, 12)
    fixed, free = (getattr(stats(prepared(resnet(batch=size)), needs, data), what)[wanted] for size in (4, "N"))
    if what == "moments":
        assert fixed.rows == free.rows
        np.testing.assert_allclose(fixed.hessian, free.hessian, rtol=0, atol=1e-5 * np.abs(free.hessian).max())
    else:
        assert fixed.count == free.count
        assert fixed.mean_abs == pytest.approx(free.mean_abs, rel=1e-6)


def overflowing(result: str) -> onnx.ModelProto:
    """Two Convs with an Exp between them. For bright images it overflows to Inf, or to NaN by Inf - Inf."""
    constants: dict[str, NDArray[Any]] = {"hundred": np.array(100, np.float32)}
    nodes = [
        conv(constants, "first", "x", "a", (4, 3, 3, 3)),
        helper.make_node("Mul", ["a", "hundred"], ["scaled"], "scale"),
        helper.make_node("Exp", ["scaled"], ["grown"], "grow"),
        helper.make_node("Sub", ["grown", "grown"], ["difference"], "difference"),
        conv(constants, "second", result, "y", (4, 4, 3, 3)),
    ]
    return network(nodes, constants, {"x": ["N", 3, 8, 8]}, {"y": ["N", 4, 8, 8]})


@pytest.mark.parametrize("what", ["histograms", "channels", "moments", "tensors"])
@pytest.mark.parametrize(("tensor", "kind"), [("grown", "Inf"), ("difference", "NaN")])
def test_an_activation_that_is_not_a_number_is_named(what: str, tensor: str, kind: str) -> None:
    model = prepared(overflowing(tensor))
    needs = needed(what, tensor if what in {"histograms", "tensors"} else "second")
    with pytest.raises(DataError, match=f"tensor '{tensor}' holds {kind} on the calibration data; check"):
        stats(model, needs, images(10, 3, 8, 8))


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ([np.nan], "NaN"),
        ([np.inf], "Inf"),
        ([np.inf, -np.inf], "Inf"),
    ],
)
def test_check_finite_says_which(bad: list[float], kind: str) -> None:
    with pytest.raises(DataError, match=f"tensor 't' holds {kind}"):
        check_finite("t", np.array([1.0, *bad], np.float32))


@pytest.mark.parametrize("values", [np.array([], np.float32), np.array([3e38, 3e38], np.float32), np.array([1, 2])])
def test_check_finite_takes_what_is_finite(values: NDArray[Any]) -> None:
    check_finite("t", values)


def test_activations_are_not_stored() -> None:
    """After ten times as many images, no more memory is in use than the statistics take."""
    model = prepared(resnet())
    needs = Needs(histograms=frozenset({"stem_relu", "silu"}), moments=LAYERS)
    held = []
    for count in (8, 80):
        data = images(count, 3, 12, 12)
        tracemalloc.start()
        kept = stats(model, needs, data)
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert kept.moments
    activations = 72 * 8 * 144 * 4  # of one layer and the 72 images more
    assert held[1] - held[0] < activations / 4
