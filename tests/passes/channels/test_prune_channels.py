"""The pass that removes channels: which channels go, what it reports, and what it refuses."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter.calibration.statistics import calibrate
from converter.qdq.floats import float_model
from passes.channels.channel_groups import channel_groups, input_channels_of
from passes.channels.prune_channels import PruneChannels
from passes.errors import QuantizationError, UnknownLayerError
from passes.graph.check import check
from passes.ir.model import Model
from passes.report import require_complete
from passes.statistics import Stats
from tests.support.channel_paths import between, conv, parameters
from tests.support.graphs import array, node, run
from tests.support.integer_rules import RULES
from tests.support.networks import dataset, quiet


def network() -> Model:
    """Make conv1 (6 channels) -> Relu -> middle (8 channels) -> Relu -> conv2."""
    nodes = [
        node("Relu", ["h"], ["r"], name="relu"),
        conv("middle", "r", "m", pads=[1] * 4),
        node("Relu", ["m"], ["k"], name="second"),
    ]
    return Model(gs.import_onnx(between(nodes, parameters("middle", 8, 6, 3, 3), last=8)), RULES)


def stats_of(model: Model, step: PruneChannels, count: int = 16) -> Stats:
    return calibrate(model, step.needs(model), dataset(model, array(count, 3, 8, 8)), quiet)


def step(**fields: Any) -> PruneChannels:
    return PruneChannels(**{"multiple": 1, "fewest": 1, **fields})


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    return run(float_model(model.graph), x)[0]


def test_no_branch_gets_fewer_channels_than_are_to_stay() -> None:
    """The last layer hardly reads the second branch, so its channels are the cheapest. Others go in their place."""
    nodes = [
        conv("left", "h", "a", pads=[1] * 4),
        conv("right", "h", "b", pads=[1] * 4),
        node("Concat", ["a", "b"], ["k"], name="join", axis=1),
    ]
    constants = parameters("left", 8, 6, 3, 3) | parameters("right", 8, 6, 3, 3)
    model = Model(gs.import_onnx(between(nodes, constants, last=16)), RULES)
    last = model.layers()["conv2"]
    weight = model.weight(last).copy()
    weight[..., 8:] *= 1e-3
    model.write(last, weight, model.bias(last))
    half = step(group_shares={"left": 0.5}, fewest=4, multiple=4)
    report = half.apply(model, stats_of(model, half))
    after = model.layers()
    assert {name: after[name].outputs for name in ("left", "right")} == {"left": 4, "right": 4}
    assert after["conv2"].inputs == 8
    assert "left: 16 to 8 channels" in report.notes


def test_shapes_shrink_and_every_layer_is_reported() -> None:
    model = network()
    half = step(share=0.5)
    report = half.apply(model, stats_of(model, half))
    check(model, "prune_channels")
    require_complete(report, "prune_channels", model.layers())
    assert {name: layer.weight_shape for name, layer in model.layers().items()} == {
        "conv1": (3, 3, 3, 3),
        "middle": (4, 3, 3, 3),
        "conv2": (4, 4, 1, 1),
    }
    assert report.changed["middle"].what == "inputs 6 to 3 channels, outputs 8 to 4 channels"
    assert report.notes[0].startswith("7 of 14 channels removed, ")
    assert "conv1: 6 to 3 channels" in report.notes
    assert report.changed["conv1"].before_db is None  # it reads the model's input
    assert outputs(model, array(2, 3, 8, 8, seed=5)).shape == (2, 4, 8, 8)


def test_what_is_left_makes_up() -> None:
    """The output error is below that of zeros, as measured and as reported."""
    x = array(32, 3, 8, 8, seed=7)
    errors = {}
    for make_up in (False, True):
        model = network()
        whole = outputs(model, x)
        each = step(group_shares={"conv1": 0.5}, make_up=make_up)
        report = each.apply(model, stats_of(model, each, 64))
        errors[make_up] = float(np.square(outputs(model, x) - whole).sum() / np.square(whole).sum())
        change = report.changed["middle"]
        assert change.before_db is not None
        assert change.after_db is not None
        assert (change.after_db > change.before_db + 0.5) == make_up
        assert "conv2" in report.skipped
    assert errors[True] < 0.85 * errors[False]


def test_channels_that_are_zero_go_first_and_nothing_changes() -> None:
    model = network()
    layers = model.layers()
    weight, bias = model.weight(layers["conv1"]), model.bias(layers["conv1"])
    assert bias is not None
    weight[:, [1, 4]], bias[:, [1, 4]] = 0, 0
    model.write(layers["conv1"], weight, bias)
    x = array(4, 3, 8, 8, seed=3)
    before = outputs(model, x)
    each = step(group_shares={"conv1": 1 / 3})
    each.apply(model, stats_of(model, each))
    assert model.layers()["conv1"].outputs == 4
    np.testing.assert_allclose(outputs(model, x), before, atol=2e-5 * np.abs(before).max())


def test_a_constant_channel_goes_into_the_bias() -> None:
    """A channel that is always 3 behind its Relu costs nothing. It is read without padding."""
    nodes = [node("Relu", ["h"], ["k"], name="relu")]
    model = Model(gs.import_onnx(between(nodes, {})), RULES)
    layers = model.layers()
    weight, bias = model.weight(layers["conv1"]), model.bias(layers["conv1"])
    assert bias is not None
    weight[:, 2], bias[:, 2] = 0, 3
    model.write(layers["conv1"], weight, bias)
    x = array(4, 3, 8, 8, seed=3)
    before = outputs(model, x)
    each = step(share=1 / 6)
    each.apply(model, stats_of(model, each))
    assert model.layers()["conv1"].outputs == 5
    np.testing.assert_allclose(outputs(model, x), before, atol=1e-4 * np.abs(before).max())


def test_numbers_of_channels_are_multiples_and_not_too_few() -> None:
    (group, *_) = channel_groups(network()).groups
    assert [step(multiple=4, fewest=1).kept(group, share) for share in (0.0, 0.2, 0.5, 0.9)] == [6, 4, 4, 4]
    assert step(fewest=5).kept(group, 0.9) == 5
    assert PruneChannels().kept(group, 0.9) == 6  # smaller than `fewest`


def test_without_data_the_graph_has_the_same_shapes() -> None:
    each = step(share=0.5)
    one, other = network(), network()
    each.apply(one, stats_of(one, each))
    each.apply_without_data(other)
    assert [layer.weight_shape for layer in one.layers().values()] == [
        layer.weight_shape for layer in other.layers().values()
    ]


def test_moments_are_requested_where_channels_go() -> None:
    model = network()
    assert step(share=0.5).needs(model).moments == {"middle", "conv2"}
    assert step(group_shares={"middle": 0.5}).needs(model).moments == {"conv2"}
    assert not step(share=0.0).needs(model)


def test_unread_inputs_have_no_weight_before_the_graph_shrinks() -> None:
    model = network()
    each = step(share=0.5)
    removal = each.choose(model, stats_of(model, each))
    gone = removal.inputs(model)["middle"]
    assert not model.weight(model.layers()["middle"])[np.broadcast_to(gone[:, None], (1, 8, 54))].any()
    layer = model.layers()["middle"]
    removed = np.isin(np.arange(6), removal.chosen["conv1"])
    np.testing.assert_array_equal(gone, input_channels_of(layer, removed))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 1.0}, "share must be at least 0 and below 1, not 1"),
        ({"share": -0.1}, "share must be at least 0 and below 1, not -0.1"),
        ({"group_shares": {"conv1": 1.5}}, "group_shares of conv1 must be at least 0 and below 1, not 1.5"),
        ({"of": "size"}, "of must be one of channels, macs, latency, auto, not 'size'"),
        ({"multiple": 0}, "multiple must be at least 1, not 0"),
        ({"fewest": 0}, "fewest must be at least 1, not 0"),
        ({"damping": 0.0}, "damping must be above 0 and at most 1, not 0"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneChannels(**fields)


def test_groups_that_cannot_shrink_are_refused() -> None:
    model = network()
    with pytest.raises(QuantizationError, match="the channels of conv2 have to stay: y is an output of the model"):
        step(group_shares={"conv2": 0.5}).requires(model)
    with pytest.raises(UnknownLayerError, match="group_shares: no layer is named 'conv9'"):
        step(group_shares={"conv9": 0.5}).requires(model)


def test_a_model_whose_channels_stay_is_reported() -> None:
    model = Model(gs.import_onnx(between([node("Softmax", ["h"], ["k"], name="op", axis=1)], {})), RULES)
    report = step().apply(model, Stats())
    assert report.notes == ("no channel can go",)
    assert report.skipped == {
        "conv1": "op (Softmax) does not pass a channel's scale on",
        "conv2": "y is an output of the model",
    }


def test_without_statistics_or_choice_it_is_refused() -> None:
    with pytest.raises(QuantizationError, match="middle: prune_channels needs calibration data"):
        step().apply(network(), Stats())
    with pytest.raises(QuantizationError, match="the shares of latency by group are not chosen"):
        step(of="latency").apply(network(), Stats())


def test_after_activation_grids_it_is_refused() -> None:
    model = network()
    model.activation_qparams["h"] = None  # type: ignore[assignment]
    with pytest.raises(QuantizationError, match="put prune_channels before activation_ranges"):
        step().apply(model, Stats())
