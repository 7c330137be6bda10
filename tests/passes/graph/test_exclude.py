"""Layers that the recipe leaves in float."""

import onnx_graphsurgeon as gs
import pytest

from passes.activations.activation_ranges import ActivationRanges
from passes.errors import QuantizationError, UnknownLayerError
from passes.graph.exclude import Exclude
from passes.ir.model import Model
from passes.numerics.histogram import Histogram
from passes.statistics import Stats
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES


def three_layers() -> Model:
    nodes = [
        node("Conv", ["x", "stem.w"], ["a"], name="stem"),
        node("Conv", ["a", "body.w"], ["b"], name="body"),
        node("Conv", ["b", "head.w"], ["y"], name="head"),
    ]
    weights = {f"{name}.w": array(4, 4, 1, 1) for name in ("stem", "body", "head")}
    return Model(gs.import_onnx(build(nodes, weights, (1, 4, 4, 4))), RULES)


def test_excluded_layers_stay_in_float_and_every_layer_is_reported_once() -> None:
    model = three_layers()
    report = Exclude(("head", "stem")).apply(model, Stats())
    assert model.float_reasons == dict.fromkeys(("head", "stem"), "excluded by the recipe")
    assert set(report.changed) == {"head", "stem"}
    assert report.skipped == {"body": "not excluded"}
    assert report.name == "exclude"


def test_layers_that_were_in_float_before_stay_in_float() -> None:
    model = three_layers()
    model.float_reasons["body"] = "another reason"
    report = Exclude(("stem",)).apply(model, Stats())
    assert model.float_reasons == {"body": "another reason", "stem": "excluded by the recipe"}
    assert set(report.changed) | set(report.skipped) == {"stem", "body", "head"}


def test_nothing_to_exclude() -> None:
    model = three_layers()
    assert set(Exclude().apply(model, Stats()).skipped) == {"stem", "body", "head"}
    assert model.float_reasons == {}


def test_an_excluded_layer_gets_no_activation_range() -> None:
    model = three_layers()
    Exclude(("stem", "body")).apply(model, Stats())
    histogram = Histogram()
    histogram.update(array(50))
    report = ActivationRanges().apply(model, Stats(dict.fromkeys("xaby", histogram)))
    assert set(model.activation_qparams) == {"b", "y"}
    assert report.skipped == dict.fromkeys(("stem", "body"), "excluded by the recipe")


def test_a_misspelt_layer_is_refused_with_the_nearest_name() -> None:
    model = three_layers()
    with pytest.raises(QuantizationError, match=r"exclude: no layer is named 'steem'; did you mean 'stem'\?"):
        Exclude(("steem",)).apply(model, Stats())


def test_an_unknown_layer_is_refused_with_all_names() -> None:
    model = three_layers()
    with pytest.raises(UnknownLayerError, match="no layer is named 'xyz'; the layers are stem, body, head"):
        Exclude(("xyz",)).apply(model, Stats())
