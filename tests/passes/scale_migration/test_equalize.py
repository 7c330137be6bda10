"""Cross-layer equalization: equal ranges on both sides of every channel, for pairs and around depthwise layers."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.numerics.grid import Floats
from passes.scale_migration.equalize import Equalize
from passes.scale_migration.rescale import rescale
from passes.scale_migration.scale_groups import scale_groups
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs, run
from tests.support.layers_with_statistics import depthwise_chain, perceptron
from tests.support.networks import prepared, resnet


def ranges(model: Model, name: str, axis: int) -> Floats:
    """Return max|W| of every output (axis 2) or input (axis 1) of a layer with one tap or one input."""
    return np.asarray(np.abs(model.weight(model.layers()[name])).max(axis=axis).reshape(-1))


def scrambled(model: Model, seed: int) -> Model:
    """Return the same network with every free scale changed by a random factor of e^-4 to e^4."""
    rng = np.random.default_rng(seed)
    for group in scale_groups(model).groups:
        rescale(model, group, np.exp(rng.uniform(-4, 4, group.size)))
    return model


def per_tensor(model: Model, bits: int = 8) -> None:
    """Round every weight with one scale for the whole tensor."""
    for layer in model.layers().values():
        weight = model.weight(layer)
        scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
        model.write(layer, np.rint(weight / scale) * scale, model.bias(layer))


def test_a_pair_gets_its_geometric_mean() -> None:
    model = perceptron()
    before = gs.export_onnx(model.graph)
    rows, columns = ranges(model, "first", 2), ranges(model, "second", 1)
    report = Equalize().apply(model, Stats())
    for actual in (ranges(model, "first", 2), ranges(model, "second", 1)):
        np.testing.assert_allclose(actual, np.sqrt(rows * columns), rtol=1e-3)
    assert set(report.changed) == {"first", "second"}
    assert_same_outputs(before, model.graph, array(20, 10), 1e-5)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_depthwise_triple_gets_its_cube_root(seed: int) -> None:
    """Nagel et al. 2019, appendix A: (r1 r2 r3)^(1/3) on all three sides."""
    model = scrambled(depthwise_chain(), seed)
    before = gs.export_onnx(model.graph)
    first, middle, last = ranges(model, "expand", 2), ranges(model, "deep", 2), ranges(model, "project", 1)
    Equalize().apply(model, Stats())
    for actual in (ranges(model, "expand", 2), ranges(model, "deep", 2), ranges(model, "project", 1)):
        np.testing.assert_allclose(actual, np.cbrt(first * middle * last), rtol=3e-3)  # iterations stop at 0.1 %
    assert_same_outputs(before, model.graph, array(2, 3, 6, 6), 2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_it_undoes_an_adversarial_rescaling_of_per_tensor_weights(seed: int) -> None:
    x = array(16, 3, 12, 12) + np.float32(0.5)
    reference = run(gs.export_onnx(prepared(resnet()).graph), x)[0]

    def decibels(model: Model, *, equalized: bool) -> float:
        if equalized:
            Equalize().apply(model, Stats())
        per_tensor(model)
        return sqnr_db(reference, run(gs.export_onnx(model.graph), x)[0])

    plain = decibels(prepared(resnet()), equalized=False)
    broken = decibels(scrambled(prepared(resnet()), seed), equalized=False)
    restored = decibels(scrambled(prepared(resnet()), seed), equalized=True)
    assert broken < plain - 20
    assert restored > plain - 1


def test_the_report_measures_the_weights_on_one_scale_per_tensor() -> None:
    model = scrambled(depthwise_chain(), 0)
    weight = model.weight(model.layers()["project"])
    report = Equalize(bits=4).apply(model, Stats())
    change = report.changed["project"]
    for actual, values in ((change.before_db, weight), (change.after_db, model.weight(model.layers()["project"]))):
        scale = np.abs(values).max() / 7
        assert actual == pytest.approx(sqnr_db(values, np.rint(values / scale) * scale), abs=1e-3)


def test_a_second_run_finds_nothing_to_do() -> None:
    model = depthwise_chain()
    Equalize().apply(model, Stats())
    report = Equalize().apply(model, Stats())
    assert report.changed == {}
    assert report.skipped == {
        "expand": "x is an input of the model",
        "deep": "its range is equal to the one before",
        "project": "its range is equal to the one before",
    }


def test_layers_in_float_are_not_part_of_a_pair() -> None:
    model = perceptron()
    model.float_reasons["first"] = "excluded by the recipe"
    report = Equalize().apply(model, Stats())
    assert report.skipped["second"] == "no layer before it to share its range with"
    assert report.skipped["first"] == "excluded by the recipe"
    assert not report.changed


@pytest.mark.parametrize(("fields", "message"), [({"iterations": 0}, "at least 1, not 0"), ({"bits": 1}, "not 1")])
def test_invalid_fields_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Equalize(**fields)
